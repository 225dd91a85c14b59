//! Scheduling against a mock model: who runs, which rows, what comes out, and that everything is given back.

mod serve_common;

use larder::ids::TokenId;
use larder::serve::{EventKind, Failure, Limits, RequestInput};
use serve_common::*;

#[test]
fn nothing_to_do_gives_no_rows() {
    let mut host = Host::new(LIMITS, None, hashed);
    assert!(host.step(8).is_empty());
    assert_eq!(host.batch.n_rows(), 0);
    assert_eq!(host.scheduler.n_sample_rows(), 0);
}

#[test]
fn a_prompt_is_computed_in_chunks_beside_decode_rows() {
    let mut host = Host::new(LIMITS, None, endless);
    let (short, long) = (prompt(3, 1), prompt(40, 2));
    host.submit(&request(&short, 10, 1)).unwrap();
    assert_eq!(host.step(8).len(), 1);
    host.submit(&request(&long, 2, 2)).unwrap();
    let mut rows = Vec::new();
    for _ in 0..3 {
        let told = host.step(8);
        rows.push((host.batch.n_rows(), told.len()));
    }
    // 15 prompt tokens beside one decode row; the last chunk of 10 gives its first token at once.
    assert_eq!(rows, [(16, 1), (16, 1), (11, 2)]);
    let told = host.run(2, 8);
    assert_eq!(told.iter().rfind(|event| event.user == 1).unwrap().n_prompt_tokens, 3);
    assert_eq!(host.kv.free_slots(), 128);
}

#[test]
fn a_repo_for_one_request_serves_two() {
    // K01
    let limits = Limits { total_tokens: 64, ..LIMITS };
    let mut host = Host::new(limits, None, endless);
    let prompts = [prompt(24, 1), prompt(24, 2)];
    for (user, prompt) in (0..).zip(&prompts) {
        host.submit(&request(prompt, 40, user)).unwrap();
    }
    let told = host.run(2, 8);
    for (user, prompt) in (0..).zip(&prompts) {
        let mut alone = Host::new(limits, None, endless);
        alone.submit(&request(prompt, 40, user)).unwrap();
        let (tokens, text, end) = answer(&told, user, 0);
        assert_eq!((tokens.len(), text.as_str(), end), (40, "", FULL));
        assert_eq!((tokens, text, end), answer(&alone.run(1, 8), user, 0));
    }
    assert_eq!(host.kv.free_slots(), 64);
    // 2 chunks and 39 decode steps each, one after the other: nothing is tried twice.
    assert!(host.n_steps <= 2 * 41, "{} steps", host.n_steps);
}

#[test]
fn capacities_from_one_on_give_exactly_what_fits() {
    // K02
    for capacity in [1_u32, 2, 3, 32] {
        for (max_sequence_tokens, total_tokens) in
            [(capacity, 128), (64, capacity), (capacity, capacity)]
        {
            for n_prompt in capacity.saturating_sub(2)..=capacity + 1 {
                for max_new in 0..=2 {
                    let limits = Limits { max_sequence_tokens, total_tokens, ..LIMITS };
                    check_capacity(limits, capacity, n_prompt, max_new);
                }
            }
        }
    }
}

fn check_capacity(limits: Limits, capacity: u32, n_prompt: u32, max_new: u32) {
    let mut host = Host::new(limits, None, endless);
    let prompt = prompt(n_prompt as usize, 5);
    let submitted = host.submit(&request(&prompt, max_new, 1));
    if n_prompt == 0 || n_prompt > capacity {
        let message = submitted.unwrap_err().to_string();
        assert!(n_prompt == 0 || message.contains(&format!("has {n_prompt} tokens")), "{message}");
        assert!(n_prompt == 0 || message.contains(&format!("is {capacity}")), "{message}");
        return;
    }
    // The last token needs no slot.
    let room = capacity - n_prompt + 1;
    let expected = if max_new == 0 { room } else { max_new.min(room) };
    let (tokens, _, end) = answer(&host.run(1, 2), 1, 0);
    assert_eq!((tokens.len() as u32, end), (expected, FULL), "{limits:?} {n_prompt} {max_new}");
    assert_eq!(host.kv.free_slots(), limits.total_tokens);
}

#[test]
fn cancels_at_every_stage_leak_nothing() {
    // K05: queued, in the middle of a prompt, decoding, ended and unread, ended and read.
    let mut host = Host::new(LIMITS, None, endless);
    let mut random = 1;
    let mut told = Vec::new();
    let mut n_submitted = 0;
    let mut handles = Vec::new();
    while n_submitted < 500 {
        random = mix(random);
        let prompt = prompt(1 + (random >> 8) as usize % 50, random);
        let n_answers = 1 + (random >> 16) as u32 % 3;
        let new = 1 + (random >> 24) as u32 % 12;
        let input = RequestInput { n_answers, ..request(&prompt, new, n_submitted) };
        if let Ok(handle) = host.submit(&input) {
            handles.push((handle, n_answers));
            n_submitted += 1;
        }
        if random & 1 == 0 {
            told.extend(host.step((random >> 32) as usize % 4));
        }
        let (victim, _) = handles[(random >> 40) as usize % handles.len()];
        let newest = handles[handles.len() - 1].0;
        match random & 6 {
            0 => host.edge.cancel(newest).unwrap(),
            // Perhaps of a place that is another's by now.
            2 => drop(host.edge.cancel(victim)),
            _ => {}
        }
    }
    let n_answers: u32 = handles.iter().map(|&(_, n)| n).sum();
    let n_ended = told.iter().filter(|event: &&Told| event.is_end()).count();
    told.extend(host.run(n_answers as usize - n_ended, 3));
    assert!(host.step(100).is_empty());
    for (user, (_, n)) in (0..).zip(&handles) {
        (0..*n).for_each(|number| assert!(answer(&told, user, number).2.is_some()));
    }
    assert_eq!((host.kv.free_slots(), host.kv.n_sequences()), (128, 0));
}

#[test]
fn a_cancel_frees_slots_at_once_and_tells_it() {
    let mut host = Host::new(LIMITS, None, endless);
    let prompts = [prompt(30, 1), prompt(30, 2)];
    let running =
        host.submit(&RequestInput { n_answers: 2, ..request(&prompts[0], 30, 1) }).unwrap();
    let waiting = host.submit(&request(&prompts[1], 30, 2)).unwrap();
    for _ in 0..4 {
        host.step(8);
    }
    host.edge.cancel(waiting).unwrap();
    host.edge.cancel(running).unwrap();
    host.edge.cancel(running).unwrap();
    let told = host.step(8);
    assert_eq!(told.len(), 3);
    assert!(told.iter().all(|event| Some(event.kind) == CANCELLED));
    assert_eq!((host.batch.n_rows(), host.kv.free_slots()), (0, 128));
    host.edge.cancel(running).unwrap();
    assert!(host.step(8).is_empty());
}

#[test]
fn answers_in_company_are_those_alone() {
    // S08, S10, K16's neighbour: random companions, cancels and event capacities around 40 watched requests.
    let limits = Limits { max_batch_rows: 7, max_sequences: 5, ..LIMITS };
    let mut host = Host::new(limits, None, hashed);
    let mut random = 42;
    let (mut told, mut submitted, mut n_ends) = (Vec::new(), Vec::new(), 0);
    while submitted.len() < 40
        || told.iter().filter(|event: &&Told| event.is_end()).count() < n_ends
    {
        random = mix(random);
        let (n_prompt, n_new) = (1 + (random >> 8) as usize % 30, (random >> 16) as u32 % 20);
        let user = submitted.len() as u64;
        if submitted.len() < 40 && random & 3 == 0 {
            let (n_answers, is_company) = (1 + (random >> 24) as u32 % 3, random & 16 == 0);
            let prompt = prompt(n_prompt, user);
            let sampling = if random & 8 == 0 { seeded(user) } else { Default::default() };
            let input = RequestInput { n_answers, sampling, ..request(&prompt, n_new, user) };
            if let Ok(handle) = host.submit(&input) {
                submitted.push((prompt.clone(), n_new, n_answers, sampling, is_company, handle));
                n_ends += n_answers as usize;
            }
        }
        if let Some((.., is_company, handle)) = submitted.get((random >> 32) as usize % 64)
            && *is_company
        {
            let _ = host.edge.cancel(*handle);
        }
        told.extend(host.step((random >> 40) as usize % 5));
    }
    for (user, (prompt, n_new, n_answers, sampling, is_company, _)) in (0..).zip(submitted) {
        let mut alone = Host::new(limits, None, hashed);
        let input = RequestInput { n_answers, sampling, ..request(&prompt, n_new, user) };
        alone.submit(&input).unwrap();
        let expected = alone.run(n_answers as usize, 8);
        for number in 0..n_answers {
            let (tokens, _, end) = answer(&told, user, number);
            let (alone, _, alone_end) = answer(&expected, user, number);
            if is_company && end == CANCELLED {
                assert_eq!(tokens, alone[..tokens.len()]);
            } else {
                assert_eq!((tokens, end), (alone, alone_end), "request {user}, answer {number}");
            }
        }
    }
    assert_eq!((host.kv.free_slots(), host.kv.n_sequences()), (128, 0));
}

#[test]
fn each_answer_draws_with_its_own_seed() {
    // Answer i equals a request of its own with seed + i, for prompts from one token on.
    for n_prompt in [1, 2, 17, 33] {
        let prompt = prompt(n_prompt, 3);
        let mut host = Host::new(LIMITS, None, endless);
        let sampling = seeded(u64::MAX);
        let input = RequestInput { n_answers: 3, sampling, ..request(&prompt, 9, 1) };
        host.submit(&input).unwrap();
        let told = host.run(3, 8);
        let mut answers = Vec::new();
        for number in 0..3 {
            let mut alone = Host::new(LIMITS, None, endless);
            let sampling = seeded(u64::MAX.wrapping_add(u64::from(number)));
            alone.submit(&RequestInput { sampling, ..request(&prompt, 9, 1) }).unwrap();
            assert_eq!(answer(&told, 1, number), answer(&alone.run(1, 8), 1, 0));
            answers.push(answer(&told, 1, number).0);
        }
        assert!(answers[0] != answers[1] && answers[1] != answers[2]);
        assert_eq!(host.kv.free_slots(), 128);
    }
}

#[test]
fn answers_share_the_prompts_slots() {
    let mut host = Host::new(LIMITS, None, endless);
    let prompt = prompt(41, 3);
    host.submit(&RequestInput { n_answers: 4, ..request(&prompt, 8, 1) }).unwrap();
    let mut most = 0;
    for _ in 0..20 {
        host.step(8);
        most = most.max(host.kv.used_slots());
    }
    // 40 shared ones, and for each answer the prompt's last token and all but its own last one, at most.
    assert!((40 + 3 * 7..=40 + 4 * 8).contains(&most), "{most}");
    assert_eq!(host.n_rows, 40 + 4 * 8);
    assert_eq!(host.kv.used_slots(), 0);
}

#[test]
fn a_row_that_is_not_a_number_fails_alone() {
    // S02
    let mut host = Host::new(LIMITS, None, |history, row| match history {
        [.., POISON] => larder::backend::ops::SampleResult::NonFinite,
        _ => endless(history, row),
    });
    let (good, bad) = (prompt(9, 1), [TokenId(3), POISON]);
    host.submit(&request(&bad, 5, 1)).unwrap();
    host.submit(&request(&good, 5, 2)).unwrap();
    let told = host.run(2, 8);
    assert_eq!(answer(&told, 1, 0), (vec![], String::new(), NON_FINITE));
    let (tokens, _, end) = answer(&told, 2, 0);
    assert_eq!((tokens.len(), end), (5, FULL));
    assert_eq!(host.kv.free_slots(), 128);
}

#[test]
fn the_stop_token_ends_and_is_no_token_event() {
    let mut host =
        Host::new(LIMITS, None, |history, _| token(if history.len() < 4 { 9 } else { 255 }));
    host.submit(&request(&ids(&[1, 2]), 50, 1)).unwrap();
    let told = host.run(1, 8);
    assert_eq!(answer(&told, 1, 0), (vec![9, 9], String::new(), STOPPED));
    let end = told.last().unwrap();
    assert_eq!((end.token, end.logprob), (Some(STOP), -0.5));
}

#[test]
fn a_failed_forward_ends_what_runs() {
    let mut host = Host::new(LIMITS, None, endless);
    let prompts: Vec<_> = (0..6).map(|seed| prompt(20, seed)).collect();
    for (user, prompt) in (0..).zip(&prompts) {
        host.submit(&request(prompt, 10, user)).unwrap();
    }
    host.step(8);
    host.scheduler.schedule(&mut host.kv, &mut host.batch).unwrap();
    host.scheduler.fail_all(&mut host.kv).unwrap();
    assert_eq!((host.kv.free_slots(), host.scheduler.n_sample_rows()), (128, 0));
    let told = host.run(6, 3);
    let failed = Some(EventKind::Failed(Failure::Forward));
    let ends: Vec<_> = (0..6).map(|user| answer(&told, user, 0).2).collect();
    assert_eq!(ends, [failed, failed, failed, failed, FULL, FULL]);
}

#[test]
fn a_host_that_takes_the_slots_itself_fails_the_request_only() {
    let mut host = Host::new(LIMITS, None, endless);
    let own = host.kv.open().unwrap();
    let mut slots = vec![Default::default(); 60];
    host.kv.append(own, &mut slots).unwrap();
    let (long, short) = (prompt(40, 1), prompt(5, 2));
    // 68 are free: the first takes 63 at most, the second waits until it has ended.
    host.submit(&request(&long, 24, 1)).unwrap();
    host.submit(&request(&short, 4, 2)).unwrap();
    host.step(8);
    host.kv.truncate(own, 40).unwrap();
    let other = host.kv.fork(own, 1).unwrap();
    let mut slots = vec![Default::default(); 40];
    host.kv.append(other, &mut slots).unwrap();
    let told = host.run(2, 8);
    assert_eq!(answer(&told, 1, 0).2, OUT_OF_SLOTS);
    assert_eq!(answer(&told, 2, 0).2, FULL);
    host.kv.release(own).unwrap();
    host.kv.release(other).unwrap();
    assert_eq!(host.kv.free_slots(), 128);
}

#[test]
fn a_host_that_takes_the_sequences_itself_fails_a_lone_request() {
    let mut host = Host::new(LIMITS, None, endless);
    let own: Vec<_> = (0..3).map(|_| host.kv.open().unwrap()).collect();
    host.submit(&RequestInput { n_answers: 2, ..request(&prompt(20, 1), 4, 1) }).unwrap();
    let told = host.run(2, 8);
    assert_eq!(answer(&told, 1, 0).2, FULL);
    // One after the other.
    assert_eq!(answer(&told, 1, 1).2, FULL);
    let more = host.kv.open().unwrap();
    host.submit(&RequestInput { n_answers: 2, ..request(&prompt(20, 1), 4, 2) }).unwrap();
    let told = host.run(2, 8);
    assert_eq!(answer(&told, 2, 1).2, Some(EventKind::Failed(Failure::SequenceLimit)));
    assert_eq!(answer(&told, 2, 0).2, Some(EventKind::Failed(Failure::SequenceLimit)));
    own.into_iter().chain([more]).for_each(|sequence| host.kv.release(sequence).unwrap());
    assert_eq!(host.kv.free_slots(), 128);
}

#[test]
fn small_event_arrays_lose_nothing() {
    let prompts: Vec<_> = (0..8).map(|seed| prompt(3 + seed as usize, seed)).collect();
    let mut expected = Vec::new();
    for capacity in [100, 1, 2, 3] {
        let mut host = Host::new(LIMITS, None, hashed);
        for (user, prompt) in (0..).zip(&prompts) {
            let sampling = larder::backend::ops::Sampling { n_logprobs: 20, ..seeded(9) };
            let input = RequestInput { sampling, ..request(prompt, 12, user) };
            host.submit(&input).unwrap();
        }
        assert!(host.step(0).is_empty());
        let told = host.run(8, capacity);
        let answers: Vec<_> = (0..8).map(|user| answer(&told, user, 0)).collect();
        if capacity == 100 {
            expected = answers;
            continue;
        }
        assert_eq!(answers, expected, "capacity {capacity}");
        assert!(told.iter().all(|event| event.is_end() || event.top.len() == 20));
        assert_eq!(host.kv.free_slots(), 128);
    }
}

#[test]
fn more_answers_than_batch_rows_take_turns() {
    let limits = Limits { max_batch_rows: 1, max_logits_rows: 1, ..LIMITS };
    let mut host = Host::new(limits, None, endless);
    let prompts: Vec<_> = (0..4).map(|seed| prompt(7, seed)).collect();
    for (user, prompt) in (0..).zip(&prompts) {
        host.submit(&request(prompt, 5, user)).unwrap();
    }
    let told = host.run(4, 8);
    (0..4).for_each(|user| assert_eq!(answer(&told, user, 0).2, FULL));
    assert_eq!(host.n_steps, 4 * (7 + 4));
}
