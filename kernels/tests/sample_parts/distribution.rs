//! Draws over many counters, settings that change nothing, and sizes.

use super::*;

/// top_k 0 or beyond the vocabulary, top_p 0 or 1, min_p 0, penalties 0 or 1 change nothing.
#[test]
fn neutral_settings_are_off() {
    let device = common::device();
    let logits = noise(300, 11);
    let mut neutral = with(|s| {
        (s.temperature, s.top_k, s.top_p, s.repetition_penalty) = (1.0, 301, 1.0, 1.0);
    });
    neutral.prompt = vec![1, 2, 3];
    let off = with(|s| s.temperature = 1.0);
    let both: Vec<Case> = (0..20).flat_map(|n| [neutral.at(n), off.at(n)]).collect();
    for pair in run(&device, &both, &vec![logits; 40]).chunks(2) {
        assert_eq!(pair[0], pair[1]);
    }
}

#[test]
fn draws_follow_the_distribution_of_every_setting() {
    let device = common::device();
    let mut penalised = with(|s| {
        (s.temperature, s.repetition_penalty, s.top_k) = (1.2, 1.5, 6);
        s.frequency_penalty = 0.3;
    });
    penalised.prompt = vec![0, 4];
    penalised.output = vec![4, 7, 7];
    let cases = [
        with(|s| s.temperature = 1.0),
        with(|s| s.temperature = 0.5),
        with(|s| (s.temperature, s.top_k) = (1.0, 3)),
        with(|s| (s.temperature, s.top_p) = (1.0, 0.7)),
        with(|s| (s.temperature, s.min_p) = (1.0, 0.3)),
        with(|s| (s.temperature, s.top_k, s.top_p, s.min_p) = (2.0, 9, 0.8, 0.2)),
        penalised,
    ];
    let mut logits: Vec<f32> = noise(12, 5).iter().map(|l| 2.0 * l).collect();
    logits[3] = f32::NEG_INFINITY;
    const DRAWS: u64 = 1260;
    for (number, case) in cases.iter().enumerate() {
        let adjusted = adjusted(case, &logits);
        let Ranked { order, weights, kept, .. } = ranked(&case.settings, &adjusted);
        let mass: f64 = order[..kept].iter().map(|&token| weights[token as usize]).sum();
        let mut counts = [0u64; 12];
        for first in (0..DRAWS).step_by(63) {
            let rows: Vec<Case> = (first..first + 63).map(|counter| case.at(counter)).collect();
            for outcome in run(&device, &rows, &vec![logits.clone(); 63]) {
                counts[outcome.chosen.unwrap().token as usize] += 1;
            }
        }
        let mut chi_squared = 0.0;
        for (rank, &token) in order.iter().enumerate() {
            let (count, p) = (counts[token as usize], weights[token as usize] / mass);
            if rank < kept && p > 0.0 {
                let mean = p * DRAWS as f64;
                chi_squared += (count as f64 - mean).powi(2) / mean;
            } else {
                assert_eq!(count, 0, "case {number}: a token that was cut off was drawn");
            }
        }
        // The 99.9 % point of 11 degrees of freedom; fewer have a lower one.
        assert!(chi_squared < 31.3, "case {number}: {chi_squared} over {kept} tokens");
        assert!(counts.iter().filter(|&&count| count > 0).count() > 1);
    }
}

#[test]
fn sizes_are_told_beforehand() {
    let limits = Limits { rows: 64, vocab: 128_256, logprobs: 20, edits: 8192 };
    // Beside a bit for each token of each row, and the row's number.
    let masks = 64 * 4 * (1 + 128_256 / 32);
    assert!(limits.scratch_bytes() - masks < 2 << 20, "{}", limits.scratch_bytes());
    assert!(limits.staging_bytes() - masks < 150 << 10, "{}", limits.staging_bytes());
    let less = Limits { rows: 63, ..limits };
    assert!(less.scratch_bytes() < limits.scratch_bytes());
}
