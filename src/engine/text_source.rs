//! What a model's files say about its text: from an opened checkpoint to `Text`.
//!
//! GGUF files carry the vocabulary and the template as metadata; Hugging Face folders carry tokenizer.json,
//! tokenizer_config.json and generation_config.json. Every id is checked here, where key and file are known.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::format::config::{HuggingFace, Object};
use crate::format::{Checkpoint, Metadata, gguf};
use crate::text::{Text, TextSource, TokenizerSource, Vocabulary};

/// Texts of control tokens that end an answer in the chat formats; GGUF files often name only one of them by key.
const TURN_ENDS: [&str; 12] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

const CONTROL: i32 = 3;

/// The tokenizer and chat template of a model with `vocab_size` tokens; `None` when its files have no tokenizer.
///
/// # Errors
/// `BadModel` naming file, key and value; `Unsupported` for tokenizers of other kinds.
pub fn open_text(checkpoint: &Checkpoint, vocab_size: u32) -> Result<Option<Text>> {
    let source = match checkpoint.metadata() {
        Metadata::Gguf(metadata) => gguf_source(metadata, vocab_size)?,
        Metadata::HuggingFace(files) => hugging_face_source(files, vocab_size)?,
    };
    source.map(|source| Text::new(&source)).transpose()
}

fn check_id(id: u32, vocab_size: u32, place: &str) -> Result<()> {
    if id >= vocab_size {
        return Err(Error::BadModel(format!(
            "{place} is {id}, the model's vocabulary has {vocab_size} tokens"
        )));
    }
    Ok(())
}

fn gguf_source(metadata: &gguf::Metadata, vocab_size: u32) -> Result<Option<TextSource<'_>>> {
    let Some(vocabulary) = gguf_vocabulary(metadata)? else { return Ok(None) };
    let id = |name: &str, default: Option<u32>| -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = metadata.get_u32(&key)?.or(default);
        id.map_or(Ok(()), |id| check_id(id, vocab_size, &key))?;
        Ok(id)
    };
    // SentencePiece vocabularies have fixed places for these.
    let is_llama = vocabulary.model == "llama";
    let bos = id("bos", is_llama.then_some(1))?;
    let eos = id("eos", is_llama.then_some(2))?;
    let mut stops: Vec<u32> =
        [eos, id("eot", None)?, id("eom", None)?].into_iter().flatten().collect();
    stops.extend(turn_ends(&vocabulary));
    let text = |id: Option<u32>| id.and_then(|id| vocabulary.tokens.get(id as usize));
    let variables = [("bos_token", bos), ("eos_token", eos), ("unk_token", vocabulary.unknown)];
    let variables = variables.into_iter().filter_map(|(name, id)| Some((name, text(id)?)));
    let template_variables =
        variables.map(|(name, text)| (name.to_string(), text.clone())).collect();
    let default_bos = bos.is_some() && begins_with_bos(&vocabulary);
    Ok(Some(TextSource {
        bos,
        eos,
        stops: sorted(stops),
        add_bos: metadata.get_bool("tokenizer.ggml.add_bos_token")?.or(Some(default_bos)),
        add_eos: metadata.get_bool("tokenizer.ggml.add_eos_token")?,
        chat_template: metadata.get_str("tokenizer.chat_template")?.map(str::to_string),
        template_variables,
        vocab_size,
        max_text_bytes: 0,
        tokenizer: TokenizerSource::Vocabulary(vocabulary),
    }))
}

fn gguf_vocabulary(metadata: &gguf::Metadata) -> Result<Option<Vocabulary<'_>>> {
    let model = match metadata.get_str("tokenizer.ggml.model")? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some(model) => model,
    };
    let tokens = metadata
        .get_strings("tokenizer.ggml.tokens")?
        .ok_or_else(|| Error::BadModel("tokenizer.ggml.tokens is missing".into()))?;
    let has_unknown = model == "llama" && !tokens.is_empty();
    let unknown = metadata.get_u32("tokenizer.ggml.unknown_token_id")?;
    Ok(Some(Vocabulary {
        model,
        pre: metadata.get_str("tokenizer.ggml.pre")?,
        tokens,
        scores: metadata.get_f32s("tokenizer.ggml.scores")?,
        kinds: metadata.get_i32s("tokenizer.ggml.token_type")?,
        merges: metadata.get_strings("tokenizer.ggml.merges")?,
        unknown: unknown.or(has_unknown.then_some(0)),
        add_space_prefix: metadata.get_bool("tokenizer.ggml.add_space_prefix")?,
        control_strips_right: model == "llama" && metadata.architecture()? == "phi3",
    }))
}

/// Whether texts of this vocabulary begin with a BOS when the file does not say.
fn begins_with_bos(vocabulary: &Vocabulary) -> bool {
    let pre = vocabulary.pre.unwrap_or_default();
    vocabulary.model == "llama"
        || ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "tekken"]
            .contains(&pre)
}

fn turn_ends(vocabulary: &Vocabulary) -> Vec<u32> {
    let kinds = vocabulary.kinds.unwrap_or_default();
    let tokens = (0u32..).zip(vocabulary.tokens).zip(kinds);
    let ends = tokens
        .filter(|((_, token), kind)| **kind == CONTROL && TURN_ENDS.contains(&token.as_str()));
    ends.map(|((id, _), _)| id).collect()
}

fn hugging_face_source(files: &HuggingFace, vocab_size: u32) -> Result<Option<TextSource<'_>>> {
    let Some(json) = &files.tokenizer_json else { return Ok(None) };
    let added = added_tokens(json)?;
    let config_ids = |name: &str| config_ids(files, name, vocab_size);
    let mut stops = config_ids("eos")?;
    let special = |name: &str| -> Result<Option<u32>> {
        let Some(config) = &files.tokenizer_config else {
            return Ok(config_ids(name)?.first().copied());
        };
        let Some(text) = config.get_token_text(&format!("{name}_token"))? else { return Ok(None) };
        let id = added.get(text).copied().or(config_ids(name)?.first().copied());
        let place = format!("tokenizer_config.json: {name}_token {text:?}");
        id.map_or(Ok(()), |id| check_id(id, vocab_size, &place))?;
        Ok(id)
    };
    let (bos, eos) = (special("bos")?, special("eos")?);
    stops.extend(eos);
    let flag = |key: &str| match &files.tokenizer_config {
        Some(config) => config.get_bool(key),
        None => Ok(None),
    };
    Ok(Some(TextSource {
        bos,
        eos,
        stops: sorted(stops),
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        chat_template: chat_template(files)?,
        template_variables: template_variables(files.tokenizer_config.as_ref())?,
        vocab_size,
        max_text_bytes: 0,
        tokenizer: TokenizerSource::Json(json),
    }))
}

/// `bos_token_id` or `eos_token_id`: of generation_config.json, else of config.json or its text part.
fn config_ids(files: &HuggingFace, name: &str, vocab_size: u32) -> Result<Vec<u32>> {
    let key = format!("{name}_token_id");
    let text_config = files.config.get_object("text_config")?;
    let generation = files.generation_config.as_ref().map(|c| ("generation_config.json: ", c));
    let nested = text_config.as_ref().map(|config| ("config.json: text_config.", config));
    let places = [generation, Some(("config.json: ", &files.config)), nested];
    for (place, config) in places.into_iter().flatten() {
        if let Some(ids) = config.get_u32s(&key)? {
            ids.iter().try_for_each(|&id| check_id(id, vocab_size, &format!("{place}{key}")))?;
            return Ok(ids);
        }
    }
    Ok(Vec::new())
}

/// The added tokens of tokenizer.json, by their text.
fn added_tokens(json: &[u8]) -> Result<HashMap<String, u32>> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    let file: File = serde_json::from_slice(json)
        .map_err(|error| Error::BadModel(format!("tokenizer.json: {error}")))?;
    Ok(file.added_tokens.into_iter().map(|added| (added.content, added.id)).collect())
}

/// chat_template.jinja, else the template of tokenizer_config.json: a string, or a list of named ones of which
/// "default" counts.
fn chat_template(files: &HuggingFace) -> Result<Option<String>> {
    if let Some(template) = &files.chat_template {
        return Ok(Some(template.clone()));
    }
    let Some(config) = &files.tokenizer_config else { return Ok(None) };
    let bad = || {
        Error::BadModel(
            "tokenizer_config.json: chat_template: expected a string, or a list of objects with name and template"
                .into(),
        )
    };
    match config.value("chat_template") {
        None => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|item| item["name"] == "default");
            let Some(item) = default.or(named.first()) else { return Ok(None) };
            Ok(Some(item["template"].as_str().ok_or_else(bad)?.to_string()))
        }
        Some(_) => Err(bad()),
    }
}

/// The special tokens' texts, as templates use them.
fn template_variables(config: Option<&Object>) -> Result<Vec<(String, String)>> {
    let Some(config) = config else { return Ok(Vec::new()) };
    let keys = [
        "bos_token",
        "eos_token",
        "unk_token",
        "pad_token",
        "sep_token",
        "cls_token",
        "mask_token",
    ];
    let mut variables = Vec::new();
    for key in keys {
        if let Some(text) = config.get_token_text(key)? {
            variables.push((key.to_string(), text.to_string()));
        }
    }
    Ok(variables)
}

fn sorted(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids.dedup();
    ids
}
