//! Too few slots for all: who waits, who is paused, and that nobody sees it in the answers.

mod serve_common;

use larder::serve::{Limits, RequestInput};
use serve_common::*;

/// Answers that end by themselves after 3 or after 28 tokens, which only their prompt tells.
fn short_or_long(
    history: &[larder::ids::TokenId],
    row: &larder::backend::ops::SampleRow<'_>,
) -> larder::backend::ops::SampleResult {
    let length = if row.prompt[0].0.is_multiple_of(2) { 3 } else { 28 };
    if row.output.len() < length { endless(history, row) } else { token(STOP.0) }
}

/// Answers run as `inputs`, and their prompts and limits.
fn check(host: &mut Host, inputs: &[RequestInput<'_>], capacity: usize) -> Vec<Told> {
    for input in inputs {
        host.submit(input).unwrap();
    }
    let n_ends = inputs.iter().map(|input| input.n_answers.max(1) as usize).sum();
    let told = host.run(n_ends, capacity);
    for input in inputs {
        let expected = alone(host.limits, host.model, input);
        for number in 0..input.n_answers.max(1) {
            let (user, ours) = (input.user, answer(&told, input.user, number));
            assert_eq!(ours, answer(&expected, user, number), "request {user}, answer {number}");
        }
    }
    assert_eq!((host.kv.used_slots(), host.kv.n_sequences()), (0, 0));
    told
}

#[test]
fn a_hint_that_was_too_low_pauses_and_changes_no_answer() {
    // K16: four requests of 8 + 32 tokens in 64 slots, each said to need 2.
    for capacity in [1, 3, 8] {
        for (n_answers, same) in [(1, false), (1, true), (2, false)] {
            let mut host = Host::new(Limits { total_tokens: 64, ..LIMITS }, None, endless);
            let prompts: Vec<_> = (0..4).map(|i| prompt(8, if same { 1 } else { i })).collect();
            let inputs: Vec<_> = (0..)
                .zip(&prompts)
                .map(|(user, prompt)| RequestInput {
                    expected_new_tokens: 2,
                    n_answers,
                    sampling: seeded(user),
                    ..request(prompt, 32, user)
                })
                .collect();
            check(&mut host, &inputs, capacity);
            let stats = host.edge.stats();
            assert!(stats.pauses > 0);
            let n_answers = 4 * u64::from(n_answers);
            assert_eq!(stats.generated_tokens, n_answers * 32);
            // Not more than MAX_PAUSES each.
            assert!(stats.pauses <= n_answers * 4, "{} pauses", stats.pauses);
            assert_eq!(stats.requests_finished, 4);
        }
    }
}

#[test]
fn what_is_still_there_is_not_computed_again() {
    // 2 x 31 slots of 40: the second stops half way, and the first needs less than all of its slots.
    let mut host = Host::new(Limits { total_tokens: 40, ..LIMITS }, None, endless);
    let prompts = [prompt(8, 1), prompt(8, 2)];
    let inputs: Vec<_> = (0..)
        .zip(&prompts)
        .map(|(user, prompt)| RequestInput { expected_new_tokens: 1, ..request(prompt, 24, user) })
        .collect();
    check(&mut host, &inputs, 8);
    let stats = host.edge.stats();
    assert_eq!(stats.pauses, 1);
    // At 20 tokens each the second stops; the first takes 11 of its slots, which it fills again later, and takes 22 of
    // those that the first leaves.
    assert_eq!(host.n_rows, 2 * (8 + 23) + 11);
    assert_eq!(stats.evicted_slots, 11 + 22);
}

#[test]
fn past_lengths_let_more_in() {
    let limits = Limits { max_requests: 64, max_sequences: 16, ..LIMITS };
    let mut host = Host::new(limits, None, short_or_long);
    let even: Vec<_> = (0..40).map(|i| [ids(&[2 * i]), prompt(3, 9)].concat()).collect();
    // Nothing is known: each is taken to need 4 + 40 slots, so two run at a time.
    host.submit(&request(&even[0], 40, 0)).unwrap();
    host.submit(&request(&even[1], 40, 1)).unwrap();
    host.submit(&request(&even[2], 40, 2)).unwrap();
    host.step(8);
    assert_eq!(host.edge.stats().answers_running, 2);
    host.run(3, 8);
    for (user, prompt) in (3..).zip(&even[3..20]) {
        host.submit(&request(prompt, 40, user)).unwrap();
    }
    host.run(17, 8);
    // 20 answers of 3 tokens are known now: 16 requests of 4 + 3 fit in 128 slots.
    for (user, prompt) in (20..).zip(&even[20..36]) {
        host.submit(&request(prompt, 40, user)).unwrap();
    }
    host.step(8);
    assert_eq!(host.edge.stats().answers_running, 16);
    host.run(16, 8);
    assert_eq!(host.edge.stats().pauses, 0);
    // Then all turn out long.
    let odd: Vec<_> = (0..16).map(|i| [ids(&[2 * i + 1]), prompt(3, 9)].concat()).collect();
    let inputs: Vec<_> =
        (100..).zip(&odd).map(|(user, prompt)| request(prompt, 40, user)).collect();
    check(&mut host, &inputs, 64);
    let stats = host.edge.stats();
    assert!((1..=16 * 4).contains(&stats.pauses), "{} pauses", stats.pauses);
}

#[test]
fn higher_priorities_go_first_and_are_paused_last() {
    let mut host = Host::new(Limits { total_tokens: 40, ..LIMITS }, None, endless);
    let prompts: Vec<_> = (0..6).map(|seed| prompt(8, seed)).collect();
    let inputs: Vec<_> = (0..6)
        .map(|user| RequestInput {
            priority: [0, -1, 5, 5, 0, i32::MAX][user],
            ..request(&prompts[user], 25, user as u64)
        })
        .collect();
    let told = check(&mut host, &inputs, 64);
    // Each needs 32 of 40 slots, so one runs at a time.
    let ends: Vec<_> = told.iter().filter(|event| event.is_end()).map(|event| event.user).collect();
    assert_eq!(ends, [5, 2, 3, 0, 4, 1]);
    // Guesses too low let all in; then the lowest is paused first.
    let mut host = Host::new(Limits { total_tokens: 64, ..LIMITS }, None, endless);
    let inputs: Vec<_> =
        inputs[..4].iter().map(|input| RequestInput { expected_new_tokens: 1, ..*input }).collect();
    let told = check(&mut host, &inputs, 64);
    let ends: Vec<_> = told.iter().filter(|event| event.is_end()).map(|event| event.user).collect();
    assert_eq!((ends[0], ends[1], ends[3]), (2, 3, 1));
    assert!(host.edge.stats().pauses > 0);
}

#[test]
fn who_was_paused_comes_back_before_who_is_new() {
    let mut host = Host::new(Limits { total_tokens: 40, ..LIMITS }, None, endless);
    let prompts: Vec<_> = (0..8).map(|seed| prompt(8, seed)).collect();
    let input = |user: u64| RequestInput {
        expected_new_tokens: 1,
        ..request(&prompts[user as usize], 24, user)
    };
    for user in 0..2 {
        host.submit(&input(user)).unwrap();
    }
    let mut told = Vec::new();
    while host.edge.stats().pauses == 0 {
        told.extend(host.step(8));
    }
    for user in 2..8 {
        host.submit(&input(user)).unwrap();
    }
    told.extend(host.run(8, 8));
    let ends: Vec<_> = told.iter().filter(|event| event.is_end()).map(|event| event.user).collect();
    assert_eq!(ends[..2], [0, 1]);
}

#[test]
fn half_computed_prompts_do_not_block_each_other() {
    // Four prompts of 30 and 40 tokens each into 64 slots, said to be short; chunks of 16.
    for n_prompt in [30, 33, 50] {
        let limits = Limits { total_tokens: 64, max_batch_rows: 64, ..LIMITS };
        for max_batch_rows in [1, 5, 16, 64] {
            let mut host = Host::new(Limits { max_batch_rows, ..limits }, None, endless);
            let prompts: Vec<_> = (0..4).map(|seed| prompt(n_prompt, seed)).collect();
            let inputs: Vec<_> = (0..)
                .zip(&prompts)
                .map(|(user, prompt)| RequestInput {
                    expected_new_tokens: 1,
                    ..request(prompt, 0, user)
                })
                .collect();
            check(&mut host, &inputs, 8);
        }
    }
}

#[test]
fn turns_are_fair() {
    // Eight answers, three rows: nobody is more than a token ahead.
    let limits = Limits { max_batch_rows: 3, max_sequences: 8, total_tokens: 512, ..LIMITS };
    let mut host = Host::new(limits, None, endless);
    let prompts: Vec<_> = (0..8).map(|seed| prompt(1, seed)).collect();
    for (user, prompt) in (0..).zip(&prompts) {
        host.submit(&request(prompt, 30, user)).unwrap();
    }
    let mut n_tokens = [0; 8];
    for _ in 0..8 * 30 / 3 {
        for event in host.step(16) {
            n_tokens[event.user as usize] += usize::from(!event.is_end());
        }
        let (least, most) = (n_tokens.iter().min().unwrap(), n_tokens.iter().max().unwrap());
        assert!(most - least <= 1, "{n_tokens:?}");
    }
    assert_eq!(n_tokens, [30; 8]);
}

#[test]
fn the_first_in_line_is_not_overtaken_inside_a_priority() {
    let mut host =
        Host::new(Limits { total_tokens: 64, max_sequences: 4, ..LIMITS }, None, endless);
    let (small, large) = (prompt(4, 1), prompt(40, 2));
    host.submit(&request(&small, 20, 0)).unwrap();
    host.submit(&request(&large, 24, 1)).unwrap();
    for user in 2..6 {
        host.submit(&request(&small, 20, user)).unwrap();
    }
    let told = host.run(6, 64);
    // Beside the first each of the last would fit, beside the second none.
    let first = |user| told.iter().position(|event| event.user == user).unwrap();
    assert!((2..6).all(|user| first(1) < first(user)));
    assert_eq!(host.edge.stats().pauses, 0);
}
