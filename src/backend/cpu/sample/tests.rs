use super::*;

/// Numbers in (-1, 1) that depend on the seed alone.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| (2.0 * random::uniform(seed, i) - 1.0) as f32).collect()
}

fn ids(tokens: &[u32]) -> Vec<TokenId> {
    tokens.iter().map(|&token| TokenId(token)).collect()
}

/// What a row brings beside its logits.
#[derive(Clone, Default)]
struct Case {
    sampling: Sampling,
    prompt: Vec<TokenId>,
    output: Vec<TokenId>,
    biases: Vec<(TokenId, f32)>,
    mask: Option<Vec<u32>>,
}

fn with(change: impl FnOnce(&mut Sampling)) -> Case {
    let mut case = Case::default();
    change(&mut case.sampling);
    case
}

impl Case {
    fn run(
        &self,
        kernels: &Kernels,
        logits: &[f32],
        counter: u64,
    ) -> (SampleResult, Vec<TokenLogprob>) {
        let mut logits = logits.to_vec();
        let mut scratch = vec![0xFFFF_FFFF; logits.len()];
        let mut top = vec![TokenLogprob::default(); self.sampling.n_logprobs as usize];
        let mut row = SampleRow {
            sampling: &self.sampling,
            prompt: &self.prompt,
            output: &self.output,
            biases: &self.biases,
            mask: self.mask.as_deref(),
            counter,
            top: &mut top,
            result: SampleResult::None,
        };
        let result = draw(kernels, &mut logits, &mut scratch, &mut row);
        (result, top)
    }

    fn token(&self, logits: &[f32], counter: u64) -> usize {
        let kernels = Kernels::supported();
        let results = kernels.iter().map(|kernels| self.run(kernels, logits, counter).0);
        let tokens: Vec<usize> = results.map(|result| chosen(result).token.0 as usize).collect();
        assert!(tokens.iter().all(|&token| token == tokens[0]), "{tokens:?}");
        tokens[0]
    }
}

fn chosen(result: SampleResult) -> TokenLogprob {
    let SampleResult::Token(chosen) = result else { panic!("{result:?}") };
    chosen
}

/// Logits after biases and penalties, one rule after the other.
fn adjusted(case: &Case, logits: &[f32]) -> Vec<f64> {
    let sampling = &case.sampling;
    let mut logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    for &(token, bias) in &case.biases {
        logits[token.0 as usize] += f64::from(bias);
    }
    for (i, logit) in logits.iter_mut().enumerate() {
        let count = |tokens: &[TokenId]| tokens.iter().filter(|t| t.0 as usize == i).count();
        let (in_prompt, in_output) = (count(&case.prompt), count(&case.output));
        let repetition = f64::from(sampling.repetition_penalty);
        if in_prompt + in_output > 0 && repetition != 0.0 {
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        }
        *logit -= f64::from(sampling.frequency_penalty) * in_output as f64;
        if in_output > 0 {
            *logit -= f64::from(sampling.presence_penalty);
        }
    }
    logits
}

/// Every token's probability by the documented rules, with a full sort.
fn probabilities(case: &Case, logits: &[f32]) -> Vec<f64> {
    let (sampling, logits) = (&case.sampling, adjusted(case, logits));
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let temperature = f64::from(sampling.temperature);
    let weights: Vec<f64> = logits.iter().map(|l| ((l - max) / temperature).exp()).collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    if sampling.top_p > 0.0 && sampling.top_p < 1.0 {
        let mass: f64 = order.iter().map(|&i| weights[i]).sum();
        let mut sum = 0.0;
        let mut kept = 0;
        while sum < f64::from(sampling.top_p) * mass {
            sum += weights[order[kept]];
            kept += 1;
        }
        order.truncate(kept);
    }
    order.retain(|&i| weights[i] >= f64::from(sampling.min_p));
    let mass: f64 = order.iter().map(|&i| weights[i]).sum();
    let mut probabilities = vec![0.0; logits.len()];
    order.iter().for_each(|&i| probabilities[i] = weights[i] / mass);
    probabilities
}

#[test]
fn greedy_takes_the_largest_and_the_lowest_id_of_equals() {
    let greedy = Case::default();
    assert_eq!(greedy.token(&[1.0], 0), 0);
    assert_eq!(greedy.token(&[1.0, 3.0, 3.0, 2.0], 0), 1);
    assert_eq!(greedy.token(&[f32::NEG_INFINITY, -5.0, f32::NEG_INFINITY], 0), 1);
    let mut logits = noise(1000, 1);
    logits[777] = 2.0;
    assert_eq!(greedy.token(&logits, 0), 777);
}

#[test]
fn the_least_temperatures_are_greedy() {
    let logits = noise(500, 2);
    let greedy = Case::default().token(&logits, 0);
    for temperature in [1e-5, f32::MIN_POSITIVE, f32::from_bits(1)] {
        for case in [
            with(|s| s.temperature = temperature),
            with(|s| (s.temperature, s.top_k) = (temperature, 7)),
            with(|s| (s.temperature, s.top_p, s.min_p) = (temperature, 0.9, 0.1)),
        ] {
            (0..20).for_each(|counter| assert_eq!(case.token(&logits, counter), greedy));
        }
    }
}

#[test]
fn rows_without_a_finite_choice_are_told() {
    let finite = noise(600, 3);
    for kernels in Kernels::supported() {
        for case in [Case::default(), with(|s| (s.temperature, s.top_k) = (1.0, 3))] {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                for at in [0, 300, 599] {
                    let mut logits = finite.clone();
                    logits[at] = bad;
                    assert_eq!(case.run(kernels, &logits, 0).0, SampleResult::NonFinite);
                }
            }
            let banned = [f32::NEG_INFINITY; 600];
            assert_eq!(case.run(kernels, &banned, 0).0, SampleResult::NonFinite);
        }
    }
    let biases = (0..4).map(|i| (TokenId(i), f32::NEG_INFINITY)).collect();
    let only_bans = Case { biases, ..Case::default() };
    assert_eq!(only_bans.run(Kernels::detect(), &[1.0; 4], 0).0, SampleResult::NonFinite);
}

#[test]
fn log_probabilities_come_after_penalties_and_before_temperature() {
    let mut case = with(|s| {
        (s.repetition_penalty, s.presence_penalty, s.frequency_penalty) = (1.3, 0.4, 0.2);
        (s.temperature, s.n_logprobs) = (0.3, 5);
    });
    case.prompt = ids(&[3, 3, 9, 4_000_000]);
    case.output = ids(&[9, 11, 11, 11, 700]);
    case.biases = vec![(TokenId(5), 2.5), (TokenId(5), 0.5), (TokenId(6), f32::NEG_INFINITY)];
    let logits: Vec<f32> = noise(1500, 4).iter().map(|l| 6.0 * l).collect();
    let expected = adjusted(&case, &logits);
    let max = expected.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = expected.iter().map(|l| (l - max).exp()).sum::<f64>().ln() + max;
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| expected[b].total_cmp(&expected[a]));
    for kernels in Kernels::supported() {
        let (result, top) = case.run(kernels, &logits, 0);
        for (top, &i) in top.iter().chain([&chosen(result)]).zip(&order) {
            let token = top.token.0 as usize;
            assert!((f64::from(top.logprob) - (expected[token] - log_sum)).abs() < 2e-5);
            assert!(top == &chosen(result) || token == i);
        }
        assert_eq!(top.len(), 5);
    }
}

#[test]
fn a_small_vocabulary_fills_what_it_can() {
    let case = with(|s| s.n_logprobs = 4);
    let (_, top) = case.run(Kernels::detect(), &[0.0, 1.0], 0);
    assert_eq!((top[0].token, top[1].token), (TokenId(1), TokenId(0)));
    assert_eq!(top[2..], [TokenLogprob::default(); 2]);
}

#[test]
fn draws_follow_the_distribution_of_every_setting() {
    let mut penalised = with(|s| {
        (s.temperature, s.repetition_penalty, s.top_k) = (1.2, 1.5, 6);
        s.frequency_penalty = 0.3;
    });
    penalised.prompt = ids(&[0, 4]);
    penalised.output = ids(&[4, 7, 7]);
    let cases = [
        with(|s| s.temperature = 1.0),
        with(|s| s.temperature = 0.5),
        with(|s| (s.temperature, s.top_k) = (1.0, 3)),
        with(|s| (s.temperature, s.top_k) = (1.0, 400)),
        with(|s| (s.temperature, s.top_p) = (1.0, 0.7)),
        with(|s| (s.temperature, s.min_p) = (1.0, 0.3)),
        with(|s| (s.temperature, s.top_k, s.top_p, s.min_p) = (2.0, 9, 0.8, 0.2)),
        penalised,
    ];
    let mut logits: Vec<f32> = noise(12, 5).iter().map(|l| 2.0 * l).collect();
    logits[3] = f32::NEG_INFINITY;
    const DRAWS: u64 = 4000;
    for (number, case) in cases.iter().enumerate() {
        let expected = probabilities(case, &logits);
        let mut counts = vec![0u64; logits.len()];
        for counter in 0..DRAWS {
            let result = case.run(Kernels::detect(), &logits, counter).0;
            counts[chosen(result).token.0 as usize] += 1;
        }
        let (mut chi_squared, mut cells) = (0.0, 0);
        for (&count, p) in counts.iter().zip(&expected) {
            assert!(*p > 0.0 || count == 0, "case {number}: a token that was cut off was drawn");
            if *p > 0.0 {
                let mean = p * DRAWS as f64;
                chi_squared += (count as f64 - mean).powi(2) / mean;
                cells += 1;
            }
        }
        // The 99.9 % point of 11 degrees of freedom; fewer have a lower one.
        assert!(chi_squared < 31.3, "case {number}: {chi_squared} over {cells} tokens");
        assert!(counts.iter().filter(|&&count| count > 0).count() > 1);
    }
}

/// Wide vocabularies go through selection with a growing guess, and several chunks.
#[test]
fn cuts_of_wide_vocabularies_are_those_of_a_full_sort() {
    let n = 20_000;
    let mut logits: Vec<f32> = noise(n, 6).iter().map(|l| 3.0 * l).collect();
    // Equal logits at the borders of the cuts.
    (0..n).step_by(3).for_each(|i| logits[i] = (logits[i] * 16.0).round() / 16.0);
    for case in [
        with(|s| (s.temperature, s.top_k) = (1.0, 1)),
        with(|s| (s.temperature, s.top_k) = (1.0, 50)),
        with(|s| (s.temperature, s.top_k) = (1.0, 15_000)),
        with(|s| (s.temperature, s.top_p) = (1.0, 0.001)),
        with(|s| (s.temperature, s.top_p) = (1.0, 0.1)),
        with(|s| (s.temperature, s.top_p) = (1.0, 0.95)),
        with(|s| (s.temperature, s.min_p) = (0.7, 0.2)),
        with(|s| (s.temperature, s.min_p) = (0.7, 0.0001)),
        with(|s| (s.temperature, s.top_k, s.top_p) = (1.0, 500, 0.5)),
        with(|s| s.temperature = 0.8),
    ] {
        let expected = probabilities(&case, &logits);
        let kept = expected.iter().filter(|&&p| p > 0.0).count();
        let mut seen = std::collections::BTreeSet::new();
        for counter in 0..60 {
            let token = case.token(&logits, counter);
            seen.insert(token);
            // A token at the border of top-p may fall on either side by rounding.
            let border = case.sampling.top_p > 0.0 && kept > 1000;
            assert!(expected[token] > 0.0 || border, "{:?} drew {token}", case.sampling);
        }
        assert!(kept < 3 || seen.len() > 1, "{:?}", case.sampling);
    }
}

#[test]
fn a_draw_is_a_function_of_seed_and_counter() {
    let logits = noise(300, 7);
    let case = |seed| with(|s| (s.temperature, s.seed) = (1.0, seed));
    let draws =
        |seed| (0..30).map(|counter| case(seed).token(&logits, counter)).collect::<Vec<_>>();
    assert_eq!(draws(1), draws(1));
    assert_ne!(draws(1), draws(2));
}

/// top_k 0 or beyond the vocabulary, top_p 0 or 1, min_p 0, penalties 0 or 1 change nothing.
#[test]
fn neutral_settings_are_off() {
    let logits = noise(300, 8);
    let mut neutral = with(|s| {
        (s.temperature, s.top_k, s.top_p, s.repetition_penalty) = (1.0, 301, 1.0, 1.0);
    });
    neutral.prompt = ids(&[1, 2, 3]);
    let off = with(|s| s.temperature = 1.0);
    (0..50).for_each(|i| assert_eq!(neutral.token(&logits, i), off.token(&logits, i)));
}

/// The same as a ban of each token that the mask leaves out, whatever else is set.
#[test]
fn a_mask_bans_what_it_leaves_out() {
    for n in [1, 31, 32, 33, 64, 700] {
        let logits = noise(n, 9);
        let all: Vec<u32> = vec![u32::MAX; n.div_ceil(32)];
        let some: Vec<u32> = (0..n.div_ceil(32) as u64)
            .map(|i| [0x8001_0F01, 0, u32::MAX][i as usize % 3])
            .collect();
        let short = some[..some.len() - 1].to_vec();
        for mask in [all.clone(), some, short, vec![], vec![0; all.len()]] {
            let is_allowed =
                |token: &usize| mask.get(token / 32).is_some_and(|w| w >> (token % 32) & 1 == 1);
            let bans = (0..n).filter(|token| !is_allowed(token));
            let bans: Vec<_> =
                bans.map(|token| (TokenId(token as u32), f32::NEG_INFINITY)).collect();
            let mut case =
                with(|s| (s.temperature, s.top_p, s.n_logprobs) = (0.8, 0.9, n.min(5) as u32));
            (case.prompt, case.sampling.repetition_penalty) = (ids(&[0, 2]), 1.5);
            let banned = Case { biases: bans, ..case.clone() };
            let masked = Case { mask: Some(mask.clone()), ..case };
            let kernels = Kernels::supported();
            for counter in 0..20 {
                let (result, top) = masked.run(kernels[0], &logits, counter);
                assert_eq!(
                    (result, top),
                    banned.run(kernels[0], &logits, counter),
                    "{n} {mask:x?}"
                );
                match result {
                    SampleResult::Token(drawn) => assert!(is_allowed(&(drawn.token.0 as usize))),
                    _ => assert!(!(0..n).any(|token| is_allowed(&token))),
                }
            }
        }
    }
}
