//! Constraints on their own: random walks over what the masks allow end in texts that satisfy them.

mod text_support;

use ConstraintKind::{JsonSchema, Lark, Regex};
use larder::error::Error;
use larder::ids::TokenId;
use larder::text::{Advance, ConstraintKind, MAX_CONSTRAINT_BYTES, Matcher, Text};
use serde_json::{Value, json};
use text_support::{byte_level_text, spaces_text};

/// A generator of numbers that are random enough (Vigna, SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % n as u64) as usize
    }
}

fn allowed(matcher: &Matcher) -> Vec<TokenId> {
    let words = matcher.mask().iter().enumerate();
    let bits =
        words.flat_map(|(i, &word)| (0..32).map(move |bit| (32 * i as u32 + bit, word >> bit)));
    bits.filter(|(_, bit)| bit & 1 == 1).map(|(token, _)| TokenId(token)).collect()
}

/// Walks until the constraint is complete or a stop token is drawn; `None` when the text grows too long.
fn walk(text: &Text, mut matcher: Matcher, random: &mut Random) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for _ in 0..1500 {
        let tokens = allowed(&matcher);
        // Ends are drawn as often as they are possible at all, so that walks end.
        let stop = tokens.iter().find(|token| text.stop_tokens().contains(token));
        if stop.is_some() && random.below(4) == 0 {
            return Some(bytes);
        }
        let token = tokens[random.below(tokens.len())];
        if text.stop_tokens().contains(&token) {
            return Some(bytes);
        }
        assert!(!text.is_special(token) && !text.token_bytes(token).is_empty());
        bytes.extend_from_slice(text.token_bytes(token));
        match matcher.advance(token) {
            Advance::Open => {}
            Advance::Complete => return Some(bytes),
            other => panic!("{other:?} {} behind {bytes:?}", matcher.reason()),
        }
    }
    None
}

fn walks(text: &Text, kind: ConstraintKind, source: &str, check: impl Fn(&str)) {
    let matcher = text.constrain(kind, source).unwrap();
    let mut n_complete = 0;
    for seed in 0..60 {
        let Some(bytes) = walk(text, matcher.fork(), &mut Random(seed)) else { continue };
        check(std::str::from_utf8(&bytes).expect("text"));
        n_complete += 1;
    }
    assert!(n_complete >= 10, "{n_complete} walks ended");
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "mood": {"enum": ["glad", "sad", 3, null]},
            "home": {
                "type": "object",
                "properties": {"x": {"type": "number", "minimum": -2.5, "maximum": 1000}, "ok": {"type": "boolean"}},
                "required": ["x", "ok"],
                "additionalProperties": false
            },
            "marks": {"type": "array", "items": {"const": 1}, "minItems": 1, "maxItems": 3}
        },
        "required": ["name", "age", "mood", "home", "marks"],
        "additionalProperties": false
    })
}

fn check_person(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let object = value.as_object().unwrap();
    assert_eq!(object.len(), 5, "{text}");
    assert!(object["name"].as_str().unwrap().chars().count() <= 12, "{text}");
    assert!(object["age"].as_i64().is_some_and(|age| (0..=150).contains(&age)), "{text}");
    assert!([json!("glad"), json!("sad"), json!(3), Value::Null].contains(&object["mood"]));
    let home = object["home"].as_object().unwrap();
    assert!(home.len() == 2 && home["ok"].is_boolean(), "{text}");
    assert!(home["x"].as_f64().is_some_and(|x| (-2.5..=1000.0).contains(&x)), "{text}");
    let marks = object["marks"].as_array().unwrap();
    assert!((1..=3).contains(&marks.len()) && marks.iter().all(|mark| *mark == json!(1)));
}

fn with_stop() -> Text {
    byte_level_text(|source| source.stops = vec![1])
}

#[test]
fn json_answers_satisfy_their_schema() {
    walks(&with_stop(), JsonSchema, &person().to_string(), check_person);
    walks(
        &spaces_text(|source| source.stops = vec![2]),
        JsonSchema,
        &person().to_string(),
        check_person,
    );
    walks(&with_stop(), JsonSchema, r#"{"type": ["boolean", "null"]}"#, |text| {
        assert!(["true", "false", "null"].contains(&text), "{text}");
    });
}

#[test]
fn answers_match_their_expression_as_a_whole() {
    for expression in
        [r"[A-Z][a-z]{2,5}( [a-z]+)?\.", r"(\+|00)[0-9]{4}", r"é+|日本(語)?", r"\d{1,3}/[ab]", "a*"]
    {
        let whole = regex::Regex::new(&format!("^(?:{expression})$")).unwrap();
        for text in
            [with_stop(), byte_level_text(|_| {}), spaces_text(|source| source.stops = vec![2])]
        {
            if text.stop_tokens().is_empty() && expression.ends_with('*') {
                continue;
            }
            walks(&text, Regex, expression, |answer| assert!(whole.is_match(answer), "{answer}"));
        }
    }
}

#[test]
fn answers_follow_their_grammar() {
    let grammar = "start: sum\nsum: product | sum \"+\" product\nproduct: NUMBER | \"(\" sum \")\"\nNUMBER: /[1-9]/";
    walks(&with_stop(), Lark, grammar, |text| {
        let (mut depth, mut wants_value) = (0, true);
        for c in text.chars() {
            match c {
                '(' if wants_value => depth += 1,
                ')' if !wants_value && depth > 0 => depth -= 1,
                '+' if !wants_value => wants_value = true,
                '1'..='9' if wants_value => wants_value = false,
                _ => panic!("{text}"),
            }
        }
        assert!(depth == 0 && !wants_value, "{text}");
    });
}

#[test]
fn stop_tokens_are_allowed_exactly_where_the_constraint_is_fulfilled() {
    let text = byte_level_text(|source| source.stops = vec![1, 0]);
    let mut matcher = text.constrain(Regex, "ab?c?").unwrap();
    let single = |byte: u8| {
        let all = (0..text.vocab_size()).map(TokenId);
        all.into_iter().find(|&token| text.token_bytes(token) == [byte]).unwrap()
    };
    let stops = |matcher: &Matcher| [0, 1].map(|stop| allowed(matcher).contains(&TokenId(stop)));
    assert_eq!(stops(&matcher), [false; 2]);
    assert_eq!(matcher.advance(single(b'a')), Advance::Open);
    assert_eq!(stops(&matcher), [true; 2]);
    let mut other = matcher.fork();
    assert_eq!(matcher.advance(single(b'b')), Advance::Open);
    assert_eq!(stops(&matcher), [true; 2]);
    assert_eq!(matcher.advance(single(b'c')), Advance::Complete);
    // The fork stands where it was.
    assert_eq!(other.advance(single(b'c')), Advance::Complete);
}

#[test]
fn a_character_may_be_spelled_in_bytes() {
    // The vocabulary has no token of this character, but one of each byte.
    let text = spaces_text(|source| source.stops = vec![2]);
    let mut matcher = text.constrain(Regex, "🜚!").unwrap();
    let mut bytes = Vec::new();
    loop {
        let tokens = allowed(&matcher);
        bytes.extend_from_slice(text.token_bytes(tokens[0]));
        match matcher.advance(tokens[0]) {
            Advance::Open => {}
            outcome => break assert_eq!(outcome, Advance::Complete),
        }
    }
    assert_eq!(String::from_utf8(bytes).unwrap(), "🜚!");
}

fn refusal(kind: ConstraintKind, source: &str) -> String {
    match with_stop().constrain(kind, source) {
        Err(Error::InvalidArgument(text)) => text,
        other => panic!("{source:.100}: {other:?}"),
    }
}

#[test]
fn mistakes_are_refused_with_their_reason() {
    for (kind, source, expected) in [
        (JsonSchema, "", "is empty"),
        (JsonSchema, "{", "EOF"),
        (JsonSchema, "3", "schema"),
        (JsonSchema, r#"{"type": "strange"}"#, "strange"),
        (
            JsonSchema,
            r#"{"type": "object", "unevaluatedProperties": {"type": "string"}}"#,
            "unevaluatedProperties",
        ),
        (JsonSchema, r##"{"$ref": "#/nowhere"}"##, "nowhere"),
        (JsonSchema, r#"{"$ref": "elsewhere.json"}"#, "elsewhere"),
        (JsonSchema, r#"{"enum": []}"#, "Unsatisfiable"),
        (Regex, "(", "regex"),
        (Regex, "a(?=b)", "look-around"),
        (Regex, "[b-a]", "range"),
        (Regex, r"(a)\1", "backreference"),
        (Regex, "[^\\x00-\\x{10FFFF}]", ""),
        (Regex, "()", "empty answer"),
        (Lark, "start", ""),
        (Lark, "begin: \"a\"", "start"),
        (Lark, "start: missing", "missing"),
        (Lark, "start: <|no_such|>", "no_such"),
        (Lark, "start: \"a\" <s>", "names tokens"),
        (Lark, "start: \"a\" <[5]>", "names tokens"),
        (Lark, "start: start", ""),
    ] {
        let text = refusal(kind, source);
        assert!(text.starts_with("constraint ") && text.contains(expected), "{source}: {text}");
        assert!(text.len() < 700 && !text.contains("backtrace"), "{text}");
    }
}

#[test]
fn bounds_are_told_with_their_numbers() {
    let long = format!("\"{}\"", "x".repeat(MAX_CONSTRAINT_BYTES));
    assert!(refusal(JsonSchema, &long).contains("131074 bytes, at most 131072"));
    let deep = |open: &str, close: &str, n| format!("{}a{}", open.repeat(n), close.repeat(n));
    assert!(refusal(Regex, &deep("(", ")", 101)).contains("101 deep, at most 100"));
    with_stop().constrain(Regex, &deep("(", ")", 100)).unwrap();
    assert!(refusal(Regex, &"a?".repeat(60_000)).contains("120000 bytes, at most 4096"));
    with_stop().constrain(Regex, &"a?".repeat(2048)).unwrap();
    let schema = |n| format!(r#"{{"type": "string", "pattern": "{}\\\\\""}}"#, "a?".repeat(n));
    assert!(refusal(JsonSchema, &schema(2046)).contains("string of 4098 bytes, at most 4096"));
    with_stop().constrain(JsonSchema, &schema(2045)).unwrap();
    let line = |n| format!("start: \"{}\"", "a".repeat(n));
    assert!(refusal(Lark, &line(4088)).contains("line of 4097 bytes, at most 4096"));
    with_stop().constrain(Lark, &line(4087)).unwrap();
    let lines = "\n".repeat(2001);
    assert!(refusal(Lark, &lines).contains("lines, at most 2000"));
}

#[test]
fn hostile_texts_meet_a_bound_and_not_the_stack() {
    let chain: String = (0..1998).map(|i| format!("r{i}: r{} \"a\"\n", i + 1)).collect();
    let nested = (0..99).fold("{\"type\": \"null\"}".to_string(), |inner, _| {
        format!("{{\"items\": {inner}}}").replace("{\"items\"", "{\"type\": \"array\", \"items\"")
    });
    let references: Vec<String> =
        (0..3000).map(|i| format!("\"d{i}\": {{\"$ref\": \"#/$defs/d{}\"}}", i + 1)).collect();
    let references = format!(
        "{{\"$ref\": \"#/$defs/d0\", \"$defs\": {{{}, \"d3000\": {{\"type\": \"null\"}}}}}}",
        references.join(", ")
    );
    let cases = [
        (Lark, format!("start: r0\n{chain}r1998: \"b\"\n")),
        (Lark, format!("start: {}\"x\"", "\"a\" | ".repeat(15_000))),
        (Lark, format!("start: {}", "\"a\" ".repeat(30_000))),
        (Lark, format!("start: \"a\"{}", "?".repeat(100_000))),
        (Lark, format!("start: A\nA: {}\"a\"", "~".repeat(100_000))),
        (Lark, format!("start: A\nA: {}", "\"a\" & ".repeat(15_000))),
        (JsonSchema, nested),
        (JsonSchema, references),
        (JsonSchema, format!("{{\"enum\": [{}0]}}", "1, ".repeat(40_000))),
        (Regex, "a?".repeat(1_000)),
        (Regex, "(a|b".repeat(100) + &")*".repeat(100)),
        (Regex, "(a|b)*a(a|b){20}c".into()),
        (Regex, "(((((a{10}){10}b){10}c){10}d){10}e){10}".into()),
        (Regex, format!("a{}", "+".repeat(100_000))),
        (Regex, "|".repeat(100_000)),
        (Regex, "[a-z]{99999999}".into()),
    ];
    for (kind, source) in cases {
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        let outcome = std::thread::scope(|scope| {
            let compile = || {
                let text = with_stop();
                let mut matcher = text.constrain(kind, &source)?;
                let mut advance = |_| matcher.advance(allowed(&matcher)[0]) == Advance::Open;
                Ok::<_, Error>((0..50).all(&mut advance))
            };
            thread.spawn_scoped(scope, compile).unwrap().join().unwrap()
        });
        assert!(
            matches!(outcome, Ok(_) | Err(Error::InvalidArgument(_))),
            "{source:.60}: {outcome:?}"
        );
    }
}
