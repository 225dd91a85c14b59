//! Cancels at every stage: they take effect soon, tell it once, and leave the KV repo as it should be.

mod serve_common;

use larder::serve::{Event, Limits, RequestInput};
use serve_common::*;

/// Answers' ends that are cancels.
fn n_cancelled(told: &[Told]) -> usize {
    told.iter().filter(|event| Some(event.kind) == CANCELLED).count()
}

#[test]
fn a_pass_stops_when_nobody_waits_for_it() {
    let mut host = Host::new(LIMITS, None, endless);
    let prompts = [prompt(40, 1), prompt(40, 2)];
    let handles: Vec<_> =
        (0..2).map(|i| host.submit(&request(&prompts[i], 9, i as u64)).unwrap()).collect();
    host.step(8);
    // One of two: the pass goes on.
    let (mut is_wanted, edge) = (true, host.edge.clone());
    host.schedule();
    assert_eq!(host.batch.sequences.len(), 1, "a chunk of the first prompt only");
    edge.cancel(handles[1]).unwrap();
    assert!(host.scheduler.is_wanted());
    host.finish_pass();
    assert_eq!(n_cancelled(&host.drain(8)), if host.n_steps.is_multiple_of(2) { 1 } else { 0 });
    // The last one: it stops, in the middle of a prompt.
    let told = host.step_with(8, |edge| edge.cancel(handles[0]).unwrap());
    is_wanted &= host.scheduler.is_wanted();
    assert_eq!((n_cancelled(&told), is_wanted), (1, true));
    assert_eq!((host.kv.used_slots(), host.kv.n_sequences()), (0, 0));
    // Of the first prompt two chunks are there, of the stopped pass nothing.
    assert_eq!(host.kv.tree_slots(), 32);
    host.submit(&request(&prompts[0], 9, 3)).unwrap();
    let told = host.run(1, 8);
    assert_eq!(told[0].n_cached_tokens, 32);
    let expected = alone(LIMITS, endless, &request(&prompts[0], 9, 3));
    assert_eq!(answer(&told, 3, 0), answer(&expected, 3, 0));
}

#[test]
fn who_is_cancelled_during_a_pass_draws_no_token_of_it() {
    let mut host = Host::new(LIMITS, None, endless);
    let prompts = [prompt(4, 1), prompt(4, 2)];
    let input = RequestInput { n_answers: 2, ..request(&prompts[0], 30, 0) };
    let first = host.submit(&input).unwrap();
    host.submit(&request(&prompts[1], 30, 1)).unwrap();
    let mut told = Vec::new();
    for _ in 0..5 {
        told.extend(host.step(8));
    }
    let n_before = [answer(&told, 0, 0).0.len(), answer(&told, 0, 1).0.len()];
    assert!(n_before[0] > 2 && n_before[1] > 2);
    let during = host.step_with(8, |edge| edge.cancel(first).unwrap());
    assert_eq!((during.len(), n_cancelled(&during)), (3, 2));
    told.extend(during);
    told.extend(host.run(1, 8));
    assert_eq!([answer(&told, 0, 0).0.len(), answer(&told, 0, 1).0.len()], n_before);
    assert_eq!(answer(&told, 1, 0).2, FULL);
}

#[test]
fn a_failed_pass_leaves_nothing_in_the_tree() {
    let mut host = Host::new(LIMITS, None, endless);
    let tokens = prompt(40, 1);
    host.submit(&request(&tokens, 9, 0)).unwrap();
    host.step(8);
    host.schedule();
    host.scheduler.fail_all(&mut host.kv).unwrap();
    assert_eq!(host.drain(8).len(), 1);
    assert!(host.kv.tree_slots() <= 16);
    host.submit(&request(&tokens, 9, 1)).unwrap();
    let told = host.run(1, 8);
    assert!(told[0].n_cached_tokens <= 16);
    let expected = alone(LIMITS, endless, &request(&tokens, 9, 1));
    assert_eq!(answer(&told, 1, 0), answer(&expected, 1, 0));
}

#[test]
fn paused_and_waiting_answers_can_be_cancelled() {
    let limits = Limits { total_tokens: 40, ..LIMITS };
    let mut host = Host::new(limits, None, endless);
    let prompts: Vec<_> = (0..4).map(|seed| prompt(8, seed)).collect();
    let mut handles = Vec::new();
    for (user, prompt) in (0..).zip(&prompts) {
        let input = RequestInput { expected_new_tokens: 1, ..request(prompt, 24, user) };
        handles.push(host.submit(&input).unwrap());
    }
    let mut told = Vec::new();
    while host.edge.stats().answers_paused == 0 {
        told.extend(host.step(8));
    }
    let stats = host.edge.stats();
    assert!(stats.requests_running >= 2);
    handles[1..].iter().for_each(|&handle| host.edge.cancel(handle).unwrap());
    let ended = host.step(8);
    assert_eq!(n_cancelled(&ended), 3);
    let stats = host.edge.stats();
    let counts = (stats.requests_running, stats.requests_waiting, stats.answers_paused);
    assert_eq!((counts, stats.requests_cancelled), ((1, 0, 0), 3));
    told.extend(ended);
    told.extend(host.run(1, 8));
    let expected = alone(limits, endless, &request(&prompts[0], 24, 0));
    assert_eq!(answer(&told, 0, 0), answer(&expected, 0, 0));
}

#[test]
fn cancelled_answers_that_wait_tell_it_as_events_fit() {
    // Eight requests of four answers, room for eight events, and a host that takes one at a time.
    let mut host = Host::new(LIMITS, None, endless);
    let tokens = prompt(8, 1);
    let input = RequestInput { n_answers: 4, ..request(&tokens, 24, 0) };
    let handles: Vec<_> = (0..8).map(|_| host.submit(&input).unwrap()).collect();
    host.step(0);
    handles.iter().for_each(|&handle| host.edge.cancel(handle).unwrap());
    let told = host.run(32, 1);
    assert_eq!(n_cancelled(&told), 32);
    host.step(1);
    let stats = host.edge.stats();
    assert_eq!((stats.requests_cancelled, stats.requests_running), (8, 0));
    host.submit(&input).unwrap();
    assert_eq!(n_cancelled(&host.run(4, 8)), 0);
}

#[test]
fn everything_comes_back_in_any_mix() {
    // K04, K05: random stages, also right before and after an end, and the whole repo after a flush.
    let mut host = Host::new(LIMITS, None, hashed);
    let (mut random, mut told, mut handles) = (7, Vec::new(), Vec::new());
    let mut n_answers = 0;
    while handles.len() < 500 {
        random = mix(random);
        let prompt = prompt(1 + (random >> 8) as usize % 50, random % 9);
        let input = RequestInput {
            n_answers: 1 + (random >> 16) as u32 % 3,
            expected_new_tokens: (random >> 20) as u32 % 4,
            priority: (random >> 28) as i32 % 2,
            name_space: (random >> 30) % 2,
            ..request(&prompt, 1 + (random >> 24) as u32 % 12, handles.len() as u64)
        };
        if let Ok(handle) = host.submit(&input) {
            handles.push(handle);
            n_answers += input.n_answers as usize;
        }
        let victim = handles.get((random >> 40) as usize % handles.len().max(1)).copied();
        let newest = handles.last().copied();
        told.extend(host.step_with((random >> 32) as usize % 5, |edge| {
            for handle in [victim.filter(|_| random & 3 == 0), newest.filter(|_| random & 4 == 0)] {
                handle.map(|handle| edge.cancel(handle));
            }
        }));
    }
    let n_ended = told.iter().filter(|event: &&Told| event.is_end()).count();
    told.extend(host.run(n_answers - n_ended, 3));
    assert!(host.step(9).is_empty());
    assert_eq!((host.kv.used_slots(), host.kv.n_sequences()), (0, 0));
    host.kv.flush();
    assert_eq!(host.kv.empty_slots(), 128);
    let stats = host.edge.stats();
    let ended = stats.requests_finished + stats.requests_cancelled + stats.requests_failed;
    assert_eq!((ended, stats.requests_waiting, stats.requests_running), (500, 0, 0));
    assert_eq!(host.scheduler.drain(&mut [Event::default()]), 0);
}
