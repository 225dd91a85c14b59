//! Anything at once, thousands of rounds: every answer is the one that its request gives alone.

mod serve_common;

use larder::ids::{RequestHandle, SequenceHandle, TokenId};
use larder::serve::{EventKind, Failure, Limits, RequestInput, Stats};
use serve_common::*;

const SEQUENCE_LIMIT: Option<EventKind> = Some(EventKind::Failed(Failure::SequenceLimit));

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = mix(self.0);
        (self.0 >> 11) % n
    }
}

/// A request that was submitted.
struct Asked {
    handle: RequestHandle,
    prompt: Vec<TokenId>,
    input: RequestInput<'static>,
    may_be_cancelled: bool,
}

fn asked(host: &Host, random: &mut Random, user: u64) -> Option<Asked> {
    // Few families of prompts, so that beginnings, whole prompts and namespaces meet.
    let most = u64::from(host.limits.max_sequence_tokens.min(host.limits.total_tokens));
    let mut tokens = prompt(1 + random.below(most) as usize, random.below(3));
    let keep = random.below(tokens.len() as u64 + 1) as usize;
    if random.below(2) == 0 {
        let n = tokens.len() - keep;
        tokens.truncate(keep);
        tokens.extend(prompt(n, 10 + random.below(3)));
    }
    let input = RequestInput {
        max_new_tokens: random.below(30) as u32,
        expected_new_tokens: random.below(5) as u32,
        n_answers: 1 + random.below(3) as u32,
        priority: random.below(3) as i32 - 1,
        name_space: random.below(2),
        user,
        sampling: if random.below(2) == 0 { seeded(random.below(9)) } else { Default::default() },
        ..Default::default()
    };
    let handle = host.submit(&RequestInput { prompt: prompt_of(&tokens), ..input }).ok()?;
    Some(Asked { handle, prompt: tokens, input, may_be_cancelled: random.below(3) == 0 })
}

fn prompt_of(tokens: &[TokenId]) -> larder::serve::Prompt<'_> {
    larder::serve::Prompt::Tokens(tokens)
}

/// The host takes slots and sequences for itself, or gives some back.
fn disturb(host: &mut Host, random: &mut Random, own: &mut Vec<SequenceHandle>) {
    match random.below(4) {
        0 => own.extend(host.kv.open()),
        1 => {
            let n = random.below(u64::from(host.kv.free_slots()) + 1) as usize;
            if let Some(&sequence) = own.last() {
                let _ = host.kv.append(sequence, &mut vec![Default::default(); n]);
            }
        }
        _ => {
            if let Some(sequence) = own.pop() {
                host.kv.release(sequence).unwrap();
            }
        }
    }
}

/// Submits, cancels and steps at random until `n_requests` have ended, and compares. With `is_disturbed`, the host
/// uses the repo for itself, and answers may fail for lack of slots or sequences.
fn rounds(limits: Limits, seed: u64, n_requests: u64, is_disturbed: bool) -> Stats {
    let mut random = Random(seed);
    let mut host = Host::new(limits, None, hashed);
    let (mut all, mut told, mut n_open) = (Vec::new(), Vec::<Told>::new(), 0);
    let mut own = Vec::new();
    while (all.len() as u64) < n_requests || n_open > 0 {
        if (all.len() as u64) < n_requests && random.below(3) > 0 {
            let new = asked(&host, &mut random, all.len() as u64);
            n_open += new.as_ref().map_or(0, |new| new.input.n_answers as usize);
            all.extend(new);
        }
        if random.below(50) == 0 {
            host.kv.flush();
        }
        if is_disturbed && random.below(8) == 0 {
            disturb(&mut host, &mut random, &mut own);
        }
        let last = all.len().saturating_sub(1 + random.below(10) as usize);
        let victim = all.get(last).filter(|asked| asked.may_be_cancelled && random.below(4) == 0);
        let capacity = random.below(6) as usize;
        let now = host.step_with(capacity, |edge| {
            victim.map(|asked| edge.cancel(asked.handle));
        });
        n_open -= now.iter().filter(|event| event.is_end()).count();
        told.extend(now);
        assert!(host.n_steps < 100_000, "no end");
    }
    own.into_iter().for_each(|sequence| host.kv.release(sequence).unwrap());
    host.step(9);
    assert_eq!((host.kv.used_slots(), host.kv.n_sequences()), (0, 0));
    for asked in &all {
        let input = RequestInput { prompt: prompt_of(&asked.prompt), ..asked.input };
        let expected = alone(limits, hashed, &input);
        for number in 0..input.n_answers {
            let (tokens, _, end) = answer(&told, input.user, number);
            let (alone, _, alone_end) = answer(&expected, input.user, number);
            let is_cut = match end {
                CANCELLED => asked.may_be_cancelled,
                OUT_OF_SLOTS | SEQUENCE_LIMIT => is_disturbed,
                _ => false,
            };
            if is_cut {
                assert!(alone.starts_with(&tokens));
            } else {
                assert_eq!((tokens, end), (alone, alone_end), "{seed}: {} {number}", input.user);
            }
        }
    }
    host.edge.stats()
}

#[test]
fn answers_in_any_company_are_those_alone() {
    let (mut n_pauses, mut n_cached, mut n_steps) = (0, 0, 0);
    for seed in 0..60 {
        let mut random = Random(seed);
        let limits = Limits {
            total_tokens: 20 + random.below(200) as u32,
            max_sequences: 3 + random.below(6) as u32,
            max_batch_rows: 1 + random.below(24) as u32,
            max_sequence_tokens: 10 + random.below(50) as u32,
            ..LIMITS
        };
        let stats = rounds(limits, seed, 60, false);
        n_pauses += stats.pauses;
        n_cached += stats.cached_tokens;
        n_steps += stats.steps;
    }
    assert!(n_pauses > 100 && n_cached > 10_000 && n_steps > 10_000, "{n_pauses} {n_cached}");
}

#[test]
fn a_host_that_uses_the_repo_itself_changes_no_answer() {
    let (mut n_failed, mut n_finished) = (0, 0);
    for seed in 100..140 {
        let mut random = Random(seed);
        let limits = Limits {
            total_tokens: 30 + random.below(100) as u32,
            max_sequences: 3 + random.below(6) as u32,
            max_batch_rows: 1 + random.below(24) as u32,
            ..LIMITS
        };
        let stats = rounds(limits, seed, 40, true);
        n_failed += stats.requests_failed;
        n_finished += stats.requests_finished;
    }
    assert!(n_failed > 100 && n_finished > 300, "{n_failed} {n_finished}");
}
