//! Constraints on a real engine: answers satisfy them, whatever else goes on, and nobody beside them notices.

mod serve_engine_common;

use larder::error::{Error, Result};
use larder::ids::{RequestHandle, TokenId};
use larder::serve::{EventKind, Failure, Finish, Prompt, RequestInput};
use larder::text::ConstraintKind::{JsonSchema, Lark, Regex};
use larder::text::{ConstraintKind, TokenizeOptions};
use serde_json::Value;
use serve_engine_common::{Answer, CANCELLED, FULL, STOPPED, Server, Wanted, ample, chat_model};

const FULFILLED: Option<EventKind> = Some(EventKind::Finished(Finish::Constraint));

/// Without white space, which a model without sense likes a lot of.
const SCHEMA: &str = r#"{
    "x-guidance": {"whitespace_flexible": false},
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["one", "two", null]},
        "in": {
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": -20, "maximum": 99}},
            "required": ["n"],
            "additionalProperties": false
        }
    },
    "required": ["name", "kind", "in"],
    "additionalProperties": false
}"#;

fn check_schema(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(value.as_object().unwrap().len(), 3, "{text}");
    assert!(value["name"].as_str().unwrap().chars().count() <= 8, "{text}");
    assert!(["one", "two"].map(Value::from).contains(&value["kind"]) || value["kind"].is_null());
    assert_eq!(value["in"].as_object().unwrap().len(), 1, "{text}");
    assert!((-20..=99).contains(&value["in"]["n"].as_i64().unwrap()), "{text}");
}

fn prompt(server: &Server, text: &str) -> Vec<TokenId> {
    server.port.text.as_ref().unwrap().tokenize(text, TokenizeOptions::default()).unwrap()
}

/// What a test sets beside what `Wanted` keeps.
#[derive(Default)]
struct More<'a> {
    bans: &'a [TokenId],
    expected_new_tokens: u32,
}

fn submit_with(
    server: &Server,
    wanted: &Wanted,
    user: u64,
    constraint: (ConstraintKind, &str),
    more: More,
) -> Result<RequestHandle> {
    let stops: Vec<&str> = wanted.stops.iter().map(String::as_str).collect();
    let biases = vec![f32::NEG_INFINITY; more.bans.len()];
    let input = RequestInput {
        prompt: Prompt::Tokens(&wanted.prompt),
        max_new_tokens: wanted.max_new,
        n_answers: wanted.n_answers,
        user,
        stops: &stops,
        sampling: wanted.sampling,
        constraint: Some(constraint),
        bias_tokens: more.bans,
        biases: &biases,
        expected_new_tokens: more.expected_new_tokens,
        ..RequestInput::default()
    };
    server.port.edge.submit(server.port.text.as_deref(), &input)
}

fn submit(
    server: &Server,
    wanted: &Wanted,
    user: u64,
    kind: ConstraintKind,
    source: &str,
) -> RequestHandle {
    submit_with(server, wanted, user, (kind, source), More::default()).unwrap()
}

/// Its answer with nobody beside it.
fn alone(server: &mut Server, wanted: &Wanted, kind: ConstraintKind, source: &str) -> Vec<Answer> {
    server.forget();
    submit(server, wanted, 0, kind, source);
    server.run(wanted.n_answers as usize, 64);
    (0..wanted.n_answers).map(|number| server.answer(0, number)).collect()
}

#[test]
fn answers_satisfy_their_schema_and_are_the_same_again() {
    let mut server = Server::new(&chat_model(), &ample());
    let prompt = prompt(&server, "Tell me");
    let mut n_complete = 0;
    for seed in 0..12 {
        let wanted = Wanted { n_answers: 2, ..Wanted::seeded(&prompt, 160, seed) };
        let answers = alone(&mut server, &wanted, JsonSchema, SCHEMA);
        for answer in &answers {
            if answer.end == FULL {
                continue;
            }
            assert_eq!(answer.end, FULFILLED);
            check_schema(&answer.text());
            n_complete += 1;
        }
        for (answer, again) in alone(&mut server, &wanted, JsonSchema, SCHEMA).iter().zip(&answers)
        {
            answer.assert_is(again, "the same seed");
        }
    }
    assert!(n_complete > 12, "{n_complete}");
    server.assert_idle();
    assert_eq!(server.stats().constraint_bytes, 0);
}

#[test]
fn greedy_answers_match_their_expression_as_a_whole() {
    let mut server = Server::new(&chat_model(), &ample());
    let prompt = prompt(&server, "ab");
    for expression in ["[A-Z][a-z]{3}!", "(\\+|00)[0-9]{4,6}", "日本(語)?", "x{1,40}", "é🜚"]
    {
        let whole = regex::Regex::new(&format!("^(?:{expression})$")).unwrap();
        let answer = &alone(&mut server, &Wanted::greedy(&prompt, 60), Regex, expression)[0];
        assert!(answer.end == FULFILLED || answer.end == STOPPED, "{expression}: {answer:?}");
        assert!(whole.is_match(&answer.text()), "{expression}: {}", answer.text());
    }
}

#[test]
fn neighbours_do_not_notice() {
    let mut server = Server::new(&chat_model(), &ample());
    let prompt = prompt(&server, "Once upon");
    let plain = [Wanted::greedy(&prompt, 40), Wanted::seeded(&prompt[1..], 40, 7)];
    let constrained = Wanted::seeded(&prompt, 100, 3);
    let expected: Vec<Answer> =
        plain.iter().map(|wanted| wanted.alone_on(&mut server).remove(0)).collect();
    let own = alone(&mut server, &constrained, JsonSchema, SCHEMA).remove(0);
    server.forget();
    plain[0].submit(&server.port, 0).unwrap();
    submit(&server, &constrained, 1, JsonSchema, SCHEMA);
    plain[1].submit(&server.port, 2).unwrap();
    for _ in 0..4 {
        server.step(64);
    }
    let held = server.stats().constraint_bytes;
    assert!((20_000..4_000_000).contains(&held), "{held}");
    server.run(3, 64);
    server.answer(0, 0).assert_is(&expected[0], "greedy");
    server.answer(1, 0).assert_is(&own, "constrained");
    server.answer(2, 0).assert_is(&expected[1], "seeded");
    server.assert_idle();
    assert_eq!(server.stats().constraint_bytes, 0);
}

#[test]
fn a_paused_answer_goes_on_where_its_constraint_was() {
    let mut server = Server::new(&chat_model(), &ample());
    let prompt = prompt(&server, "Pause");
    let wanted = |seed| Wanted::seeded(&prompt, 90, seed);
    let expected: Vec<Answer> = (0..4)
        .map(|seed| alone(&mut server, &wanted(seed), JsonSchema, SCHEMA).remove(0))
        .collect();
    let narrow = larder::options::Options { total_tokens: 120, ..ample() };
    let mut server = Server::new(&chat_model(), &narrow);
    for seed in 0..4 {
        let more = More { expected_new_tokens: 5, ..More::default() };
        submit_with(&server, &wanted(seed), seed, (JsonSchema, SCHEMA), more).unwrap();
    }
    server.run(4, 64);
    assert!(server.stats().pauses > 0);
    (0..4).for_each(|seed| server.answer(seed, 0).assert_is(&expected[seed as usize], "paused"));
    server.assert_idle();
}

#[test]
fn stops_cancels_and_limits_end_a_constrained_answer() {
    let mut server = Server::new(&chat_model(), &ample());
    let prompt = prompt(&server, "x");
    let stopped = Wanted { stops: vec!["bb".into()], ..Wanted::greedy(&prompt, 20) };
    let answer = alone(&mut server, &stopped, Regex, "a{3}b{5}").remove(0);
    assert_eq!((answer.text().as_str(), answer.end), ("aaa", STOPPED));
    let answer = alone(&mut server, &Wanted::greedy(&prompt, 2), Regex, "a{3}b{5}").remove(0);
    assert_eq!((answer.text().as_str(), answer.end), ("aa", FULL));
    // The last token that it may have completes it.
    let answer = alone(&mut server, &Wanted::greedy(&prompt, 3), Regex, "a{3}").remove(0);
    assert_eq!((answer.text().as_str(), answer.end), ("aaa", FULFILLED));
    server.forget();
    let wanted = Wanted { n_answers: 3, ..Wanted::seeded(&prompt, 200, 1) };
    let request = submit(&server, &wanted, 0, Regex, "a{100,}");
    (0..6).for_each(|_| assert!(server.step(64) <= 3));
    server.port.edge.cancel(request).unwrap();
    server.run(3, 64);
    assert_eq!(server.answer(0, 2).end, CANCELLED);
    server.assert_idle();
    assert_eq!(server.stats().constraint_bytes, 0);
}

#[test]
fn log_probabilities_are_those_among_what_may_follow() {
    let mut server = Server::new(&chat_model(), &ample());
    let prompt = prompt(&server, "q");
    let mut wanted = Wanted::greedy(&prompt, 1);
    wanted.sampling.n_logprobs = 3;
    let answer = alone(&mut server, &wanted, Regex, "[abc]").remove(0);
    let tops: Vec<f64> =
        answer.tops.iter().map(|&(_, bits)| f64::from(f32::from_bits(bits))).collect();
    let total: f64 = tops.iter().map(|logprob| logprob.exp()).sum();
    assert!((total - 1.0).abs() < 1e-4, "{tops:?}");
    assert_eq!(answer.tops[0], answer.tokens[0]);
}

/// One answer fails; its neighbour is the same as ever.
#[test]
fn what_fails_fails_alone() {
    let mut server = Server::new(&chat_model(), &ample());
    let prompt = prompt(&server, "abc");
    let plain = Wanted::greedy(&prompt, 30);
    let expected = plain.alone_on(&mut server).remove(0);
    let banned: Vec<TokenId> = prompt.clone();
    let complex = format!("xa{}b", "a?".repeat(1000));
    let cases = [
        (Regex, "[abc]", &banned[..], Failure::NonFiniteLogits),
        (Regex, &complex, &[], Failure::ConstraintTooComplex),
    ];
    for (kind, source, bans, failure) in cases {
        server.forget();
        plain.submit(&server.port, 0).unwrap();
        let (wanted, more) = (Wanted::greedy(&prompt, 30), More { bans, ..More::default() });
        submit_with(&server, &wanted, 1, (kind, source), more).unwrap();
        server.run(2, 64);
        let failed = server.answer(1, 0);
        assert_eq!(failed.end, Some(EventKind::Failed(failure)), "{source:.40}");
        server.answer(0, 0).assert_is(&expected, source);
    }
    server.assert_idle();
}

#[test]
fn a_mistake_is_refused_and_takes_no_place() {
    let server = Server::new(&chat_model(), &ample());
    let wanted = Wanted::greedy(&prompt(&server, "a"), 5);
    for _ in 0..10 {
        match submit_with(&server, &wanted, 0, (Lark, "start: missing"), More::default()) {
            Err(Error::InvalidArgument(text)) => assert!(text.contains("missing"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
