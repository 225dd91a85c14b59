//! What submit refuses and why, and handles from any thread.

mod serve_common;

use larder::backend::ops::Sampling;
use larder::error::Error;
use larder::ids::{RequestHandle, TokenId};
use larder::serve::{Limits, MAX_BIASES, MAX_STOP_BYTES, MAX_STOPS, Prompt, RequestInput};
use larder::text::ConstraintKind;
use serve_common::*;

/// The refusal of a request that would be fine but for what `change` does.
fn refusal(change: impl Fn(&mut RequestInput<'_>)) -> Error {
    let host = Host::new(LIMITS, None, endless);
    let prompt = ids(&[1, 2, 3]);
    let mut input = request(&prompt, 4, 0);
    host.submit(&input).unwrap();
    change(&mut input);
    host.submit(&input).unwrap_err()
}

fn invalid(change: impl Fn(&mut RequestInput<'_>)) -> String {
    match refusal(change) {
        Error::InvalidArgument(message) => message,
        other => panic!("{other:?}"),
    }
}

fn sampled(sampling: Sampling) -> String {
    invalid(|input| input.sampling = sampling)
}

#[test]
fn sampling_out_of_range_is_refused_by_name() {
    // S01 and design.md's table
    let zero = Sampling::default();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, -f32::MIN_POSITIVE] {
        assert!(sampled(Sampling { temperature: bad, ..zero }).starts_with("temperature is "));
        assert!(sampled(Sampling { top_p: bad, ..zero }).starts_with("top_p is "));
        assert!(sampled(Sampling { min_p: bad, ..zero }).starts_with("min_p is "));
        let penalty = Sampling { repetition_penalty: bad, ..zero };
        assert!(sampled(penalty).starts_with("repetition_penalty is "));
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let presence = Sampling { presence_penalty: bad, ..zero };
        assert!(sampled(presence).starts_with("presence_penalty is "));
        let frequency = Sampling { frequency_penalty: bad, ..zero };
        assert!(sampled(frequency).starts_with("frequency_penalty is "));
    }
    assert!(sampled(Sampling { top_p: 1.0001, ..zero }).contains("0 ..= 1"));
    assert!(sampled(Sampling { min_p: 2.0, ..zero }).contains("0 ..= 1"));
    assert!(sampled(Sampling { n_logprobs: 21, ..zero }).contains("n_logprobs is 21, at most 20"));
}

#[test]
fn sampling_at_the_ends_of_its_ranges_is_taken() {
    // S04: top_k is off when 0 or beyond the vocabulary.
    let host = Host::new(LIMITS, None, endless);
    let prompt = ids(&[1]);
    for top_k in [0, 1, 255, 256, 257, u32::MAX] {
        let sampling = Sampling {
            temperature: [0.0, 1e-38, 1e-12, 1e4, f32::MAX, -0.0][(top_k % 6) as usize],
            top_k,
            top_p: (top_k % 2) as f32,
            min_p: (top_k % 2) as f32,
            repetition_penalty: f32::MAX,
            presence_penalty: -2.0,
            frequency_penalty: f32::MAX,
            seed: u64::MAX,
            n_logprobs: 20,
        };
        host.submit(&RequestInput { sampling, ..request(&prompt, 1, 0) }).unwrap();
    }
}

#[test]
fn tokens_beyond_the_vocabulary_are_refused_with_position_and_value() {
    // S05
    for (position, value) in [(0, 256), (1, 1 << 31), (2, u32::MAX)] {
        let mut prompt = ids(&[0, 255, 7]);
        prompt[position] = TokenId(value);
        let host = Host::new(LIMITS, None, endless);
        let message = host.submit(&request(&prompt, 1, 0)).unwrap_err().to_string();
        let expected = format!("prompt token {position} is {value}, but the vocabulary has 256");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn biases_are_checked() {
    // S07
    let biased = |token: u32, bias: f32| {
        let (tokens, biases) = (ids(&[3, token]), [0.5, bias]);
        let host = Host::new(LIMITS, None, endless);
        let prompt = ids(&[1]);
        let input =
            RequestInput { bias_tokens: &tokens, biases: &biases, ..request(&prompt, 1, 0) };
        host.submit(&input).map_err(|error| error.to_string())
    };
    assert!(biased(256, 0.0).unwrap_err().contains("bias_tokens[1] is 256"));
    assert!(biased(u32::MAX, 0.0).unwrap_err().contains("256 tokens"));
    assert!(biased(9, f32::NAN).unwrap_err().contains("biases[1] is NaN"));
    assert!(biased(9, f32::INFINITY).unwrap_err().contains("biases[1] is inf"));
    biased(9, f32::NEG_INFINITY).unwrap();
    biased(3, -1.0).unwrap();
    let many = vec![TokenId(0); MAX_BIASES + 1];
    let values = vec![0.0; MAX_BIASES + 1];
    let input =
        |n| RequestInput { bias_tokens: &many[..n], biases: &values[..n], ..Default::default() };
    let host = Host::new(LIMITS, None, endless);
    let prompt = ids(&[1]);
    let prompt = Prompt::Tokens(&prompt);
    host.submit(&RequestInput { prompt, ..input(MAX_BIASES) }).unwrap();
    let error = host.submit(&RequestInput { prompt, ..input(MAX_BIASES + 1) }).unwrap_err();
    assert!(error.to_string().contains("n_biases is 1025, at most 1024"));
    let uneven = RequestInput { prompt, biases: &values[..1], ..input(2) };
    assert!(host.submit(&uneven).unwrap_err().to_string().contains("2 bias_tokens and 1 biases"));
}

#[test]
fn what_could_never_fit_is_refused_with_both_numbers() {
    let message = invalid(|input| input.n_answers = 5);
    assert_eq!(message, "n_answers is 5, but max_sequences is 4");
    let long = prompt(65, 1);
    let host = Host::new(LIMITS, None, endless);
    let message = host.submit(&request(&long, 1, 1)).unwrap_err().to_string();
    assert_eq!(message, "the prompt has 65 tokens, but max_sequence_tokens is 64");
    let host = Host::new(Limits { total_tokens: 63, ..LIMITS }, None, endless);
    let message = host.submit(&request(&long[1..], 1, 1)).unwrap_err().to_string();
    assert_eq!(message, "the prompt has 64 tokens, but total_tokens is 63");
}

#[test]
fn answers_that_do_not_fit_beside_each_other_follow_one_another() {
    // 4 of 64 tokens in 128 slots.
    let mut host = Host::new(LIMITS, None, endless);
    let prompt = ids(&[1, 2, 3]);
    host.submit(&RequestInput { n_answers: 4, ..request(&prompt, 0, 1) }).unwrap();
    let told = host.run(4, 8);
    (0..4).for_each(|number| assert_eq!(answer(&told, 1, number).0.len(), 62));
}

#[test]
fn what_is_not_supported_is_said() {
    assert!(matches!(
        refusal(|input| input.constraint = Some((ConstraintKind::Regex, "a"))),
        Error::Unsupported(_)
    ));
    assert!(matches!(refusal(|input| input.stops = &["x"]), Error::Unsupported(_)));
    let text = Prompt::Text { text: "x", parse_special: false };
    assert!(matches!(refusal(|input| input.prompt = text), Error::Unsupported(_)));
    assert!(invalid(|input| input.prompt = Prompt::Tokens(&[])).contains("empty"));
}

#[test]
fn stops_are_checked() {
    let text = serve_common::text(&["a", "b"]);
    let host = Host::new(with_text(&text), Some(text), endless);
    let prompt = ids(&[1]);
    let long = "x".repeat(MAX_STOP_BYTES + 1);
    let refused = |stops: &[&str]| {
        host.submit(&RequestInput { stops, ..request(&prompt, 1, 0) }).unwrap_err().to_string()
    };
    assert!(refused(&["x"; MAX_STOPS + 1]).contains("n_stops is 17, at most 16"));
    assert!(refused(&["x", ""]).contains("stops[1] is empty"));
    assert!(refused(&[&long]).contains("stops[0] has 257 bytes, at most 256"));
    let most = [&long[1..]; MAX_STOPS];
    host.submit(&RequestInput { stops: &most, ..request(&prompt, 1, 0) }).unwrap();
}

#[test]
fn places_run_out_and_come_back() {
    let mut host = Host::new(LIMITS, None, endless);
    let prompt = ids(&[1, 2]);
    for user in 0..8 {
        host.submit(&request(&prompt, 3, user)).unwrap();
    }
    let error = host.submit(&request(&prompt, 3, 8)).unwrap_err();
    assert!(matches!(&error, Error::LimitReached(message) if message.contains("max_requests")));
    // What is wrong in itself is said first.
    assert!(matches!(host.submit(&request(&[], 3, 8)), Err(Error::InvalidArgument(_))));
    host.run(1, 8);
    host.submit(&request(&prompt, 3, 8)).unwrap();
}

#[test]
fn handles_stay_good_until_their_place_is_reused() {
    let mut host = Host::new(LIMITS, None, endless);
    let prompt = ids(&[1, 2]);
    let first = host.submit(&request(&prompt, 3, 0)).unwrap();
    assert_ne!(first, RequestHandle(0));
    host.run(1, 8);
    for user in 1..8 {
        host.submit(&request(&prompt, 3, user)).unwrap();
        host.run(1, 8);
        (0..3).for_each(|_| host.edge.cancel(first).unwrap());
    }
    let second = host.submit(&request(&prompt, 3, 8)).unwrap();
    assert_ne!(first, second);
    assert!(matches!(host.edge.cancel(first), Err(Error::StaleHandle(_))));
    // The stale cancel did not touch the one that is there now.
    assert_eq!(answer(&host.run(1, 8), 8, 0).2, FULL);
    for never in [0, 1, 8, 1 << 32 | 8, u64::MAX, second.0 + (1 << 32)] {
        assert!(matches!(host.edge.cancel(RequestHandle(never)), Err(Error::StaleHandle(_))));
    }
}

#[test]
fn any_thread_submits_and_cancels_while_another_steps() {
    let mut host = Host::new(LIMITS, None, endless);
    let edge = host.edge.clone();
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            let edge = edge.clone();
            std::thread::spawn(move || {
                for i in 0..50 {
                    let user = thread * 50 + i;
                    let prompt = prompt(1 + i as usize % 20, user);
                    let input = request(&prompt, 1 + i as u32 % 5, user);
                    let handle = loop {
                        match edge.submit(None, &input) {
                            Ok(handle) => break handle,
                            Err(Error::LimitReached(_)) => std::thread::yield_now(),
                            Err(error) => panic!("{error}"),
                        }
                    };
                    if i % 3 == 0 {
                        let _ = edge.cancel(handle);
                    }
                }
            })
        })
        .collect();
    let mut told = Vec::new();
    while told.iter().filter(|event: &&Told| event.is_end()).count() < 200 {
        told.extend(host.step(8));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for user in 0..200 {
        let (tokens, _, end) = answer(&told, user, 0);
        let i = user % 50;
        assert!(end == FULL || i % 3 == 0 && end == CANCELLED);
        assert!(end == CANCELLED || tokens.len() == 1 + i as usize % 5);
    }
    assert_eq!((host.kv.free_slots(), host.kv.n_sequences()), (128, 0));
}
