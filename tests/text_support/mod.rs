//! What the tests of the text layer share: fixtures and sources.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use larder::text::{Text, TextSource, TokenizeOptions, TokenizerSource, Vocabulary};
use serde::Deserialize;
use serde_json::Value;

pub const PLAIN: TokenizeOptions = TokenizeOptions { add_special: false, parse_special: false };
pub const PARSED: TokenizeOptions = TokenizeOptions { add_special: false, parse_special: true };

/// A file under tests/data/text.
pub fn data(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/text")
}

pub fn json(name: &str) -> Value {
    serde_json::from_slice(&data(name)).unwrap()
}

pub fn source(tokenizer: TokenizerSource<'_>, vocab_size: u32) -> TextSource<'_> {
    TextSource {
        tokenizer,
        bos: None,
        eos: None,
        stops: Vec::new(),
        add_bos: None,
        add_eos: None,
        chat_template: None,
        template_variables: Vec::new(),
        vocab_size,
        max_text_bytes: 0,
    }
}

/// The arrays of a GGUF vocabulary, owned.
#[derive(Deserialize, Default, Clone)]
pub struct Arrays {
    pub tokens: Vec<String>,
    #[serde(default)]
    pub scores: Vec<f32>,
    #[serde(default)]
    pub kinds: Vec<i32>,
    #[serde(default)]
    pub merges: Vec<String>,
}

impl Arrays {
    /// The SentencePiece model of the fixtures.
    pub fn spaces() -> Arrays {
        serde_json::from_slice(&data("spaces_vocabulary.json")).unwrap()
    }

    /// byte_level.json turned into what a GGUF file would hold.
    pub fn byte_level() -> Arrays {
        let file = json("byte_level.json");
        let mut by_id: Vec<(u64, String)> = Vec::new();
        for (token, id) in file["model"]["vocab"].as_object().unwrap() {
            by_id.push((id.as_u64().unwrap(), token.clone()));
        }
        for added in file["added_tokens"].as_array().unwrap() {
            by_id.push((added["id"].as_u64().unwrap(), added["content"].as_str().unwrap().into()));
        }
        by_id.sort();
        by_id.dedup();
        let kind = |id: u64| {
            let added = file["added_tokens"].as_array().unwrap();
            let added = added.iter().find(|added| added["id"] == id);
            added.map_or(1, |added| if added["special"] == true { 3 } else { 4 })
        };
        let merges = file["model"]["merges"].as_array().unwrap().iter();
        let merge =
            |pair: &Value| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
        Arrays {
            kinds: by_id.iter().map(|(id, _)| kind(*id)).collect(),
            tokens: by_id.into_iter().map(|(_, token)| token).collect(),
            scores: Vec::new(),
            merges: merges.map(merge).collect(),
        }
    }

    pub fn vocabulary<'a>(&'a self, model: &'a str, pre: Option<&'a str>) -> Vocabulary<'a> {
        Vocabulary {
            model,
            pre,
            tokens: &self.tokens,
            scores: Some(self.scores.as_slice()).filter(|scores| !scores.is_empty()),
            kinds: Some(self.kinds.as_slice()).filter(|kinds| !kinds.is_empty()),
            merges: Some(self.merges.as_slice()).filter(|_| model == "gpt2"),
            ..Vocabulary::default()
        }
    }

    pub fn source<'a>(&'a self, model: &'a str, pre: Option<&'a str>) -> TextSource<'a> {
        let vocabulary = self.vocabulary(model, pre);
        source(TokenizerSource::Vocabulary(vocabulary), self.tokens.len() as u32)
    }
}

/// The byte-level fixture by its GGUF arrays, with `<s>` as BOS and `</s>` as EOS.
pub fn byte_level_text(change: impl FnOnce(&mut TextSource)) -> Text {
    let arrays = Arrays::byte_level();
    let mut source = arrays.source("gpt2", Some("llama-bpe"));
    (source.bos, source.eos) = (Some(0), Some(1));
    change(&mut source);
    Text::new(&source).unwrap()
}

/// The SentencePiece fixture by its GGUF arrays.
pub fn spaces_text(change: impl FnOnce(&mut TextSource)) -> Text {
    let arrays = Arrays::spaces();
    let mut source = arrays.source("llama", None);
    (source.bos, source.eos) = (Some(1), Some(2));
    if let TokenizerSource::Vocabulary(vocabulary) = &mut source.tokenizer {
        vocabulary.unknown = Some(0);
    }
    change(&mut source);
    Text::new(&source).unwrap()
}

pub fn ids(text: &Text, string: &str, options: TokenizeOptions) -> Vec<u32> {
    text.tokenize(string, options).unwrap().into_iter().map(|token| token.0).collect()
}

pub fn numbers(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}
