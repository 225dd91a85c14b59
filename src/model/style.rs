//! What the families have in common, with the few switches in which they differ; both kinds of files fill it in.
#![forbid(unsafe_code)]

use super::rope::RopeSpec;
use super::spec::{AttentionSpec, DecoderSpec, HeadSpec, LayerSpec, MlpSpec, NormSpec};
use crate::backend::ops::{Activation, Heads, RopePairs};

/// How a family differs from llama.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    pub family: &'static str,
    /// The key of config.json that names the gate's activation.
    pub activation_key: &'static str,
    /// The gate's activation in GGUF, which does not name it.
    pub activation: Activation,
    /// RoPE's base where config.json names none.
    pub theta: f32,
    /// Whether config.json may have RoPE turn a part of the head only.
    pub partial_rotary: bool,
    /// Which elements RoPE pairs in GGUF; in Hugging Face files always the halves.
    pub gguf_pairs: RopePairs,
    /// What Hugging Face files leave out of norm weights; GGUF's converters add it.
    pub norm_weight_offset: f32,
    pub norms_after: bool,
    pub qk_norm: bool,
    pub qkv_bias: bool,
    /// Embeddings are multiplied with the root of the hidden size.
    pub scaled_embedding: bool,
    /// Whether the head is the embedding where config.json says nothing.
    pub tied: bool,
}

/// llama's own.
pub const LLAMA: Style = Style {
    family: "llama",
    activation_key: "hidden_act",
    activation: Activation::Silu,
    theta: 10_000.0,
    partial_rotary: false,
    gguf_pairs: RopePairs::Halves,
    norm_weight_offset: 0.0,
    norms_after: false,
    qk_norm: false,
    qkv_bias: false,
    scaled_embedding: false,
    tied: false,
};

/// The numbers that every description has.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub hidden_size: u32,
    pub vocab_size: u32,
    pub context_length: u32,
    pub n_layers: u32,
    pub intermediate_size: u32,
    pub heads: Heads,
    pub eps: f32,
    pub activation: Activation,
}

impl Style {
    /// A decoder of equal layers without windows; `tied` and `weight_offset` are the file's.
    pub fn decoder(&self, sizes: &Sizes, rope: RopeSpec, tied: bool, offset: f32) -> DecoderSpec {
        let norm = NormSpec { eps: sizes.eps, weight_offset: offset };
        let attention = AttentionSpec {
            heads: sizes.heads,
            scale: 1.0 / (sizes.heads.head_dim as f32).sqrt(),
            window: None,
            softcap: None,
            qkv_bias: self.qkv_bias,
            output_bias: false,
            qk_norm: self.qk_norm.then_some(norm),
            rope: 0,
        };
        let layer = LayerSpec {
            attention_norm: norm,
            attention,
            attention_norm_after: self.norms_after.then_some(norm),
            mlp_norm: norm,
            mlp: MlpSpec {
                intermediate_size: sizes.intermediate_size,
                activation: sizes.activation,
                bias: false,
            },
            mlp_norm_after: self.norms_after.then_some(norm),
            residual_multiplier: 1.0,
        };
        let embedding_scale =
            if self.scaled_embedding { (sizes.hidden_size as f32).sqrt() } else { 1.0 };
        DecoderSpec {
            family: self.family,
            hidden_size: sizes.hidden_size,
            vocab_size: sizes.vocab_size,
            context_length: rope.context_length(sizes.context_length),
            embedding_scale,
            ropes: vec![rope],
            layers: vec![layer; sizes.n_layers as usize],
            final_norm: norm,
            head: HeadSpec { tied, softcap: None, multiplier: 1.0 },
        }
    }
}

impl DecoderSpec {
    /// Gives each layer for which `is_sliding` holds the window.
    pub fn set_windows(&mut self, window: u32, is_sliding: impl Fn(usize) -> bool) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.attention.window = is_sliding(index).then_some(window);
        }
    }

    /// Gives every layer this factor of q · k.
    pub fn set_attention_scale(&mut self, scale: f32) {
        self.layers.iter_mut().for_each(|layer| layer.attention.scale = scale);
    }

    /// Gives every layer this cap of its attention scores.
    pub fn set_attention_softcap(&mut self, softcap: Option<f32>) {
        self.layers.iter_mut().for_each(|layer| layer.attention.softcap = softcap);
    }
}
