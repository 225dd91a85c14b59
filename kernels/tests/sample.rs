//! Sampling against a plain twin: the same rules in f64, with a full sort.

#![cfg(feature = "standin")]

mod common;
#[path = "sample_parts/distribution.rs"]
mod distribution;
#[path = "sample_parts/mask.rs"]
mod mask;

use larder_kernels::driver::PinnedBlock;
use larder_kernels::sample::{Limits, Places, Rows, Sampler, Settings, TopToken};

/// What a row brings beside its logits.
#[derive(Debug, Clone, Default)]
struct Case {
    settings: Settings,
    prompt: Vec<u32>,
    output: Vec<u32>,
    biases: Vec<(u32, f32)>,
    mask: Option<Vec<u32>>,
}

fn with(change: impl FnOnce(&mut Settings)) -> Case {
    let mut case = Case::default();
    change(&mut case.settings);
    case
}

impl Case {
    fn at(&self, counter: u64) -> Case {
        let mut case = self.clone();
        case.settings.counter = counter;
        case
    }
}

struct Cases<'a>(&'a [Case]);

impl Rows for Cases<'_> {
    fn n_rows(&self) -> usize {
        self.0.len()
    }
    fn settings(&self, row: usize) -> Settings {
        self.0[row].settings
    }
    fn mask(&self, row: usize) -> Option<&[u32]> {
        self.0[row].mask.as_deref()
    }
    fn biases(&self, row: usize) -> impl Iterator<Item = (u32, f32)> {
        self.0[row].biases.iter().copied()
    }
    fn prompt(&self, row: usize) -> impl Iterator<Item = u32> {
        self.0[row].prompt.iter().copied()
    }
    fn output(&self, row: usize) -> impl Iterator<Item = u32> {
        self.0[row].output.iter().copied()
    }
}

/// Numbers in (-1, 1) that depend on the seed alone.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| (2.0 * uniform(seed, i) - 1.0) as f32).collect()
}

// ---- The twin ----------------------------------------------------------------------------------

/// Philox4x32-10 as its authors describe it.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = 0xD251_1F53_u64 * u64::from(counter[0]);
        let b = 0xCD9E_8D57_u64 * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

fn uniform(seed: u64, counter: u64) -> f64 {
    let low_high = |value: u64| [value as u32, (value >> 32) as u32];
    let [low, high] = low_high(counter);
    let bits = philox([low, high, 0, 0], low_high(seed));
    ((u64::from(bits[1]) << 32 | u64::from(bits[0])) >> 11) as f64 / (1u64 << 53) as f64
}

/// Logits after biases and penalties, rounded as the rules are written.
fn adjusted(case: &Case, logits: &[f32]) -> Vec<f32> {
    let settings = &case.settings;
    let mut logits = logits.to_vec();
    if let Some(mask) = &case.mask {
        for (i, logit) in logits.iter_mut().enumerate() {
            if mask.get(i / 32).is_none_or(|word| word >> (i % 32) & 1 == 0) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    for &(token, bias) in &case.biases {
        logits.get_mut(token as usize).into_iter().for_each(|logit| *logit += bias);
    }
    for (i, logit) in logits.iter_mut().enumerate() {
        let count = |tokens: &[u32]| tokens.iter().filter(|&&t| t as usize == i).count();
        let (in_prompt, in_output) = (count(&case.prompt), count(&case.output));
        let repetition = settings.repetition_penalty;
        if in_prompt + in_output > 0 && repetition != 0.0 {
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        }
        if in_output > 0 {
            *logit -= settings.presence_penalty + settings.frequency_penalty * in_output as f32;
        }
    }
    logits
}

/// Of adjusted logits: the descending order, and each token's weight.
struct Ranked {
    order: Vec<u32>,
    weights: Vec<f64>,
    /// Tokens of the order that the cuts leave.
    kept: usize,
    in_order_of_ids: bool,
}

fn ranked(settings: &Settings, logits: &[f32]) -> Ranked {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = (1.0 / settings.temperature).min(f32::MAX);
    let weights: Vec<f64> =
        logits.iter().map(|&logit| f64::from((logit - max) * scale).exp()).collect();
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |&token: &u32| logits[token as usize] + 0.0;
    order.sort_by(|a, b| logit(b).total_cmp(&logit(a)).then(a.cmp(b)));
    let top_k = match settings.top_k as usize {
        0 => order.len(),
        top_k => top_k.min(order.len()),
    };
    let has_top_p = settings.top_p > 0.0 && settings.top_p < 1.0;
    let weight = |&token: &u32| weights[token as usize];
    let mass: f64 = order[..top_k].iter().map(weight).sum();
    let enough = if has_top_p { f64::from(settings.top_p) * mass } else { f64::INFINITY };
    let (mut kept, mut sum) = (0, 0.0);
    for w in order[..top_k].iter().map(weight) {
        if kept > 0 && (sum >= enough || w < f64::from(settings.min_p)) {
            break;
        }
        (kept, sum) = (kept + 1, sum + w);
    }
    let in_order_of_ids = top_k == order.len() && !has_top_p && settings.min_p <= 0.0;
    Ranked { order, weights, kept, in_order_of_ids }
}

/// Whether `token` is what the draw gives, up to rounding of the sums of weights.
fn is_drawn(case: &Case, logits: &[f32], token: u32) -> bool {
    let settings = &case.settings;
    if settings.temperature == 0.0 {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        return logits.iter().position(|&logit| logit == max) == Some(token as usize);
    }
    let Ranked { mut order, weights, kept, in_order_of_ids } = ranked(settings, logits);
    order.truncate(kept);
    if in_order_of_ids {
        order.sort_unstable();
    }
    let mass: f64 = order.iter().map(|&token| weights[token as usize]).sum();
    let target = uniform(settings.seed, settings.counter) * mass;
    let mut before = 0.0;
    for other in order {
        let after = before + weights[other as usize];
        if other == token {
            let slack = 1e-6 * mass;
            return before - slack <= target && target <= after + slack;
        }
        before = after;
    }
    false
}

fn logprob(logits: &[f32], token: u32) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    f64::from(logits[token as usize]) - max - sum.ln()
}

// ---- The device --------------------------------------------------------------------------------

/// What a row got.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    chosen: Option<TopToken>,
    top: Vec<TopToken>,
    /// After biases and penalties.
    logits: Vec<f32>,
}

/// Runs rows with `n_edits` places for biases and penalties.
fn run_with(
    device: &common::Device,
    cases: &[Case],
    logits: &[Vec<f32>],
    n_edits: u32,
) -> Vec<Outcome> {
    let vocab = logits[0].len();
    let most = |of: fn(&Case) -> u32| cases.iter().map(of).max().unwrap_or(0);
    let limits = Limits {
        rows: cases.len() as u32 + 1,
        vocab: vocab as u32,
        logprobs: most(|case| case.settings.n_logprobs),
        edits: n_edits,
    };
    let rows = device.upload(&logits.concat());
    let scratch = device.output::<u8>(limits.scratch_bytes() as usize);
    let staging = PinnedBlock::new(&device.context, limits.staging_bytes()).unwrap();
    let places =
        Places { logits: rows.address(), scratch: scratch.address(), staging: staging.address() };
    let mut sampler = Sampler::new(limits);
    // SAFETY: the places have the limits' sizes, and live until the answers have been copied.
    let answers =
        unsafe { sampler.run(&device.kernels, &device.stream, &places, &Cases(cases)).unwrap() };
    let outcomes: Vec<(Option<TopToken>, Vec<TopToken>)> =
        (0..cases.len()).map(|row| (answers.chosen(row), answers.top(row).to_vec())).collect();
    device.download(&scratch);
    let after = device.download(&rows);
    let outcome =
        |((chosen, top), logits): (_, &[f32])| Outcome { chosen, top, logits: logits.to_vec() };
    outcomes.into_iter().zip(after.chunks(vocab)).map(outcome).collect()
}

fn run(device: &common::Device, cases: &[Case], logits: &[Vec<f32>]) -> Vec<Outcome> {
    run_with(device, cases, logits, 4096)
}

/// Rows of the same logits, checked against the twin; returns the tokens.
fn check(device: &common::Device, cases: &[Case], logits: &[f32]) -> Vec<u32> {
    let rows = vec![logits.to_vec(); cases.len()];
    let outcomes = run(device, cases, &rows);
    let verify = |(case, outcome): (&Case, &Outcome)| {
        let adjusted = adjusted(case, logits);
        let same = outcome.logits.iter().zip(&adjusted).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{case:?}: the logits differ after biases and penalties");
        let chosen = outcome.chosen.unwrap_or_else(|| panic!("{:?}: no token", case.settings));
        let settings = &case.settings;
        assert!(is_drawn(case, &adjusted, chosen.token), "{settings:?} drew {chosen:?}");
        let n_top = (settings.n_logprobs as usize).min(logits.len());
        assert_eq!(outcome.top.len(), n_top);
        for (top, token) in outcome.top.iter().zip(ranked(&with(|_| ()).settings, &adjusted).order)
        {
            assert_eq!(top.token, token, "{settings:?}");
        }
        for top in outcome.top.iter().chain([&chosen]) {
            let expected = logprob(&adjusted, top.token);
            let close = (f64::from(top.logprob) - expected).abs() <= 2e-5 * (1.0 + expected.abs());
            let both_banned = f64::from(top.logprob) == expected;
            assert!(close || both_banned, "{settings:?}: {top:?}, expected {expected}");
        }
        chosen.token
    };
    cases.iter().zip(&outcomes).map(verify).collect()
}

// ---- Tests -------------------------------------------------------------------------------------

#[test]
fn greedy_takes_the_largest_and_the_lowest_id_of_equals() {
    common::for_policies(|device| {
        for (logits, expected) in [
            (vec![1.0], 0),
            (vec![1.0, 3.0, 3.0, 2.0], 1),
            (vec![-0.0, 0.0, -1.0], 0),
            (vec![f32::NEG_INFINITY, -5.0, f32::NEG_INFINITY], 1),
        ] {
            assert_eq!(check(device, &[Case::default()], &logits), [expected]);
        }
        // Around the borders of tiles.
        for n in [2047, 2048, 2049, 4101] {
            let mut rows = Vec::new();
            for at in [0, 1, 2046, n / 2, n - 1] {
                let mut logits = noise(n, 1);
                logits[at] = 2.0;
                if at < n / 2 {
                    logits[n - 1] = 2.0;
                }
                rows.push(logits);
            }
            let outcomes = run(device, &vec![Case::default(); rows.len()], &rows);
            for (outcome, logits) in outcomes.iter().zip(&rows) {
                let chosen = outcome.chosen.unwrap();
                assert!(is_drawn(&Case::default(), logits, chosen.token), "{n}: {chosen:?}");
                assert!((f64::from(chosen.logprob) - logprob(logits, chosen.token)).abs() < 2e-5);
            }
        }
    });
}

#[test]
fn the_least_temperatures_are_greedy() {
    let device = common::device();
    let logits = noise(500, 2);
    let greedy = check(&device, &[Case::default()], &logits)[0];
    for temperature in [1e-5, f32::MIN_POSITIVE, f32::from_bits(1)] {
        let cases = [
            with(|s| s.temperature = temperature),
            with(|s| (s.temperature, s.top_k) = (temperature, 7)),
            with(|s| (s.temperature, s.top_p, s.min_p) = (temperature, 0.9, 0.1)),
        ];
        let cases: Vec<Case> = (0..5).flat_map(|n| cases.each_ref().map(|c| c.at(n))).collect();
        assert!(check(&device, &cases, &logits).iter().all(|&token| token == greedy));
    }
}

#[test]
fn rows_without_a_finite_choice_are_told() {
    common::for_policies(|device| {
        let finite = noise(2100, 3);
        let settings = [
            Case::default(),
            with(|s| (s.temperature, s.top_k, s.n_logprobs) = (1.0, 3, 2)),
            with(|s| s.temperature = 1.0),
        ];
        let (mut cases, mut rows) = (Vec::new(), Vec::new());
        for case in settings {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                for at in [0, 300, 2099] {
                    let mut logits = finite.clone();
                    logits[at] = bad;
                    cases.push(case.clone());
                    rows.push(logits);
                }
            }
            cases.push(case.clone());
            rows.push(vec![f32::NEG_INFINITY; 2100]);
            let biases = (0..2100).map(|i| (i, f32::NEG_INFINITY)).collect();
            cases.push(Case { biases, ..case.clone() });
            rows.push(finite.clone());
            // The good row among them.
            cases.push(case);
            rows.push(finite.clone());
        }
        let outcomes = run(device, &cases, &rows);
        for (i, (outcome, case)) in outcomes.iter().zip(&cases).enumerate() {
            let is_good = i % 12 == 11;
            assert_eq!(outcome.chosen.is_some(), is_good, "row {i}");
            let n_top = if is_good { case.settings.n_logprobs as usize } else { 0 };
            assert_eq!(outcome.top.len(), n_top, "row {i}");
        }
    });
}

fn penalised() -> Case {
    let mut case = with(|s| {
        (s.repetition_penalty, s.presence_penalty, s.frequency_penalty) = (1.3, 0.4, 0.2);
        (s.temperature, s.n_logprobs) = (0.7, 5);
    });
    case.prompt = vec![3, 3, 9, 4_000_000, 5];
    case.output = vec![9, 11, 11, 11, 700, u32::MAX];
    case.biases = vec![(5, 2.5), (7, 1e30), (5, 0.5), (6, f32::NEG_INFINITY)];
    case.biases.extend([(7, -1e30), (5, 0.125), (1 << 30, 1.0)]);
    case
}

#[test]
fn biases_and_penalties_come_first_in_any_number_of_rounds() {
    common::for_policies(|device| {
        let logits: Vec<f32> = noise(1500, 4).iter().map(|l| 6.0 * l).collect();
        let mut cases = vec![penalised(), with(|s| s.temperature = 1.0), penalised()];
        cases[2].output = vec![12, 12, 3];
        cases[2].settings.repetition_penalty = 0.0;
        cases[2].biases = (0..40).map(|i| (i % 3 * 20, 0.1 * i as f32)).collect();
        check(device, &cases, &logits);
        let rows = vec![logits; cases.len()];
        let all = run(device, &cases, &rows);
        for n_edits in [1, 2, 5, 9, 10] {
            assert_eq!(run_with(device, &cases, &rows, n_edits), all, "{n_edits}");
        }
    });
}

#[test]
fn a_small_vocabulary_gives_what_it_can() {
    let device = common::device();
    let case = with(|s| s.n_logprobs = 4);
    let outcomes = run(&device, &[case], &[vec![0.0, 1.0]]);
    let tokens: Vec<u32> = outcomes[0].top.iter().map(|top| top.token).collect();
    assert_eq!(tokens, [1, 0]);
}

/// The most log probabilities, with equal logits in their midst, banned tokens at their end, and no draw.
#[test]
fn top_log_probabilities_are_those_of_a_full_sort() {
    common::for_policies(|device| {
        let mut logits = vec![f32::NEG_INFINITY; 3000];
        (0..60).for_each(|i| logits[(i * 49 + 2999) % 3000] = (i / 7) as f32 * 0.5 - 2.0);
        let cases: Vec<Case> = [1, 7, 40, 60, 64].map(|n| with(|s| s.n_logprobs = n)).into();
        check(device, &cases, &logits);
        check(device, &cases, &vec![-3.0; 3000]);
    });
}

fn cuts() -> Vec<Case> {
    vec![
        with(|s| (s.temperature, s.top_k) = (1.0, 1)),
        with(|s| (s.temperature, s.top_k, s.n_logprobs) = (1.0, 50, 20)),
        with(|s| (s.temperature, s.top_k, s.n_logprobs) = (1.0, 8_000, 20)),
        with(|s| (s.temperature, s.top_p) = (1.0, 0.001)),
        with(|s| (s.temperature, s.top_p) = (1.0, 0.1)),
        with(|s| (s.temperature, s.top_p) = (1.0, 0.95)),
        with(|s| (s.temperature, s.min_p) = (0.7, 0.2)),
        with(|s| (s.temperature, s.min_p) = (0.7, 0.0001)),
        with(|s| (s.temperature, s.min_p) = (0.7, 1.5)),
        with(|s| (s.temperature, s.top_k, s.top_p) = (1.0, 500, 0.5)),
        with(|s| (s.temperature, s.top_k, s.top_p, s.min_p) = (1.5, 3000, 0.99, 0.01)),
        with(|s| s.temperature = 0.8),
    ]
}

/// Eight rows of each case.
fn draws(first: u64) -> Vec<Case> {
    cuts().iter().flat_map(|case| (0..5).map(|n| case.at(first + n)).collect::<Vec<_>>()).collect()
}

/// Wide vocabularies, with equal logits at the borders of the cuts.
#[test]
fn draws_are_those_of_a_full_sort() {
    common::for_policies(|device| {
        let mut logits: Vec<f32> = noise(10_001, 6).iter().map(|l| 3.0 * l).collect();
        (0..10_001).step_by(3).for_each(|i| logits[i] = (logits[i] * 16.0).round() / 16.0);
        check(device, &draws(0), &logits);
    });
}

/// A few tokens stand out, as they do in a model's answer; the rest is far off, or banned.
#[test]
fn draws_from_peaked_logits_are_those_of_a_full_sort() {
    let device = common::device();
    let mut logits: Vec<f32> = noise(9_000, 7).iter().map(|l| 2.0 * l - 9.0).collect();
    (0..30).for_each(|i| logits[(i * 701) % 9_000] = 12.0 - 0.3 * i as f32);
    check(&device, &draws(100), &logits);
    (0..9_000).filter(|i| i % 701 > 5).for_each(|i| logits[i] = f32::NEG_INFINITY);
    check(&device, &draws(200), &logits);
}

/// More tokens in one bin than the list holds: all equal, or nearly.
#[test]
fn draws_from_equal_logits_are_those_of_a_full_sort() {
    let device = common::device();
    check(&device, &draws(300), &vec![2.5; 8_500]);
    check(&device, &draws(400), &[0.0; 33]);
    let logits: Vec<f32> =
        noise(8_500, 8).iter().map(|l| 1.0 + f32::EPSILON * (1000.0 * l).round()).collect();
    check(&device, &draws(500), &logits);
    let mut logits: Vec<f32> = noise(8_500, 9).iter().map(|l| 1e-4 * (l * 50.0).round()).collect();
    logits[4_000] = 3.0;
    check(&device, &draws(600), &logits);
}

/// A row's outcome is the same alone and among others.
#[test]
fn rows_do_not_see_each_other() {
    let device = common::device();
    let rows: Vec<Vec<f32>> = (0..6).map(|seed| noise(2_500, 20 + seed)).collect();
    let mut cases = cuts()[..5].to_vec();
    cases.push(penalised());
    let together = run(&device, &cases, &rows);
    for i in 0..rows.len() {
        assert_eq!(run(&device, &cases[i..=i], &rows[i..=i])[0], together[i]);
    }
}

#[test]
fn a_draw_is_a_function_of_seed_and_counter() {
    let device = common::device();
    let logits = noise(300, 10);
    let cases: Vec<Case> = [(1, 0), (1, 1), (1, 1 << 32), (2, 0), (1 << 32 | 1, 0)]
        .into_iter()
        .flat_map(|(seed, first)| {
            (0..6).map(move |n| {
                let case = with(|s| (s.temperature, s.seed) = (1.0, seed));
                case.at(first + (n << 3))
            })
        })
        .collect();
    let tokens = check(&device, &cases, &logits);
    let mut groups: Vec<&[u32]> = tokens.chunks(6).collect();
    groups.sort_unstable();
    groups.dedup();
    assert_eq!(groups.len(), 5);
}
