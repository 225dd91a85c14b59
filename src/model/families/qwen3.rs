//! qwen3: norms over each q and k head in place of qwen2's biases.
#![forbid(unsafe_code)]

use super::{Description, Family};
use crate::error::Result;
use crate::model::config::Config;
use crate::model::gguf::Gguf;
use crate::model::names::{GGUF, HUGGING_FACE};
use crate::model::style::{LLAMA, Style};

pub(super) const FAMILY: Family = Family {
    model_types: &["qwen3"],
    classes: &["Qwen3"],
    gguf: &["qwen3"],
    from_config,
    from_gguf,
};

const STYLE: Style = Style { family: "qwen3", qk_norm: true, ..LLAMA };

fn from_config(config: &Config) -> Result<Description> {
    let mut spec = config.decoder(&STYLE)?;
    config.windows_behind_flag(&mut spec)?;
    let bias = config.keys.opt_bool("attention_bias")?.unwrap_or(false);
    for layer in &mut spec.layers {
        layer.attention.qkv_bias = bias;
        layer.attention.output_bias = bias;
    }
    Ok(Description { spec, names: HUGGING_FACE })
}

fn from_gguf(gguf: &Gguf<'_>) -> Result<Description> {
    let mut spec = gguf.decoder(&STYLE)?;
    gguf.windows(&mut spec, None)?;
    for layer in &mut spec.layers {
        layer.attention.qkv_bias = gguf.has("attn_q.bias");
        layer.attention.output_bias = gguf.has("attn_output.bias");
    }
    Ok(Description { spec, names: GGUF })
}
