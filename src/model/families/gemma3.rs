//! gemma 3, text only (Gemma Team 2025): q/k norms, five sliding layers to a full one, a RoPE for each of the two.
#![forbid(unsafe_code)]

use super::{Description, Family};
use crate::backend::ops::Activation;
use crate::error::Result;
use crate::model::config::Config;
use crate::model::config_rope;
use crate::model::gguf::Gguf;
use crate::model::names::{GGUF, HUGGING_FACE_GEMMA};
use crate::model::rope::{RopeSpec, Scaling};
use crate::model::spec::DecoderSpec;
use crate::model::style::{LLAMA, Style};

pub(super) const FAMILY: Family = Family {
    model_types: &["gemma3_text"],
    classes: &["Gemma3", "Gemma3Text"],
    gguf: &["gemma3"],
    from_config,
    from_gguf,
};

const STYLE: Style = Style {
    family: "gemma3",
    activation_key: "hidden_activation",
    activation: Activation::GeluTanh,
    theta: 1_000_000.0,
    norm_weight_offset: 1.0,
    norms_after: true,
    qk_norm: true,
    scaled_embedding: true,
    tied: true,
    ..LLAMA
};

/// RoPE's base in sliding layers where the file names none.
const LOCAL_THETA: f32 = 10_000.0;

/// Layers of the 27B model, whose score factor is not that of its head size; GGUF does not tell it.
const N_LAYERS_27B: usize = 62;

/// Every n-th layer is full where the file does not say.
const PATTERN: u32 = 6;

fn from_config(config: &Config) -> Result<Description> {
    let keys = &config.keys;
    let sizes = config.sizes(&STYLE)?;
    let [full, sliding] = config_rope::by_layer_type(keys, &STYLE, &sizes, LOCAL_THETA)?;
    let mut spec = config.decoder_with(&STYLE, &sizes, full)?;
    let old_name = keys.opt_u32("_sliding_window_pattern")?;
    let pattern = keys.opt_u32("sliding_window_pattern")?.or(old_name).unwrap_or(PATTERN);
    if pattern == 0 {
        return Err(keys.bad("sliding_window_pattern", "is 0, expected at least 1"));
    }
    let is_sliding = |layer: usize| !(layer + 1).is_multiple_of(pattern as usize);
    config.windows_by_layer(&mut spec, is_sliding)?;
    config.gemma_attention(&mut spec)?;
    spec.set_attention_softcap(keys.opt_positive_f32("attn_logit_softcapping")?);
    spec.head.softcap = keys.opt_positive_f32("final_logit_softcapping")?;
    give_sliding_layers(&mut spec, sliding);
    Ok(Description { spec, names: HUGGING_FACE_GEMMA })
}

fn from_gguf(gguf: &Gguf<'_>) -> Result<Description> {
    let keys = &gguf.keys;
    let mut spec = gguf.decoder(&STYLE)?;
    gguf.windows(&mut spec, Some(|layer| !(layer + 1).is_multiple_of(PATTERN as usize)))?;
    gguf.gemma_attention_scale(&mut spec, N_LAYERS_27B)?;
    spec.head.softcap = keys.opt_positive_f32("final_logit_softcapping")?;
    let theta = keys.opt_positive_f32("rope.freq_base_swa")?.unwrap_or(LOCAL_THETA);
    if let Some(full) = spec.ropes.first().cloned() {
        give_sliding_layers(&mut spec, RopeSpec { theta, scaling: Scaling::None, ..full });
    }
    Ok(Description { spec, names: GGUF })
}

/// The second RoPE, for layers with a window.
fn give_sliding_layers(spec: &mut DecoderSpec, rope: RopeSpec) {
    if spec.layers.iter().any(|layer| layer.attention.window.is_some()) {
        spec.ropes.push(rope);
    }
    for layer in &mut spec.layers {
        layer.attention.rope = usize::from(layer.attention.window.is_some());
    }
}
