//! Known troubles of engines under load, as requests to a real engine with a tiny model.

mod serve_engine_common;

use larder::dtype::KvType;
use larder::engine::Engine;
use larder::error::Error;
use larder::options::Options;
use serve_engine_common::*;

const VOCABULARY: usize = 269;

fn small(total_tokens: u64) -> Options {
    Options { total_tokens, max_requests: 8, max_batch_rows: 16, ..ample() }
}

fn server(options: &Options) -> Server {
    Server::new(&chat_model(), options)
}

fn prompt(n: usize, seed: u64) -> Vec<larder::ids::TokenId> {
    Random(seed).tokens(n, VOCABULARY)
}

/// Case K01: a repo for one of two requests. Both end complete, and no step is spent on trying again.
#[test]
fn k01_two_requests_in_a_repo_for_one() {
    let wanted = [Wanted::greedy(&prompt(24, 1), 40), Wanted::greedy(&prompt(24, 2), 40)];
    let mut server = server(&small(64));
    for (user, wanted) in (0..).zip(&wanted) {
        wanted.submit(&server.port, user).unwrap();
    }
    server.run(2, 8);
    for (user, wanted) in (0..).zip(&wanted) {
        server.answer(user, 0).assert_is(&wanted.alone(&chat_model())[0], "K01");
    }
    // One after the other with prompts in two chunks takes 2 * 41 steps.
    assert!(server.n_steps <= 2 * 41, "{server:?}");
    server.assert_idle();
}

/// Case K04: what ends twice gives its slots back once.
#[test]
fn k04_a_cancel_meets_the_end() {
    let mut server = server(&small(64));
    let own = server.engine.sequence_open().unwrap();
    for n_steps in 0..6 {
        let wanted = Wanted::greedy(&prompt(9, n_steps), 3);
        let handle = wanted.submit(&server.port, n_steps).unwrap();
        // The answer ends in step 3; its last events are drained one by one.
        for _ in 0..n_steps {
            server.step(1);
        }
        (0..3).for_each(|_| server.port.edge.cancel(handle).unwrap());
        server.run(n_steps as usize + 1, 1);
        let _ = server.port.edge.cancel(handle);
        let end = server.answer(n_steps, 0).end;
        assert!(if n_steps > 2 { end == FULL } else { end == CANCELLED }, "{n_steps}: {end:?}");
        server.step(1);
        assert_eq!((server.stats().used_slots, server.engine.free_slots()), (0, 64));
    }
    server.engine.sequence_release(own).unwrap();
    for _ in 0..2 {
        let again = server.engine.sequence_release(own);
        assert!(matches!(again, Err(Error::StaleHandle(_))));
    }
    server.assert_idle();
}

/// Case K05: 500 requests, each cancelled while it waits, in the middle of its prompt, while it decodes, or when it
/// has ended and nobody has read it.
#[test]
fn k05_cancels_at_every_stage() {
    let mut server = server(&small(128));
    let mut random = Random(9);
    let (mut live, mut n_submitted, mut n_answers) = (Vec::new(), 0, 0);
    while n_submitted < 500 {
        let wanted = Wanted {
            n_answers: 1 + random.below(3) as u32,
            ..Wanted::greedy(&prompt(1 + random.below(60), random.next()), 10)
        };
        match wanted.submit(&server.port, n_submitted) {
            Ok(handle) => {
                n_answers += wanted.n_answers as usize;
                live.push((handle, random.below(12)));
                n_submitted += 1;
            }
            Err(Error::LimitReached(_)) => {}
            Err(error) => panic!("{error}"),
        }
        server.step(random.below(5));
        for (handle, n_left) in &mut live {
            if *n_left == 0 {
                // Its place may be another's by now.
                let _ = server.port.edge.cancel(*handle);
            }
            *n_left = n_left.wrapping_sub(1);
        }
        live.retain(|&(_, n_left)| n_left != usize::MAX);
    }
    server.run(n_answers, 8);
    server.assert_idle();
}

/// Case K08: prompts that collide in rolling hashes, (t, u) and (t + 31, u - 1), never share what follows.
#[test]
fn k08_equal_hashes_of_different_prompts() {
    let mut server = server(&small(512));
    let base = prompt(40, 3);
    let mut n = 0;
    for place in [0, 19, 38] {
        for (add, less) in [(0, 0), (31, 1), (62, 2), (0, 0)] {
            let mut tokens = base.clone();
            tokens[place].0 = tokens[place].0 % 100 + 10 + add;
            tokens[place + 1].0 = tokens[place + 1].0 % 100 + 10 - less;
            let wanted = Wanted::greedy(&tokens, 8);
            wanted.submit(&server.port, n).unwrap();
            server.run(n as usize + 1, 8);
            server.answer(n, 0).assert_is(&wanted.alone(&chat_model())[0], "K08");
            n += 1;
        }
    }
    server.assert_idle();
}

/// Case K10: a prompt that is cached as a whole, then its beginnings. The last token is always computed.
#[test]
fn k10_whole_prompts_from_the_cache() {
    let whole = prompt(40, 4);
    let mut server = server(&small(256));
    for (user, n) in (0..).zip([40, 40, 1, 39, 2, 40, 1]) {
        let wanted = Wanted::greedy(&whole[..n], 6);
        let before = server.stats();
        wanted.submit(&server.port, user).unwrap();
        server.run(user as usize + 1, 8);
        server.step(1);
        let answer = server.answer(user, 0);
        answer.assert_is(&wanted.alone(&chat_model())[0], &format!("{n} tokens"));
        assert!(answer.n_cached_tokens < n as u32, "{n}: {answer:?}");
        // Each drawn token comes of a step that computed a row.
        let n_steps = server.stats().steps - before.steps;
        assert!(n_steps >= answer.tokens.len() as u64, "{n_steps} steps: {answer:?}");
    }
    server.assert_idle();
}

/// Case K11: tokens are never shifted to other positions. A sequence can lose its end only, and a full one ends.
#[test]
fn k11_nothing_is_shifted() {
    let options = Options { max_sequence_tokens: 12, ..small(64) };
    let mut server = server(&options);
    let engine = &mut server.engine;
    let sequence = engine.sequence_open().unwrap();
    let tokens = prompt(12, 5);
    let whole = append(engine, sequence, &tokens).unwrap();
    let refused = append(engine, sequence, &tokens[..1]).unwrap_err();
    assert!(matches!(&refused, Error::LimitReached(text) if text.contains("12")), "{refused}");
    for n in [7, 3, 0] {
        engine.sequence_truncate(sequence, n as u64).unwrap();
        let longer = engine.sequence_truncate(sequence, n as u64 + 1).unwrap_err();
        assert!(matches!(longer, Error::InvalidArgument(_)), "{longer}");
        assert_eq!(append(engine, sequence, &tokens[n..]).unwrap(), whole, "cut to {n}");
    }
    engine.sequence_release(sequence).unwrap();
    let wanted = Wanted::greedy(&tokens[..5], 0);
    wanted.submit(&server.port, 1).unwrap();
    server.run(1, 8);
    let answer = server.answer(1, 0);
    let n_tokens = 5 + answer.tokens.len();
    assert!(answer.end == FULL && (12..=13).contains(&n_tokens), "{answer:?}");
    server.assert_idle();
}

/// Case K14: with any K and V that there are a full context is an ordinary end. 8-bit ones are the device's, and
/// positions in several dimensions are nobody's: both are refused at create.
#[test]
fn k14_nothing_is_unsupported_only_when_the_context_is_full() {
    for kind in [KvType::F32, KvType::F16, KvType::BF16, KvType::Int8, KvType::Fp8] {
        let options = Options { max_sequence_tokens: 32, k_type: kind, v_type: kind, ..small(64) };
        if matches!(kind, KvType::Int8 | KvType::Fp8) {
            let error = Engine::create(&chat_model(), &options).err().unwrap();
            assert!(matches!(error, Error::Unsupported(_)), "{kind:?}: {error}");
            continue;
        }
        let mut server = server(&options);
        Wanted::greedy(&prompt(20, 6), 0).submit(&server.port, 1).unwrap();
        server.run(1, 8);
        assert_eq!(server.answer(1, 0).end, FULL, "{kind:?}");
        server.assert_idle();
    }
    let mrope = r#""rope_type": "mrope", "mrope_section": [2, 3, 3]"#;
    let folder = chat_model_with(r#""rope_type": "default""#, mrope);
    let error = Engine::create(folder.path(), &small(64)).err().unwrap();
    assert!(error.to_string().contains("mrope"), "{error}");
}

/// Case S08: a seeded request's tokens do not change with its companions, their seeds, places and arrival.
#[test]
fn s08_seeds_are_private() {
    let a = Wanted::seeded(&prompt(17, 7), 24, 42);
    let alone = &a.alone(&chat_model())[0];
    let companions = [
        Wanted::greedy(&prompt(9, 8), 30),
        Wanted::seeded(&prompt(9, 8), 30, 0),
        Wanted::seeded(&prompt(9, 8), 30, 42),
        Wanted::seeded(&prompt(17, 7), 30, 43),
    ];
    for (number, companion) in companions.iter().enumerate() {
        for joins_at in [None, Some(0), Some(5)] {
            let mut server = server(&small(256));
            if joins_at.is_none() {
                companion.submit(&server.port, 2).unwrap();
            }
            a.submit(&server.port, 1).unwrap();
            if let Some(n) = joins_at {
                for _ in 0..n {
                    server.step(8);
                }
                companion.submit(&server.port, 2).unwrap();
            }
            server.run(2, 8);
            let what = format!("companion {number} joins at {joins_at:?}");
            server.answer(1, 0).assert_is(alone, &what);
            server.assert_idle();
        }
    }
}

/// Case S10: the guarantee is equal bits, whoever else is in the batch, however the prompt is cut, cached or not.
#[test]
fn s10_greedy_answers_do_not_depend_on_the_batch() {
    let wanted = Wanted { n_answers: 1, ..Wanted::greedy(&prompt(70, 10), 16) };
    let alone = &wanted.alone(&chat_model())[0];
    for n_companions in [0, 1, 4, 16] {
        for max_batch_rows in [1, 7, 64] {
            let options = Options {
                max_batch_rows,
                max_sequences: 20,
                max_requests: 20,
                total_tokens: 4000,
                ..small(0)
            };
            let mut server = server(&options);
            let mut random = Random(u64::from(max_batch_rows));
            for user in 1..=n_companions {
                let n_prompt = 1 + random.below(90);
                let companion = Wanted::seeded(&prompt(n_prompt, user), 1 + user as u32, user);
                companion.submit(&server.port, user).unwrap();
            }
            wanted.submit(&server.port, 0).unwrap();
            server.run(n_companions as usize + 1, 64);
            let what = format!("{n_companions} others, {max_batch_rows} rows");
            server.answer(0, 0).assert_is(alone, &what);
            wanted.submit(&server.port, 100).unwrap();
            server.run(n_companions as usize + 2, 64);
            server.answer(100, 0).assert_is(alone, &format!("{what}, again"));
            server.assert_idle();
        }
    }
}

/// Case S11: with any part of the text as the stop, what is delivered is the text before its first place.
#[test]
fn s11_stops_cut_from_the_answer_itself() {
    let wanted = Wanted::seeded(&prompt(12, 11), 24, 5);
    let whole = &wanted.alone(&chat_model())[0];
    let text = whole.text();
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut server = server(&small(256));
    let mut user = 0;
    for (i, &first) in places.iter().enumerate() {
        for &end in places[i + 1..].iter().take(9).step_by(2) {
            let stops = vec!["no such text".to_owned(), text[first..end].to_owned()];
            let expected = &text[..text.find(&stops[1]).unwrap()];
            let stopped = Wanted { stops, ..wanted.clone() };
            stopped.submit(&server.port, user).unwrap();
            server.run(user as usize + 1, 1 + user as usize % 3);
            let answer = server.answer(user, 0);
            assert_eq!((answer.text().as_str(), answer.end), (expected, STOPPED), "{stopped:?}");
            // Every piece is final: what was delivered at any time is the beginning of the whole.
            assert_eq!(answer.tokens, whole.tokens[..answer.tokens.len()]);
            user += 1;
        }
    }
    assert!(user > 50, "only {user} stops in {text:?}");
    // Held back for a stop that does not come, and flushed at the end.
    let last = text.chars().last().unwrap();
    let unfinished = Wanted { stops: vec![format!("{last}\u{1F600}")], ..wanted.clone() };
    unfinished.submit(&server.port, user).unwrap();
    server.run(user as usize + 1, 8);
    assert_eq!(server.answer(user, 0).text(), text);
    server.assert_idle();
}
