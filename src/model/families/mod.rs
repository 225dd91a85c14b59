//! The families of models: each is one file that turns config.json or GGUF metadata into a
//! [`DecoderSpec`](super::spec::DecoderSpec) and names the weights, and one line in the table here.
//!
//! Whatever a description says and a family does not read is refused by name: a key that changes the mathematics
//! must never be dropped in silence.
#![forbid(unsafe_code)]

mod gemma2;
mod gemma3;
mod llama;
mod phi3;
mod qwen2;
mod qwen3;

use super::config::Config;
use super::gguf::Gguf;
use super::names::Names;
use super::spec::DecoderSpec;
use crate::error::{Error, Result};
use crate::format::{Checkpoint, Metadata, config::HuggingFace, gguf};

/// One family.
struct Family {
    /// `model_type` in config.json.
    model_types: &'static [&'static str],
    /// The classes in config.json's `architectures`, without `ForCausalLM` or `Model`.
    classes: &'static [&'static str],
    /// `general.architecture` in GGUF.
    gguf: &'static [&'static str],
    from_config: fn(&Config) -> Result<Description>,
    from_gguf: fn(&Gguf<'_>) -> Result<Description>,
}

const TABLE: &[Family] =
    &[llama::FAMILY, qwen2::FAMILY, qwen3::FAMILY, gemma2::FAMILY, gemma3::FAMILY, phi3::FAMILY];

/// What a family makes of a model's description.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    pub spec: DecoderSpec,
    pub names: Names,
}

/// Reads the description of a model. Of the tensors only small ones that belong to the description are read.
///
/// # Errors
/// `Unsupported` for an unknown family (the known ones are listed) and for keys that are not understood, `BadModel`
/// for missing keys and for contradictions.
pub fn describe(checkpoint: &Checkpoint) -> Result<Description> {
    match checkpoint.metadata() {
        Metadata::HuggingFace(files) => from_config(files, checkpoint),
        Metadata::Gguf(metadata) => from_gguf(metadata, checkpoint),
    }
}

fn from_config(files: &HuggingFace, checkpoint: &Checkpoint) -> Result<Description> {
    let family = family_of_config(files)?;
    let n_tensors = match checkpoint.outline() {
        Some(_) => OUTLINE_TENSORS,
        None => checkpoint.tensors().count(),
    };
    let config = Config::new(files, n_tensors);
    let mut description = (family.from_config)(&config)?;
    config.finish()?;
    let bare = format!("{}.weight", description.names.embedding);
    if checkpoint.tensor(&bare).is_some() {
        description.names.root = ""; // saved without the head's class around it
    }
    Ok(description)
}

/// `model_type` counts; `architectures` must not contradict it.
fn family_of_config(files: &HuggingFace) -> Result<&'static Family> {
    let class = files.config.get_strings("architectures")?.and_then(|list| list.first().copied());
    let model_type = files.config.get_str("model_type")?;
    let has_class = |family: &Family, class: &str| {
        let name = class.strip_suffix("ForCausalLM").or(class.strip_suffix("Model"));
        name.is_some_and(|name| family.classes.contains(&name))
    };
    let found = match (model_type, class) {
        (Some(name), class) => TABLE
            .iter()
            .find(|family| family.model_types.contains(&name))
            .filter(|family| class.is_none_or(|class| has_class(family, class))),
        (None, Some(class)) => TABLE.iter().find(|family| has_class(family, class)),
        (None, None) => return Err(Error::BadModel("config.json: model_type is missing".into())),
    };
    found.ok_or_else(|| {
        let known: Vec<_> = TABLE.iter().flat_map(|family| family.model_types).copied().collect();
        let (model_type, class) = (model_type.unwrap_or("?"), class.unwrap_or("?"));
        unknown(&format!("model_type {model_type:?} with class {class:?}"), &known)
    })
}

fn from_gguf(metadata: &gguf::Metadata, checkpoint: &Checkpoint) -> Result<Description> {
    let architecture = metadata.architecture()?;
    let family = TABLE.iter().find(|family| family.gguf.contains(&architecture));
    let family = family.ok_or_else(|| {
        let known: Vec<_> = TABLE.iter().flat_map(|family| family.gguf).copied().collect();
        unknown(&format!("general.architecture {architecture:?}"), &known)
    })?;
    let gguf = Gguf::new(metadata, architecture, checkpoint);
    let description = (family.from_gguf)(&gguf)?;
    gguf.finish()?;
    Ok(description)
}

/// What bounds the layers of a model that is only outlined.
const OUTLINE_TENSORS: usize = 4096;

fn unknown(what: &str, known: &[&str]) -> Error {
    Error::Unsupported(format!("{what} is not supported; known are {}", known.join(", ")))
}
