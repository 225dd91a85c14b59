//! Many requests on one engine whose KV repo is far too small for all of them: every answer is the one that the
//! request gets alone, bit for bit, and no slot is lost.

mod serve_engine_common;

use std::time::Duration;

use larder::backend::ops::Sampling;
use larder::error::Error;
use larder::options::Options;
use serve_engine_common::*;

/// Prompts of `1 ..= max_prompt` tokens, half of them with a common beginning, greedy and seeded, with and without
/// stops, of one to three answers.
fn mixed(n: usize, max_prompt: usize, max_new: usize, seed: u64) -> Vec<Wanted> {
    const VOCABULARY: usize = 269;
    let mut random = Random(seed);
    let beginnings: Vec<_> = (0..3).map(|_| random.tokens(max_prompt, VOCABULARY)).collect();
    (0..n)
        .map(|i| {
            let n_prompt = 1 + random.below(max_prompt);
            let n_common = if i % 2 == 0 { random.below(n_prompt + 1) } else { 0 };
            let mut prompt = beginnings[random.below(3)][..n_common].to_vec();
            prompt.extend(random.tokens(n_prompt - n_common, VOCABULARY));
            let n_logprobs = if i % 5 == 0 { 3 } else { 0 };
            let temperature = if i % 3 == 0 { 0.0 } else { 1.0 };
            let repetition_penalty = if i % 7 == 0 { 1.3 } else { 0.0 };
            let stops = if i % 4 == 0 { vec!["e".into(), "th".into()] } else { vec![] };
            Wanted {
                prompt,
                max_new: 1 + random.below(max_new) as u32,
                n_answers: [1, 2, 3, 1][i % 4],
                sampling: Sampling {
                    temperature,
                    repetition_penalty,
                    n_logprobs,
                    seed: random.next(),
                    ..Sampling::default()
                },
                stops,
                hint: i as u32 / 2 % 2,
            }
        })
        .collect()
}

/// The most slots that one of them may need.
fn largest(all: &[Wanted]) -> u64 {
    all.iter().map(Wanted::max_slots).max().unwrap()
}

/// 8 threads submit, and cancel every `cancels`-th request some time later; this one steps.
fn serve_from_8_threads(server: &mut Server, wanted: &[Wanted], capacity: usize, cancels: u64) {
    let n_answers: u32 = wanted.iter().map(|wanted| wanted.n_answers).sum();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let port = server.port.clone();
            scope.spawn(move || {
                for (user, wanted) in (0..).zip(wanted).skip(thread).step_by(8) {
                    let handle = port.submit_when_possible(wanted, user);
                    if user % cancels == cancels - 1 {
                        std::thread::sleep(Duration::from_micros(user * 977 % 3000));
                        // Its place may be another's by now.
                        let _ = port.edge.cancel(handle);
                    }
                }
            });
        }
        server.run(n_answers as usize, capacity);
    });
}

#[test]
fn requests_of_8_threads_get_the_answers_that_they_get_alone() {
    let wanted = mixed(64, 200, 64, 1);
    let total_tokens = largest(&wanted);
    let needed: u64 = wanted.iter().map(Wanted::max_slots).sum();
    assert!(needed > 15 * total_tokens, "{needed} of {total_tokens}");
    let options = Options {
        n_threads: 2,
        total_tokens,
        max_sequences: 16,
        max_requests: 32,
        max_batch_rows: 48,
        ..Options::default()
    };
    let mut server = Server::new(&chat_model(), &options);
    serve_from_8_threads(&mut server, &wanted, 7, u64::MAX);
    for (user, wanted) in (0..).zip(&wanted) {
        for (number, alone) in (0..).zip(wanted.alone(&chat_model())) {
            let what = format!("request {user}, answer {number}");
            server.answer(user, number).assert_is(&alone, &what);
        }
    }
    server.assert_idle();
    assert!(server.stats().pauses > 10, "{server:?}");
}

/// Cancels meet waiting requests, prompts in the middle of a pass, and answers; nobody else notices.
#[test]
fn cancels_of_8_threads_leave_all_others_as_they_are() {
    let wanted = mixed(48, 200, 64, 2);
    let alone: Vec<_> = wanted.iter().map(|wanted| wanted.alone(&chat_model())).collect();
    for round in 0..8 {
        let options = Options {
            n_threads: 2,
            total_tokens: largest(&wanted) + 100 * round,
            max_sequences: 3 + 2 * round as u32,
            max_requests: 32,
            max_batch_rows: 16 << (round % 3),
            ..Options::default()
        };
        let mut server = Server::new(&chat_model(), &options);
        serve_from_8_threads(&mut server, &wanted, 5, 2 + round % 2);
        for (user, alone) in (0..).zip(&alone) {
            for (number, alone) in (0..).zip(alone) {
                let what = format!("request {user}, answer {number}, round {round}");
                server.answer(user, number).assert_begins(alone, &what);
            }
        }
        server.assert_idle();
    }
}

/// As above without cancels, with a model of 135 million weights.
#[test]
fn requests_to_smollm2_get_the_answers_that_they_get_alone() {
    let Some(model) = smollm2() else { return };
    let wanted = mixed(64, 24, 6, 5);
    let options = Options {
        n_threads: 2,
        total_tokens: largest(&wanted) + 20,
        max_sequences: 8,
        max_requests: 20,
        max_batch_rows: 32,
        ..Options::default()
    };
    let mut server = Server::new(&model, &options);
    serve_from_8_threads(&mut server, &wanted, 7, u64::MAX);
    let mut ample = Server::new(&model, &Options { n_threads: 2, ..ample() });
    for (user, wanted) in (0..).zip(&wanted) {
        for (number, alone) in (0..).zip(wanted.alone_on(&mut ample)) {
            let what = format!("request {user}, answer {number}");
            server.answer(user, number).assert_is(&alone, &what);
        }
    }
    server.assert_idle();
}

/// A request of the catalogue and its answers.
type Known = (Wanted, Vec<Answer>);

/// One engine of random sizes, some requests, random cancels.
fn round(catalogue: &[Known], random: &mut Random) -> larder::serve::Stats {
    let n = 1 + random.below(12);
    let chosen: Vec<&Known> = (0..n).map(|_| &catalogue[random.below(catalogue.len())]).collect();
    let most = chosen.iter().map(|(wanted, _)| wanted.max_slots()).max().unwrap();
    let n_answers = chosen.iter().map(|(wanted, _)| wanted.n_answers).max().unwrap();
    let options = Options {
        n_threads: 1,
        total_tokens: most + random.below(most as usize / 2 + 1) as u64,
        max_sequences: n_answers + random.below(6) as u32,
        max_requests: 1 + random.below(n) as u32,
        max_batch_rows: [1, 2, 3, 7, 16, 64][random.below(6)],
        max_logits_rows: 1 + random.below(4) as u32,
        ..Options::default()
    };
    let capacity = 1 + random.below(8);
    let is_cancelling = random.below(2) == 0;
    let hint = random.below(3) as u32;
    let mut server = Server::new(&chat_model(), &options);
    let mut handles = Vec::new();
    let mut n_ends = 0;
    while handles.len() < n || server.n_ended < n_ends {
        if let Some((wanted, _)) = chosen.get(handles.len()) {
            let hinted = Wanted { hint, ..wanted.clone() };
            match hinted.submit(&server.port, handles.len() as u64) {
                Ok(handle) => {
                    handles.push(handle);
                    n_ends += wanted.n_answers as usize;
                }
                Err(Error::LimitReached(_)) => {}
                Err(error) => panic!("{options_text}: {error}", options_text = sizes(&options)),
            }
        }
        if is_cancelling && random.below(4) == 0 && !handles.is_empty() {
            // Perhaps one that has ended, or whose place is another's.
            let _ = server.port.edge.cancel(handles[random.below(handles.len())]);
        }
        if random.below(3) > 0 {
            server.step(capacity);
        }
    }
    for (user, (_, alone)) in (0..).zip(chosen) {
        for (number, alone) in (0..).zip(alone) {
            let what = format!("request {user}, answer {number}, {}", sizes(&options));
            server.answer(user, number).assert_begins(alone, &what);
        }
    }
    let stats = server.stats();
    server.assert_idle();
    stats
}

fn sizes(options: &Options) -> String {
    format!(
        "total_tokens {}, max_sequences {}, max_requests {}, max_batch_rows {}",
        options.total_tokens, options.max_sequences, options.max_requests, options.max_batch_rows
    )
}

#[test]
fn a_thousand_rounds_of_cancels_and_small_capacities() {
    let catalogue: Vec<Known> = mixed(48, 40, 20, 7)
        .into_iter()
        .map(|wanted| {
            let alone = wanted.alone(&chat_model());
            (wanted, alone)
        })
        .collect();
    let mut random = Random(3);
    let (mut n_pauses, mut n_cancelled) = (0, 0);
    for _ in 0..1000 {
        let stats = round(&catalogue, &mut random);
        n_pauses += stats.pauses;
        n_cancelled += stats.requests_cancelled;
    }
    assert!(n_pauses > 200 && n_cancelled > 1000, "{n_pauses} pauses, {n_cancelled} cancelled");
}
