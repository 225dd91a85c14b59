//! config.json of a Hugging Face folder → the parts of a [`DecoderSpec`] that all families read in the same way.
#![forbid(unsafe_code)]

use super::config_rope;
use super::keys::Keys;
use super::rope::RopeSpec;
use super::spec::DecoderSpec;
use super::style::{Sizes, Style};
use crate::backend::ops::{Activation, Heads};
use crate::error::{Error, Result};
use crate::format::config::{HuggingFace, Object};

/// Keys that say nothing about the forward pass: training, generation defaults, bookkeeping.
const HARMLESS: &[&str] = &[
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "_attn_implementation_autoset",
    "auto_map",
    "cache_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "embd_pdrop",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "model_type",
    "_name_or_path",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
    "use_return_dict",
];

/// A config.json being read.
#[derive(Debug)]
pub struct Config {
    pub keys: Keys<Object>,
    n_tensors: usize,
}

impl Config {
    /// `n_tensors` of the checkpoint bounds the number of layers.
    pub fn new(files: &HuggingFace, n_tensors: usize) -> Config {
        Config { keys: Keys::new(files.config.clone(), "", "config.json"), n_tensors }
    }

    /// Everything that `style` does not leave to the family, with one RoPE for all layers.
    pub fn decoder(&self, style: &Style) -> Result<DecoderSpec> {
        let sizes = self.sizes(style)?;
        let rope = config_rope::global(&self.keys, style, &sizes)?;
        self.decoder_with(style, &sizes, rope)
    }

    /// As [`decoder`](Self::decoder), for families that read their RoPE in another way.
    pub fn decoder_with(
        &self,
        style: &Style,
        sizes: &Sizes,
        rope: RopeSpec,
    ) -> Result<DecoderSpec> {
        let keys = &self.keys;
        let tied = keys.opt_bool("tie_word_embeddings")?.unwrap_or(style.tied);
        if let Some(quantisation) = keys.values().value("quantization_config") {
            let method = quantisation.get("quant_method").and_then(|m| m.as_str()).unwrap_or("?");
            let text = format!("{method:?}: quantised Hugging Face checkpoints are not supported");
            return Err(keys.unsupported("quantization_config", &text));
        }
        keys.refuse_flag("is_encoder_decoder")?;
        keys.refuse_flag("add_cross_attention")?;
        keys.refuse_flag("use_bidirectional_attention")?;
        self.check_token_ids(sizes.vocab_size)?;
        Ok(style.decoder(sizes, rope, tied, style.norm_weight_offset))
    }

    /// The numbers, checked against each other.
    pub fn sizes(&self, style: &Style) -> Result<Sizes> {
        let keys = &self.keys;
        let hidden_size = keys.positive("hidden_size")?;
        let n_layers = keys.positive("num_hidden_layers")?;
        if n_layers as usize > self.n_tensors {
            let text = format!("is {n_layers}, but the files hold {} tensors", self.n_tensors);
            return Err(keys.bad("num_hidden_layers", &text));
        }
        Ok(Sizes {
            hidden_size,
            vocab_size: keys.positive("vocab_size")?,
            context_length: keys.positive("max_position_embeddings")?,
            n_layers,
            intermediate_size: keys.positive("intermediate_size")?,
            heads: self.heads(hidden_size)?,
            eps: keys.positive_f32("rms_norm_eps")?,
            activation: self.activation(style.activation_key)?,
        })
    }

    /// An explicit head_dim wins; absent KV heads are as many as heads.
    fn heads(&self, hidden_size: u32) -> Result<Heads> {
        let keys = &self.keys;
        let n_heads = keys.positive("num_attention_heads")?;
        let n_kv_heads = keys.opt_u32("num_key_value_heads")?.unwrap_or(n_heads);
        check_heads(keys.bad("num_key_value_heads", ""), n_heads, n_kv_heads)?;
        let head_dim = match keys.opt_u32("head_dim")? {
            Some(0) => return Err(keys.bad("head_dim", "is 0, expected at least 1")),
            Some(explicit) => explicit,
            None if hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
            None => {
                let text = format!(
                    "is missing, and num_attention_heads = {n_heads} does not divide hidden_size = {hidden_size}"
                );
                return Err(keys.bad("head_dim", &text));
            }
        };
        Ok(Heads { n_heads, n_kv_heads, head_dim })
    }

    fn activation(&self, key: &str) -> Result<Activation> {
        let name = self.keys.opt_str(key)?.ok_or_else(|| self.keys.missing(key))?;
        match name {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
            "gelu" => Ok(Activation::Gelu),
            other => Err(self
                .keys
                .unsupported(key, &format!("{other:?}, expected silu, gelu_pytorch_tanh or gelu"))),
        }
    }

    /// Ids beyond the vocabulary would index past the embedding.
    fn check_token_ids(&self, vocab_size: u32) -> Result<()> {
        for key in ["bos_token_id", "eos_token_id"] {
            let ids = self.keys.values().get_u32s(&self.keys.ignore(key))?.unwrap_or_default();
            if let Some(id) = ids.into_iter().find(|id| *id >= vocab_size) {
                let text = format!("is {id}, but vocab_size is {vocab_size}");
                return Err(self.keys.bad(key, &text));
            }
        }
        Ok(())
    }

    /// `layer_types`: for each layer whether it slides.
    pub fn layer_types(&self, n_layers: usize) -> Result<Option<Vec<bool>>> {
        let keys = &self.keys;
        let key = keys.ignore("layer_types");
        let Some(types) = keys.values().get_strings(&key)? else { return Ok(None) };
        if types.len() != n_layers {
            let text = format!("has {} entries, num_hidden_layers is {n_layers}", types.len());
            return Err(keys.bad("layer_types", &text));
        }
        let is_sliding = |name: &str| match name {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => Err(keys.unsupported(
                "layer_types",
                &format!("{other:?}, expected full_attention or sliding_attention"),
            )),
        };
        types.into_iter().map(is_sliding).collect::<Result<Vec<bool>>>().map(Some)
    }

    /// The window of every layer (mistral, phi3).
    pub fn window_everywhere(&self, spec: &mut DecoderSpec) -> Result<()> {
        if let Some(window) = self.window()? {
            spec.set_windows(window, |_| true);
        }
        Ok(())
    }

    /// Windows by `layer_types`, or by `default` where there are none (gemma).
    pub fn windows_by_layer(
        &self,
        spec: &mut DecoderSpec,
        default: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>> {
        let n_layers = spec.layers.len();
        let sliding = match self.layer_types(n_layers)? {
            Some(types) => types,
            None => (0..n_layers).map(default).collect(),
        };
        let window = self.window()?;
        if sliding.contains(&true) {
            let window = window.ok_or_else(|| self.keys.missing("sliding_window"))?;
            spec.set_windows(window, |index| sliding.get(index) == Some(&true));
        }
        Ok(sliding)
    }

    /// Windows behind a flag, from `max_window_layers` on unless `layer_types` says else (qwen2, qwen3).
    pub fn windows_behind_flag(&self, spec: &mut DecoderSpec) -> Result<()> {
        let keys = &self.keys;
        let n_layers = spec.layers.len();
        let flag = keys.opt_bool("use_sliding_window")?.unwrap_or(false);
        let (window, first) = (self.window()?, keys.opt_u32("max_window_layers")?);
        let types = self.layer_types(n_layers)?;
        if !flag || window.is_none() {
            let contradiction = types.is_some_and(|types| types.contains(&true));
            return match contradiction {
                true => Err(keys.bad(
                    "layer_types",
                    "names sliding layers, but use_sliding_window is false or sliding_window null",
                )),
                false => Ok(()),
            };
        }
        let sliding = match (types, first) {
            (Some(types), _) => types,
            (None, Some(first)) => (0..n_layers).map(|index| index >= first as usize).collect(),
            (None, None) => return Err(keys.missing("max_window_layers")),
        };
        spec.set_windows(window.unwrap_or(0), |index| sliding.get(index) == Some(&true));
        Ok(())
    }

    /// gemma's factor of q · k; its flag for biases is always false.
    pub fn gemma_attention(&self, spec: &mut DecoderSpec) -> Result<()> {
        let keys = &self.keys;
        keys.refuse_flag("attention_bias")?;
        keys.ignore("hidden_act"); // hidden_activation is what counts
        spec.set_attention_scale(1.0 / keys.positive_f32("query_pre_attn_scalar")?.sqrt());
        Ok(())
    }

    /// A key whose null has a meaning must be there, be it null.
    pub fn check_present(&self, key: &str) -> Result<()> {
        match self.keys.values().keys().any(|name| name == key) {
            true => Ok(()),
            false => Err(self.keys.bad(key, "is missing; null stands for none")),
        }
    }

    /// `sliding_window`, null for none.
    pub fn window(&self) -> Result<Option<u32>> {
        match self.keys.opt_u32("sliding_window")? {
            Some(0) => Err(self.keys.bad("sliding_window", "is 0, expected at least 1, or null")),
            window => Ok(window),
        }
    }

    /// Refuses what was not read.
    pub fn finish(&self) -> Result<()> {
        self.keys.finish(|key| HARMLESS.contains(&key))
    }
}

/// KV heads must divide the heads. `error` is about the key, without its text.
pub fn check_heads(error: Error, n_heads: u32, n_kv_heads: u32) -> Result<()> {
    if n_kv_heads != 0 && n_heads.is_multiple_of(n_kv_heads) {
        return Ok(());
    }
    Err(Error::BadModel(format!("{error}is {n_kv_heads}, expected a divisor of {n_heads} heads")))
}
