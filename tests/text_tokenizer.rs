//! Token ids and decoded text against the Python packages tokenizers and sentencepiece, and against the tokenizers
//! crate's own decoders.

mod text_support;

use larder::ids::TokenId;
use larder::text::{Text, TokenizeOptions, TokenizerSource, Utf8Stream};
use proptest::prelude::*;
use text_support::{
    Arrays, PARSED, PLAIN, byte_level_text, data, ids, json, numbers, source, spaces_text,
};

fn from_json(name: &str) -> Text {
    Text::new(&source(TokenizerSource::Json(&data(name)), 2000)).unwrap()
}

/// A row of golden values: ids with control tokens as text and as tokens, and the text without them.
fn compare(text: &Text, golden: &str) {
    for row in json(golden).as_array().unwrap() {
        let string = row["text"].as_str().unwrap();
        let plain = ids(text, string, PLAIN);
        assert_eq!(plain, numbers(&row["plain"]), "{string:?} as text");
        if row["parsed"].is_array() {
            assert_eq!(ids(text, string, PARSED), numbers(&row["parsed"]), "{string:?} parsed");
        }
        let decoded_of = if row["parsed"].is_array() { "parsed" } else { "plain" };
        let tokens: Vec<TokenId> = numbers(&row[decoded_of]).into_iter().map(TokenId).collect();
        let decoded = String::from_utf8(text.detokenize(&tokens, true).unwrap()).unwrap();
        assert_eq!(decoded, row["decoded"].as_str().unwrap(), "{string:?} decoded");
    }
}

#[test]
fn byte_level_json_equals_tokenizers() {
    compare(&from_json("byte_level.json"), "byte_level_golden.json");
}

#[test]
fn byte_level_vocabulary_equals_tokenizers() {
    compare(&byte_level_text(|_| {}), "byte_level_golden.json");
}

#[test]
fn spaces_json_equals_tokenizers() {
    compare(&from_json("spaces.json"), "spaces_golden.json");
}

#[test]
fn scored_vocabulary_equals_sentencepiece() {
    compare(&spaces_text(|_| {}), "spaces_vocabulary_golden.json");
}

#[test]
fn the_post_processor_adds_its_tokens() {
    let with_special = TokenizeOptions { add_special: true, parse_special: true };
    for name in ["byte_level", "spaces"] {
        let text = from_json(&format!("{name}.json"));
        for row in json(&format!("{name}_golden.json")).as_array().unwrap() {
            let string = row["text"].as_str().unwrap();
            assert_eq!(ids(&text, string, with_special), numbers(&row["special"]), "{string:?}");
        }
    }
}

/// What comes back of a text: SentencePiece can not tell a space from its own sign for one.
fn spelled(text: &Text, string: &str) -> String {
    if text.strips_leading_space() { string.replace('▁', " ") } else { string.to_string() }
}

#[test]
fn pieces_join_to_what_was_put_in() {
    for text in [byte_level_text(|_| {}), spaces_text(|_| {})] {
        for row in json("byte_level_golden.json").as_array().unwrap() {
            let string = spelled(&text, row["text"].as_str().unwrap());
            let tokens = text.tokenize(&string, PLAIN).unwrap();
            assert_eq!(text.detokenize(&tokens, false).unwrap(), string.as_bytes());
            let mut stream = Utf8Stream::new();
            let mut streamed = String::new();
            for token in &tokens {
                stream.push(text.token_bytes(*token), &mut streamed);
            }
            stream.finish(&mut streamed);
            let streamed = match text.strips_leading_space() {
                true => streamed.strip_prefix(' ').unwrap_or(&streamed),
                false => &streamed,
            };
            assert_eq!(streamed, string);
        }
    }
}

#[test]
fn special_tokens_are_empty_in_a_stream_and_skipped_on_request() {
    let text = byte_level_text(|_| {});
    let tokens = text.tokenize("<s>a<|end|>", PARSED).unwrap();
    assert_eq!(text.token_bytes(tokens[0]), b"");
    assert_eq!(text.detokenize(&tokens, true).unwrap(), b"a");
    assert_eq!(text.detokenize(&tokens, false).unwrap(), b"<s>a<|end|>");
    assert_eq!(text.token_bytes(TokenId(text.vocab_size())), b"");
    let error = text.detokenize(&[TokenId(0), TokenId(text.vocab_size())], true).unwrap_err();
    assert!(error.to_string().contains("position 1"), "{error}");
    assert_eq!(text.detokenize(&[], true).unwrap(), b"");
}

/// What the tokenizers crate itself decodes; one of its tokenizers per fixture.
fn reference(name: &str) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(data(name)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equals_the_crate_on_any_text(strings in proptest::collection::vec("\\PC{0,12}|[ \n\t]{0,4}", 0..6)) {
        let string = strings.concat();
        for name in ["byte_level.json", "spaces.json"] {
            let text = from_json(name);
            let reference = reference(name);
            let tokens = text.tokenize(&string, PARSED).unwrap();
            let got: Vec<u32> = tokens.iter().map(|token| token.0).collect();
            let expected = reference.encode(string.as_str(), false).unwrap();
            prop_assert_eq!(&got, expected.get_ids());
            let decoded = reference.decode(&got, false).unwrap();
            prop_assert_eq!(text.detokenize(&tokens, false).unwrap(), decoded.into_bytes());
        }
    }

    #[test]
    fn any_tokens_decode_to_the_crates_text_up_to_replacement(
        picks in proptest::collection::vec(4u32..600, 0..24),
    ) {
        let text = from_json("byte_level.json");
        let tokens: Vec<TokenId> = picks.iter().copied().map(TokenId).collect();
        let bytes = text.detokenize(&tokens, false).unwrap();
        let decoded = reference("byte_level.json").decode(&picks, false).unwrap();
        prop_assert_eq!(String::from_utf8_lossy(&bytes), decoded);
    }

    #[test]
    fn any_text_comes_back(strings in proptest::collection::vec("\\PC{0,12}|[ \n\t]{0,4}", 0..6)) {
        let string = strings.concat();
        for text in [byte_level_text(|_| {}), spaces_text(|_| {})] {
            let tokens = text.tokenize(&string, PLAIN).unwrap();
            let expected = spelled(&text, &string);
            prop_assert_eq!(text.detokenize(&tokens, false).unwrap(), expected.into_bytes());
        }
    }
}

#[test]
fn each_arrays_length_and_every_id_is_checked() {
    let message = |arrays: &Arrays, model: &str| {
        Text::new(&arrays.source(model, None)).err().map(|error| error.to_string()).unwrap()
    };
    let mut arrays = Arrays::spaces();
    arrays.scores.pop();
    assert!(message(&arrays, "llama").contains("tokenizer.ggml.scores"));
    let mut arrays = Arrays::spaces();
    arrays.kinds.push(1);
    assert!(message(&arrays, "llama").contains("tokenizer.ggml.token_type"));
    let mut arrays = Arrays::spaces();
    arrays.scores[7] = f32::NAN;
    assert!(message(&arrays, "llama").contains("scores[7]"));
    assert!(message(&Arrays::spaces(), "rwkv").contains("rwkv"));
    let mut arrays = Arrays::byte_level();
    arrays.merges.push("nonesuch".into());
    assert!(message(&arrays, "gpt2").contains("merges"));
    let mut arrays = Arrays::byte_level();
    arrays.merges.push("Q zz".into());
    assert!(message(&arrays, "gpt2").contains("merges"));
    let arrays =
        Arrays { tokens: vec!["a".into(), "b".into()], scores: vec![0.0; 2], ..Arrays::default() };
    for (bos, stop) in [(Some(2), vec![]), (None, vec![5]), (None, vec![u32::MAX])] {
        let mut source = arrays.source("llama", None);
        (source.bos, source.stops) = (bos, stop);
        assert!(Text::new(&source).err().unwrap().to_string().contains("2 tokens"));
    }
    let mut source = arrays.source("llama", None);
    source.vocab_size = 1;
    assert!(Text::new(&source).err().unwrap().to_string().contains("tokenizer.ggml.tokens"));
}

#[test]
fn broken_tokenizer_json_is_an_error_that_names_the_place() {
    let whole = String::from_utf8(data("byte_level.json")).unwrap();
    let build = |json: &str| Text::new(&source(TokenizerSource::Json(json.as_bytes()), 2000));
    for (from, to, expected) in [
        ("{", "[", "tokenizer.json"),
        ("\"BPE\"", "\"Unigram\"", "Unigram"),
        ("\"TemplateProcessing\"", "\"Nonesuch\"", "post_processor"),
        ("\"unk_token\":null", "\"unk_token\":\"nope\"", "unk_token"),
        ("\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", "end_of_word_suffix"),
        ("\"ids\":[0]", "\"ids\":[4000]", "4000"),
    ] {
        assert!(whole.contains(from), "{from}");
        let error = build(&whole.replacen(from, to, 1)).err().unwrap().to_string();
        assert!(error.contains(expected), "{from}: {error}");
    }
    let decoder =
        whole.replace("\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"CTC\"");
    assert!(build(&decoder).err().unwrap().to_string().contains("decoder"));
    for n in [0, 1, whole.len() / 2, whole.len() - 1] {
        assert!(build(&whole[..n]).is_err());
    }
}

#[test]
fn an_expression_that_backtracks_for_ever_fails_its_text_only() {
    let mut file = json("byte_level.json");
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "((a|a)+)+b".into();
    let file = file.to_string();
    let text = Text::new(&source(TokenizerSource::Json(file.as_bytes()), 2000)).unwrap();
    let error = text.tokenize(&"a".repeat(64), PLAIN).unwrap_err().to_string();
    assert!(error.contains("gave up"), "{error}");
    assert_eq!(ids(&text, "The end", PLAIN).len(), ids(&text, "The end", PARSED).len());
}
