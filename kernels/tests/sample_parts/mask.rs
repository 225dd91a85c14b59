//! Masks: rows with and without, at the borders of words and tiles.

use super::*;

/// A mask of `n` tokens from three patterns of words.
fn pattern(n: usize, first: usize) -> Vec<u32> {
    (0..n.div_ceil(32)).map(|i| [0x8001_0F01, 0, u32::MAX][(i + first) % 3]).collect()
}

#[test]
fn masked_rows_choose_among_what_is_left() {
    common::for_policies(|device| {
        for n in [1, 31, 32, 33, 2047, 2048, 2100] {
            let logits: Vec<f32> = noise(n, 12).iter().map(|l| 3.0 * l).collect();
            let masked = |mask: Vec<u32>, case: Case| Case { mask: Some(mask), ..case };
            let drawing = with(|s| (s.temperature, s.top_p, s.n_logprobs) = (0.8, 0.9, 3));
            let mut short = pattern(n, 0);
            short.truncate(n.div_ceil(32).max(2) - 1);
            let cases = [
                masked(pattern(n, 0), Case::default()),
                drawing.clone(),
                masked(pattern(n, 2), drawing.clone()),
                masked(pattern(n, 0), penalised()),
                penalised(),
                masked(short, drawing.at(1)),
                masked(vec![u32::MAX; n.div_ceil(32) + 3], drawing.clone()),
            ];
            let tokens = check(device, &cases, &logits);
            assert_eq!(tokens[6], tokens[1], "a full mask changes nothing");
        }
    });
}

#[test]
fn an_empty_mask_leaves_no_token() {
    let device = common::device();
    let empty = |mask: &[u32]| Case { mask: Some(mask.to_vec()), ..Case::default() };
    let cases = [empty(&[]), Case::default(), empty(&[0; 4])];
    let outcomes = run(&device, &cases, &vec![noise(100, 13); 3]);
    let chosen: Vec<bool> = outcomes.iter().map(|outcome| outcome.chosen.is_some()).collect();
    assert_eq!(chosen, [false, true, false]);
}
