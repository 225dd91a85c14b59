//! llama (Touvron et al. 2023) and those built like it: mistral with its sliding window, SmolLM2.
#![forbid(unsafe_code)]

use super::{Description, Family};
use crate::backend::ops::RopePairs;
use crate::error::Result;
use crate::model::config::Config;
use crate::model::gguf::Gguf;
use crate::model::names::{GGUF, HUGGING_FACE};
use crate::model::style::{LLAMA, Style};

pub(super) const FAMILY: Family = Family {
    model_types: &["llama", "mistral"],
    classes: &["Llama", "Mistral"],
    gguf: &["llama"],
    from_config,
    from_gguf,
};

/// GGUF's converters permute the rows of q and k so that RoPE turns neighbours.
const STYLE: Style = Style { gguf_pairs: RopePairs::Adjacent, ..LLAMA };

fn from_config(config: &Config) -> Result<Description> {
    let keys = &config.keys;
    let mut spec = config.decoder(&STYLE)?;
    if keys.opt_str("model_type")? == Some("mistral") {
        config.check_present("sliding_window")?; // transformers' default, 4096, is not everyone's
        config.window_everywhere(&mut spec)?;
    } else {
        let attention_bias = keys.opt_bool("attention_bias")?.unwrap_or(false);
        let mlp_bias = keys.opt_bool("mlp_bias")?.unwrap_or(false);
        for layer in &mut spec.layers {
            layer.attention.qkv_bias = attention_bias;
            layer.attention.output_bias = attention_bias;
            layer.mlp.bias = mlp_bias;
        }
    }
    Ok(Description { spec, names: HUGGING_FACE })
}

fn from_gguf(gguf: &Gguf<'_>) -> Result<Description> {
    let mut spec = gguf.decoder(&STYLE)?;
    gguf.windows(&mut spec, Some(|_| true))?;
    for layer in &mut spec.layers {
        layer.attention.qkv_bias = gguf.has("attn_q.bias");
        layer.attention.output_bias = gguf.has("attn_output.bias");
        layer.mlp.bias = gguf.has("ffn_down.bias");
    }
    Ok(Description { spec, names: GGUF })
}
