//! gemma 2 (Gemma Team 2024): norms before and after, capped scores and logits, every second layer slides.
#![forbid(unsafe_code)]

use super::{Description, Family};
use crate::backend::ops::Activation;
use crate::error::Result;
use crate::model::config::Config;
use crate::model::gguf::Gguf;
use crate::model::names::{GGUF, HUGGING_FACE_GEMMA};
use crate::model::style::{LLAMA, Style};

pub(super) const FAMILY: Family = Family {
    model_types: &["gemma2"],
    classes: &["Gemma2"],
    gguf: &["gemma2"],
    from_config,
    from_gguf,
};

const STYLE: Style = Style {
    family: "gemma2",
    activation_key: "hidden_activation",
    activation: Activation::GeluTanh,
    norm_weight_offset: 1.0,
    norms_after: true,
    scaled_embedding: true,
    tied: true,
    ..LLAMA
};

/// Layers of the 27B model, whose score factor is not that of its head size; GGUF does not tell it.
const N_LAYERS_27B: usize = 46;

fn is_sliding(layer: usize) -> bool {
    layer.is_multiple_of(2)
}

fn from_config(config: &Config) -> Result<Description> {
    let keys = &config.keys;
    let mut spec = config.decoder(&STYLE)?;
    config.windows_by_layer(&mut spec, is_sliding)?;
    config.gemma_attention(&mut spec)?;
    config.check_present("attn_logit_softcapping")?;
    config.check_present("final_logit_softcapping")?;
    spec.set_attention_softcap(keys.opt_positive_f32("attn_logit_softcapping")?);
    spec.head.softcap = keys.opt_positive_f32("final_logit_softcapping")?;
    Ok(Description { spec, names: HUGGING_FACE_GEMMA })
}

fn from_gguf(gguf: &Gguf<'_>) -> Result<Description> {
    let keys = &gguf.keys;
    let mut spec = gguf.decoder(&STYLE)?;
    gguf.windows(&mut spec, Some(is_sliding))?;
    gguf.gemma_attention_scale(&mut spec, N_LAYERS_27B)?;
    spec.set_attention_softcap(Some(keys.positive_f32("attn_logit_softcapping")?));
    spec.head.softcap = Some(keys.positive_f32("final_logit_softcapping")?);
    Ok(Description { spec, names: GGUF })
}
