//! Prompts with a common beginning: computed once, in whatever company, and never across namespaces.

mod serve_common;

use larder::ids::TokenId;
use larder::serve::{Limits, RequestInput};
use serve_common::*;

/// Room for 32 answers beside each other.
const WIDE: Limits = Limits {
    max_requests: 64,
    max_sequences: 32,
    max_sequence_tokens: 1024,
    max_batch_rows: 128,
    total_tokens: 40_000,
    ..LIMITS
};

/// `n` common tokens and `own` more, of which the first differs with `user`.
fn beginning(n: usize, own: usize, user: u64) -> Vec<TokenId> {
    let mut tokens = prompt(n, 77);
    tokens.push(TokenId(user as u32));
    tokens.extend(prompt(own - 1, 1000 + user));
    tokens
}

#[test]
fn a_common_beginning_is_computed_once() {
    // Together, one after the other, and in between; also where it is no multiple of the chunk.
    for (n_common, n_between) in [(512, 0), (512, 1), (512, 3), (500, 0), (16, 0), (17, 0)] {
        let mut host = Host::new(WIDE, None, endless);
        let prompts: Vec<_> = (0..32).map(|user| beginning(n_common, 9, user)).collect();
        let mut told = Vec::new();
        for (user, prompt) in (0..).zip(&prompts) {
            host.submit(&request(prompt, 4, user)).unwrap();
            (0..n_between).for_each(|_| told.extend(host.step(64)));
        }
        let n_ended = told.iter().filter(|event: &&Told| event.is_end()).count();
        told.extend(host.run(32 - n_ended, 64));
        // Each computes its own 9 prompt tokens and 3 of its 4 new ones.
        assert_eq!(host.n_rows, n_common + 32 * (9 + 3), "{n_common} {n_between}");
        let stats = host.edge.stats();
        assert_eq!(stats.cached_tokens, 31 * n_common as u64);
        assert_eq!(stats.prompt_tokens, 32 * (n_common as u64 + 9));
        assert_eq!(stats.decode_rows + stats.prefill_rows, host.n_rows as u64);
        for (user, prompt) in (0..).zip(&prompts) {
            let expected = alone(WIDE, endless, &request(prompt, 4, user));
            assert_eq!(answer(&told, user, 0), answer(&expected, user, 0));
        }
        let cached = |user| told.iter().rfind(|e| e.user == user).unwrap().n_cached_tokens;
        let n_cached: u32 = (0..32).map(cached).sum();
        assert_eq!(n_cached, 31 * n_common as u32);
    }
}

#[test]
fn answers_of_one_request_compute_its_prompt_once() {
    for n_prompt in [1, 2, 3, 16, 17, 18, 200] {
        let mut host = Host::new(WIDE, None, endless);
        let prompt = prompt(n_prompt, 5);
        let input = RequestInput { n_answers: 8, sampling: seeded(3), ..request(&prompt, 5, 1) };
        host.submit(&input).unwrap();
        let told = host.run(8, 64);
        assert_eq!(host.n_rows, n_prompt - 1 + 8 * 5, "{n_prompt}");
        let expected = alone(WIDE, endless, &input);
        (0..8).for_each(|n| assert_eq!(answer(&told, 1, n), answer(&expected, 1, n)));
    }
}

#[test]
fn a_begin_of_text_in_common_holds_up_nobody() {
    let mut host = Host::new(WIDE, None, endless);
    let prompts: Vec<_> = (0..8).map(|user| beginning(15, 5, user)).collect();
    for (user, prompt) in (0..).zip(&prompts) {
        host.submit(&request(prompt, 4, user)).unwrap();
    }
    host.step(64);
    // 15 tokens in common are not worth a step.
    assert_eq!((host.batch.n_rows(), host.batch.sequences.len()), (128, 7));
    host.run(8, 64);
    assert_eq!(host.kv.used_slots(), 0);
}

#[test]
fn a_cached_prompt_still_computes_its_last_token() {
    // K10: the same again, and its strict prefixes.
    let mut host = Host::new(WIDE, None, endless);
    let whole = prompt(40, 3);
    for n in [40, 40, 1, 2, 39, 40] {
        let n_rows = host.n_rows;
        let is_first = n_rows == 0;
        host.submit(&request(&whole[..n], 6, n as u64)).unwrap();
        let told = host.run(1, 8);
        let expected = alone(WIDE, endless, &request(&whole[..n], 6, n as u64));
        assert_eq!(answer(&told, n as u64, 0), answer(&expected, n as u64, 0));
        let n_cached = if is_first { 0 } else { n - 1 };
        assert_eq!(host.n_rows - n_rows, n - n_cached + 5);
        assert!(told.iter().all(|event| event.n_cached_tokens as usize == n_cached));
        assert!(told.iter().all(|event| event.n_prompt_tokens as usize == n));
    }
}

#[test]
fn an_answer_is_the_beginning_of_the_next_prompt() {
    let mut host = Host::new(WIDE, None, endless);
    let mut history = prompt(20, 3);
    for turn in 0..4 {
        let n_rows = host.n_rows;
        host.submit(&request(&history, 10, turn)).unwrap();
        let told = host.run(1, 8);
        // All but the last token of the last answer and what the user adds.
        let n_new = if turn == 0 { 20 } else { 5 + 1 };
        assert_eq!(host.n_rows - n_rows, n_new + 9);
        history.extend(ids(&answer(&told, turn, 0).0));
        history.extend(prompt(5, 100 + turn));
    }
}

#[test]
fn nothing_is_shared_across_namespaces() {
    // K07: the same prompt as base, adapter A, adapter B and A at another scale.
    let mut host = Host::new(WIDE, None, endless);
    let prompt = prompt(40, 3);
    for round in 0..2 {
        for name_space in [0, 1, 2, u64::MAX] {
            let n_rows = host.n_rows;
            host.submit(&RequestInput { name_space, ..request(&prompt, 3, 1) }).unwrap();
            let told = host.run(1, 8);
            let n_cached = if round == 0 { 0 } else { 39 };
            assert_eq!(host.n_rows - n_rows, 40 - n_cached + 2);
            assert!(told.iter().all(|event| event.n_cached_tokens as usize == n_cached));
        }
    }
    // Together, too: none waits for another.
    let prompt = beginning(40, 1, 9);
    for name_space in 3..7 {
        host.submit(&RequestInput { name_space, ..request(&prompt, 3, name_space) }).unwrap();
    }
    host.run(4, 8);
    let stats = host.edge.stats();
    assert_eq!(stats.cached_tokens, 4 * 39);
}

#[test]
fn tokens_with_equal_sums_are_different_tokens() {
    // K08: pairs that collide in a rolling hash, on every position.
    let mut host = Host::new(WIDE, None, endless);
    let base = prompt(40, 3);
    for at in 0..39 {
        let mut other = base.clone();
        other[at] = TokenId((base[at].0 + 31) % 200);
        other[at + 1] = TokenId((base[at + 1].0 + 199) % 200);
        for (user, prompt) in [(0, &base), (1, &other)] {
            host.submit(&request(prompt, 3, user)).unwrap();
            let told = host.run(1, 8);
            let expected = alone(WIDE, endless, &request(prompt, 3, user));
            assert_eq!(answer(&told, user, 0), answer(&expected, user, 0));
        }
    }
}

#[test]
fn without_room_for_namespaces_requests_run_without_a_cache() {
    let mut host = Host::new(Limits { max_batch_rows: 16, ..WIDE }, None, endless);
    let prompt = prompt(40, 3);
    for name_space in 0..1100 {
        host.submit(&RequestInput { name_space, n_answers: 2, ..request(&prompt, 3, name_space) })
            .unwrap();
        let told = host.run(2, 8);
        assert_eq!(answer(&told, name_space, 1).0.len(), 3);
    }
    assert_eq!(host.kv.used_slots(), 0);
}
