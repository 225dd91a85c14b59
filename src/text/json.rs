//! A tokenizer from tokenizer.json: BPE, byte-level or with SentencePiece's spaces.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use super::encoder::{Merger, Parts};
use super::heap;
use super::pieces::{Pieces, Spelling};
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct Kind {
    model: ModelKind,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocab,
    merges: Merges,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merges {
    Pairs(Vec<(String, String)>),
    Joined(Vec<String>),
}

/// Builds the tokenizer; `vocab_size` is the model's.
pub(super) fn build(bytes: &[u8], vocab_size: u32) -> Result<Parts> {
    let bad = |error: serde_json::Error| Error::BadModel(format!("tokenizer.json: {error}"));
    let kind: Kind = serde_json::from_slice(bytes).map_err(bad)?;
    if let Some(name) = kind.model.name.filter(|name| name != "BPE") {
        return Err(Error::Unsupported(format!("tokenizer.json: model {name:?}; known is BPE")));
    }
    let mut file: File = serde_json::from_slice(bytes).map_err(bad)?;
    let decoding = Decoding::read(file.decoder.as_ref())?;
    let template = file.post_processor.as_ref().map(template).transpose()?.unwrap_or_default();
    let added = added(file.added_tokens, vocab_size);
    file.model.vocab.retain(|_, id| *id < vocab_size);
    let pieces = pieces(&file.model.vocab, &added, decoding.spelling, vocab_size)?;
    let (bpe, merger_bytes) = bpe(file.model)?;
    if let Some(id) = template.0.iter().chain(&template.1).find(|&&id| id >= vocab_size) {
        return Err(Error::BadModel(format!(
            "tokenizer.json: post_processor adds token {id}, the model's vocabulary is {vocab_size}"
        )));
    }
    Ok(Parts {
        merger: Merger::Ranked(Box::new(bpe)),
        normalizer: file.normalizer,
        words: file.pre_tokenizer,
        added,
        pieces,
        strips_leading_space: decoding.strips_leading_space,
        prefix: template.0,
        suffix: template.1,
        merger_bytes,
    })
}

/// Added tokens that the model has no embedding for stay ordinary text. Control tokens are matched before
/// normalisation, which could only disguise them.
fn added(tokens: Vec<Added>, vocab_size: u32) -> Vec<(u32, AddedToken)> {
    let known = tokens.into_iter().filter(|added| added.id < vocab_size);
    known
        .map(|Added { id, token }| {
            let normalized = token.normalized && !token.special;
            (id, token.normalized(normalized))
        })
        .collect()
}

fn pieces(
    vocab: &Vocab,
    added: &[(u32, AddedToken)],
    spelling: Spelling,
    vocab_size: u32,
) -> Result<Pieces> {
    let mut by_id: Vec<Option<&str>> = vec![None; vocab_size as usize];
    for (token, &id) in vocab {
        if let Some(other) = by_id[id as usize].replace(token) {
            let (first, second) = (other.min(token), other.max(token));
            return Err(Error::BadModel(format!(
                "tokenizer.json: {first:?} and {second:?} both have id {id}"
            )));
        }
    }
    let added: BTreeMap<u32, &AddedToken> = added.iter().map(|(id, token)| (*id, token)).collect();
    Pieces::new(vocab_size, |id| match (added.get(&id), by_id[id as usize]) {
        (Some(token), _) => (spelling.decode_added(&token.content), token.special),
        (None, Some(token)) => (spelling.decode(token), false),
        (None, None) => (Vec::new(), false),
    })
}

fn bpe(model: Model) -> Result<(BPE, u64)> {
    let affixes = [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (key, affix) in affixes {
        if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
            return Err(Error::Unsupported(format!("tokenizer.json: model.{key} {affix:?}")));
        }
    }
    let merges = match model.merges {
        Merges::Pairs(pairs) => pairs,
        Merges::Joined(lines) => split_merges(lines)?,
    };
    let merger_bytes = heap::ranked(model.vocab.keys().map(String::len), merges.len());
    let mut builder = BPE::builder()
        .cache_capacity(0)
        .fuse_unk(model.fuse_unk.unwrap_or(false))
        .byte_fallback(model.byte_fallback.unwrap_or(false))
        .ignore_merges(model.ignore_merges.unwrap_or(false));
    if let Some(unknown) = model.unk_token {
        if !model.vocab.contains_key(&unknown) {
            return Err(Error::BadModel(format!(
                "tokenizer.json: model.unk_token {unknown:?} is not in the vocabulary"
            )));
        }
        builder = builder.unk_token(unknown);
    }
    let bpe = builder.vocab_and_merges(model.vocab, merges).build();
    let bpe =
        bpe.map_err(|error| Error::BadModel(format!("tokenizer.json: model.merges: {error}")))?;
    Ok((bpe, merger_bytes))
}

fn split_merges(lines: Vec<String>) -> Result<Vec<(String, String)>> {
    let lines = lines.into_iter().filter(|line| !line.starts_with("#version"));
    lines
        .map(|line| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.into(), right.into())),
            _ => Err(Error::BadModel(format!(
                "tokenizer.json: merge {line:?} is not two pieces with a space between"
            ))),
        })
        .collect()
}

/// What the file's decoder does, as far as the piece table needs it.
struct Decoding {
    spelling: Spelling,
    strips_leading_space: bool,
}

impl Decoding {
    fn read(decoder: Option<&Value>) -> Result<Decoding> {
        let mut byte_level = false;
        let mut decoding =
            Decoding { spelling: Spelling::Spaces { bytes: false }, strips_leading_space: false };
        let steps: &[Value] = match decoder {
            None => &[],
            Some(decoder) if decoder["type"] == "Sequence" => {
                decoder["decoders"].as_array().map_or(&[], Vec::as_slice)
            }
            Some(decoder) => std::slice::from_ref(decoder),
        };
        let mut knows_spaces = false;
        for step in steps {
            match step["type"].as_str() {
                Some("ByteLevel") => byte_level = true,
                Some("ByteFallback") => decoding.spelling = Spelling::Spaces { bytes: true },
                Some("Fuse") => {}
                Some("Replace") if step["pattern"]["String"] == "▁" && step["content"] == " " => {
                    knows_spaces = true;
                }
                Some("Strip") if step["content"] == " " && step["stop"] == 0 => {
                    decoding.strips_leading_space = step["start"] == 1;
                }
                Some("Metaspace") if step["replacement"] == "▁" => {
                    knows_spaces = true;
                    decoding.strips_leading_space = step["prepend_scheme"] != "never"
                        && step["add_prefix_space"] != Value::Bool(false);
                }
                _ => return Err(unsupported_decoder(step)),
            }
        }
        match (byte_level, knows_spaces) {
            (true, false) => decoding.spelling = Spelling::ByteLevel,
            (false, true) => {}
            _ => return Err(unsupported_decoder(decoder.unwrap_or(&Value::Null))),
        }
        Ok(decoding)
    }
}

fn unsupported_decoder(step: &Value) -> Error {
    Error::Unsupported(format!(
        "tokenizer.json: decoder {step}; known are ByteLevel, Metaspace, and Sequence of Replace, ByteFallback, Fuse \
         and Strip"
    ))
}

/// Ids that the post-processor puts before and behind a single text.
fn template(processor: &Value) -> Result<(Vec<u32>, Vec<u32>)> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let bad = || Error::BadModel(format!("tokenizer.json: post_processor {processor}"));
    match processor["type"].as_str() {
        Some("ByteLevel") => Ok(Default::default()),
        Some("Sequence") => {
            let mut joined = (Vec::new(), Vec::new());
            for step in processor["processors"].as_array().map_or(&[][..], Vec::as_slice) {
                let (before, behind) = template(step)?;
                joined.0.splice(0..0, before);
                joined.1.extend(behind);
            }
            Ok(joined)
        }
        Some("BertProcessing" | "RobertaProcessing") => {
            let before = id(&processor["cls"][1]).ok_or_else(bad)?;
            let behind = id(&processor["sep"][1]).ok_or_else(bad)?;
            Ok((vec![before], vec![behind]))
        }
        Some("TemplateProcessing") => {
            let mut parts = (Vec::new(), Vec::new());
            let mut in_front = true;
            for item in processor["single"].as_array().ok_or_else(bad)? {
                let Some(name) = item["SpecialToken"]["id"].as_str() else {
                    in_front = false;
                    continue;
                };
                let ids = processor["special_tokens"][name]["ids"].as_array().ok_or_else(bad)?;
                let ids = ids.iter().map(|value| id(value).ok_or_else(bad));
                let side = if in_front { &mut parts.0 } else { &mut parts.1 };
                side.extend(ids.collect::<Result<Vec<u32>>>()?);
            }
            Ok(parts)
        }
        _ => Err(Error::Unsupported(format!("tokenizer.json: post_processor {processor}"))),
    }
}
