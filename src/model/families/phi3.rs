//! phi 3 and 4: fused projections, RoPE over a part of the head, longrope.
#![forbid(unsafe_code)]

use super::{Description, Family};
use crate::error::Result;
use crate::model::config::Config;
use crate::model::gguf::Gguf;
use crate::model::names::{GGUF, GateUp, HUGGING_FACE, Names, Qkv};
use crate::model::style::{LLAMA, Style};

pub(super) const FAMILY: Family =
    Family { model_types: &["phi3"], classes: &["Phi3"], gguf: &["phi3"], from_config, from_gguf };

const STYLE: Style = Style { family: "phi3", partial_rotary: true, ..LLAMA };

fn from_config(config: &Config) -> Result<Description> {
    let mut spec = config.decoder(&STYLE)?;
    config.window_everywhere(&mut spec)?;
    for flag in ["attention_bias", "mlp_bias", "lm_head_bias"] {
        config.keys.refuse_flag(flag)?;
    }
    for ratio in ["full_attn_mod", "interpolate_factor"] {
        if config.keys.opt_u32(ratio)?.is_some_and(|ratio| ratio != 1) {
            return Err(config.keys.unsupported(ratio, "another number than 1"));
        }
    }
    let names = Names {
        qkv: Qkv::Fused("self_attn.qkv_proj"),
        gate_up: GateUp::Fused("mlp.gate_up_proj"),
        ..HUGGING_FACE
    };
    Ok(Description { spec, names })
}

fn from_gguf(gguf: &Gguf<'_>) -> Result<Description> {
    let mut spec = gguf.decoder(&STYLE)?;
    gguf.windows(&mut spec, Some(|_| true))?;
    let names = Names { qkv: Qkv::Fused("attn_qkv"), gate_up: GateUp::Fused("ffn_up"), ..GGUF };
    Ok(Description { spec, names })
}
