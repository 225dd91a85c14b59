//! What a decoder is made of, as plain data: sizes, norms, attention, MLP, RoPE, head. A family's file fills it in
//! from config.json or GGUF metadata; [`Model`](super::weights::Model) finds the weights that it asks for.
#![forbid(unsafe_code)]

use super::rope::RopeSpec;
use crate::backend::ops::{Activation, Heads};

/// A decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// The family's name in the table of [`families`](super::families).
    pub family: &'static str,
    pub hidden_size: u32,
    /// Rows of the embedding table.
    pub vocab_size: u32,
    /// Tokens that the model was made for.
    pub context_length: u32,
    /// Factor of the embedding's rows.
    pub embedding_scale: f32,
    /// The distinct position encodings; layers refer to them by index.
    pub ropes: Vec<RopeSpec>,
    pub layers: Vec<LayerSpec>,
    pub final_norm: NormSpec,
    pub head: HeadSpec,
}

/// One layer: `x += attention(x); x += mlp(x)`, each with its norms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerSpec {
    pub attention_norm: NormSpec,
    pub attention: AttentionSpec,
    /// Over the attention's output, before it is added.
    pub attention_norm_after: Option<NormSpec>,
    pub mlp_norm: NormSpec,
    pub mlp: MlpSpec,
    /// Over the MLP's output, before it is added.
    pub mlp_norm_after: Option<NormSpec>,
    /// Factor of what is added to the residual.
    pub residual_multiplier: f32,
}

/// An RMS norm, `x / sqrt(mean(x²) + eps) · (weight + weight_offset)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    pub eps: f32,
    /// 1 where the file stores the weight less one, as gemma's Hugging Face files do.
    pub weight_offset: f32,
}

/// Attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    pub heads: Heads,
    /// Factor of q · k.
    pub scale: f32,
    /// A query sees this many keys, itself included; `None`: all before it.
    pub window: Option<u32>,
    /// `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    pub qkv_bias: bool,
    pub output_bias: bool,
    /// Norm of each q and k head, before RoPE.
    pub qk_norm: Option<NormSpec>,
    /// Index into [`DecoderSpec::ropes`].
    pub rope: usize,
}

/// A gated MLP: `down(activation(gate(x)) · up(x))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpSpec {
    pub intermediate_size: u32,
    pub activation: Activation,
    pub bias: bool,
}

/// The language-model head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadSpec {
    /// A file without a head of its own uses the embedding. A head in the file always wins.
    pub tied: bool,
    /// `cap · tanh(logit / cap)`.
    pub softcap: Option<f32>,
    /// Factor of the logits.
    pub multiplier: f32,
}
