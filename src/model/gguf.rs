//! GGUF metadata → the parts of a [`DecoderSpec`] that all families read in the same way.
#![forbid(unsafe_code)]

use super::config::check_heads;
use super::config_rope::check_divisors;
use super::keys::Keys;
use super::load::read_floats;
use super::names::GGUF;
use super::rope::{RopeSpec, Scaling, Yarn, yarn_magnitude};
use super::spec::DecoderSpec;
use super::style::{Sizes, Style};
use crate::backend::ops::Heads;
use crate::error::{Error, Result};
use crate::format::{Checkpoint, gguf};

/// Keys under the architecture's name that say nothing about the forward pass.
const HARMLESS: &[&str] = &["pooling_type", "rope.scaling.finetuned", "tensor_data_layout"];

/// Tensors that hold a part of the description: divisors of RoPE's frequencies.
pub const ROPE_TENSORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// A GGUF file's metadata being read.
#[derive(Debug)]
pub struct Gguf<'a> {
    pub keys: Keys<&'a gguf::Metadata>,
    checkpoint: &'a Checkpoint,
}

impl<'a> Gguf<'a> {
    /// Metadata of `checkpoint`, whose architecture is named.
    pub fn new(
        metadata: &'a gguf::Metadata,
        architecture: &str,
        checkpoint: &'a Checkpoint,
    ) -> Gguf<'a> {
        let keys = Keys::new(metadata, &format!("{architecture}."), "GGUF metadata");
        Gguf { keys, checkpoint }
    }

    /// Everything that `style` does not leave to the family.
    pub fn decoder(&self, style: &Style) -> Result<DecoderSpec> {
        let keys = &self.keys;
        if let Some(kind) = keys.values().get_str("general.type")?
            && kind != "model"
        {
            let text = format!("general.type is {kind:?}, expected \"model\"");
            return Err(Error::Unsupported(text));
        }
        if keys.opt_u32("expert_count")?.unwrap_or(0) != 0 {
            return Err(keys.unsupported("expert_count", "more than 0: experts are not supported"));
        }
        keys.ignore("expert_used_count"); // of no experts
        if keys.opt_bool("attention.causal")? == Some(false) {
            return Err(keys.unsupported("attention.causal", "false"));
        }
        let sizes = self.sizes(style)?;
        self.check_token_ids(sizes.vocab_size)?;
        let rope = self.rope(style, sizes.heads.head_dim)?;
        let mut spec = style.decoder(&sizes, rope, true, 0.0);
        if let Some(scale) = keys.opt_positive_f32("attention.scale")? {
            spec.set_attention_scale(scale);
        }
        Ok(spec)
    }

    /// Whether layer 0 has a tensor of this name; the biases that GGUF does not announce.
    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.tensor(&format!("{}0.{name}", GGUF.layers)).is_some()
    }

    /// Refuses what was not read.
    pub fn finish(&self) -> Result<()> {
        self.keys.finish(|key| HARMLESS.contains(&key))
    }

    fn sizes(&self, style: &Style) -> Result<Sizes> {
        let keys = &self.keys;
        let hidden_size = keys.positive("embedding_length")?;
        let n_layers = keys.positive("block_count")?;
        let n_tensors = self.checkpoint.tensors().count();
        if n_layers as usize > n_tensors {
            let text = format!("is {n_layers}, but the files hold {n_tensors} tensors");
            return Err(keys.bad("block_count", &text));
        }
        Ok(Sizes {
            hidden_size,
            vocab_size: self.vocab_size()?,
            context_length: keys.positive("context_length")?,
            n_layers,
            intermediate_size: keys.positive("feed_forward_length")?,
            heads: self.heads(hidden_size)?,
            eps: keys.positive_f32("attention.layer_norm_rms_epsilon")?,
            activation: style.activation,
        })
    }

    fn heads(&self, hidden_size: u32) -> Result<Heads> {
        let keys = &self.keys;
        let n_heads = keys.positive("attention.head_count")?;
        let n_kv_heads = keys.opt_u32("attention.head_count_kv")?.unwrap_or(n_heads);
        check_heads(keys.bad("attention.head_count_kv", ""), n_heads, n_kv_heads)?;
        let key_length = keys.opt_u32("attention.key_length")?;
        let head_dim = key_length.unwrap_or(hidden_size / n_heads);
        let value_length = keys.opt_u32("attention.value_length")?.unwrap_or(head_dim);
        if head_dim == 0 || (key_length.is_none() && !hidden_size.is_multiple_of(n_heads)) {
            let text = format!("and embedding_length = {hidden_size} give no head size");
            return Err(keys.bad("attention.head_count", &text));
        }
        if value_length != head_dim {
            let text = format!("{value_length}, while attention.key_length is {head_dim}");
            return Err(keys.unsupported("attention.value_length", &text));
        }
        Ok(Heads { n_heads, n_kv_heads, head_dim })
    }

    /// Rows of the embedding; whatever else tells the number must agree.
    fn vocab_size(&self) -> Result<u32> {
        let keys = &self.keys;
        let name = format!("{}.weight", GGUF.embedding);
        let rows = self.checkpoint.tensor(&name).and_then(|tensor| tensor.shape.first().copied());
        let rows = rows.ok_or_else(|| Error::BadModel(format!("tensor {name:?} is missing")))?;
        let rows = u32::try_from(rows)
            .map_err(|_| Error::BadModel(format!("tensor {name:?} has {rows} rows")))?;
        if let Some(told) = keys.opt_u32("vocab_size")?
            && told != rows
        {
            let text = format!("is {told}, but {name:?} has {rows} rows");
            return Err(keys.bad("vocab_size", &text));
        }
        if let Some(tokens) = keys.values().get_strings("tokenizer.ggml.tokens")?
            && tokens.len() != rows as usize
        {
            let text = format!(
                "tokenizer.ggml.tokens has {} entries, but {name:?} has {rows} rows",
                tokens.len()
            );
            return Err(Error::BadModel(text));
        }
        Ok(rows)
    }

    /// Ids beyond the vocabulary would index past the embedding.
    fn check_token_ids(&self, vocab_size: u32) -> Result<()> {
        for kind in ["bos", "eos", "eot", "eom", "unknown"] {
            let key = format!("tokenizer.ggml.{kind}_token_id");
            if let Some(id) = self.keys.values().get_u32(&key)?
                && id >= vocab_size
            {
                let text = format!("{key} is {id}, but the vocabulary has {vocab_size} tokens");
                return Err(Error::BadModel(text));
            }
        }
        Ok(())
    }

    /// `attention.sliding_window` (0: none) for the layers of `attention.sliding_window_pattern`, or where the
    /// file has none for those of `default`.
    pub fn windows(
        &self,
        spec: &mut DecoderSpec,
        default: Option<fn(usize) -> bool>,
    ) -> Result<()> {
        const KEY: &str = "attention.sliding_window_pattern";
        let keys = &self.keys;
        let window = keys.opt_u32("attention.sliding_window")?.unwrap_or(0);
        let full_key = keys.ignore(KEY);
        let n_layers = spec.layers.len();
        let sliding: Vec<bool> = if !keys.values().keys().any(|key| key == full_key) {
            let Some(is_sliding) = default.or((window == 0).then_some(|_| false)) else {
                return Err(keys.missing(KEY));
            };
            (0..n_layers).map(is_sliding).collect()
        } else if let Ok(Some(flags)) = keys.values().get_u32s(&full_key) {
            flags.into_iter().map(|flag| flag != 0).collect()
        } else {
            // Every n-th layer is full; 0: none is.
            let n = keys.u32(KEY)? as usize;
            (0..n_layers).map(|index| n == 0 || index % n < n - 1).collect()
        };
        if sliding.len() != n_layers {
            let text = format!("has {} entries, block_count is {n_layers}", sliding.len());
            return Err(keys.bad(KEY, &text));
        }
        if window > 0 {
            spec.set_windows(window, |index| sliding.get(index) == Some(&true));
        }
        Ok(())
    }

    fn rope(&self, style: &Style, head_dim: u32) -> Result<RopeSpec> {
        let keys = &self.keys;
        let dim = keys.opt_u32("rope.dimension_count")?.unwrap_or(head_dim);
        if dim == 0 || !dim.is_multiple_of(2) || dim > head_dim {
            let text = format!("is {dim}, expected an even number up to the head size {head_dim}");
            return Err(keys.bad("rope.dimension_count", &text));
        }
        let theta = keys.opt_positive_f32("rope.freq_base")?.unwrap_or(10_000.0);
        Ok(RopeSpec { pairs: style.gguf_pairs, dim, theta, scaling: self.scaling(dim)? })
    }

    fn scaling(&self, dim: u32) -> Result<Scaling> {
        let keys = &self.keys;
        let kind = keys.opt_str("rope.scaling.type")?;
        let old_factor = keys.opt_positive_f32("rope.scale_linear")?;
        let factor = keys.opt_f32("rope.scaling.factor")?.filter(|factor| *factor != 0.0);
        let attention_factor = keys.opt_positive_f32("rope.scaling.attn_factor")?;
        let original = keys.opt_u32("rope.scaling.original_context_length")?;
        let [divisors, short, long] = ROPE_TENSORS.map(|name| self.divisors(name, dim));
        let (divisors, short, long) = (divisors?, short?, long?);
        let factor = factor.or(old_factor);
        if let Some(bad) = factor.filter(|factor| !(factor.is_finite() && *factor > 0.0)) {
            return Err(keys.bad("rope.scaling.factor", &format!("is {bad}, expected above 0")));
        }
        let original_context = || {
            original
                .filter(|length| *length > 0)
                .ok_or_else(|| keys.bad("rope.scaling.original_context_length", "is missing or 0"))
        };
        match (kind, divisors, short, long, factor) {
            (None | Some("none" | "longrope"), None, Some(short), Some(long), None) => {
                let magnitude = attention_factor.unwrap_or(1.0);
                let original_context = original_context()?;
                Ok(Scaling::LongRope { short, long, original_context, magnitude })
            }
            (Some("yarn"), None, None, None, Some(factor)) => {
                let magnitude = yarn_magnitude(factor, 1.0) * attention_factor.unwrap_or(1.0);
                self.yarn(factor, original_context()?, magnitude)
            }
            _ if attention_factor.is_some_and(|factor| factor != 1.0) => {
                Err(keys.unsupported("rope.scaling.attn_factor", "not 1, without yarn or longrope"))
            }
            (None | Some("none" | "linear"), Some(divisors), None, None, None) => {
                Ok(Scaling::Divisors(divisors))
            }
            (None | Some("linear"), None, None, None, Some(factor)) => {
                Ok(Scaling::Linear { factor })
            }
            (None | Some("none"), None, None, None, None) => Ok(Scaling::None),
            (kind, ..) => Err(Error::Unsupported(format!(
                "{} is {kind:?}, and does not go with rope.scaling.factor = {factor:?} and the tensors \
                 rope_freqs and rope_factors_* that the file has",
                keys.name("rope.scaling.type")
            ))),
        }
    }

    fn yarn(&self, factor: f32, original_context: u32, magnitude: f32) -> Result<Scaling> {
        let beta = |key: &str, usual: f32| {
            self.keys.opt_positive_f32(key).map(|value| value.unwrap_or(usual))
        };
        Ok(Scaling::Yarn(Yarn {
            factor,
            original_context,
            beta_fast: beta("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: beta("rope.scaling.yarn_beta_slow", 1.0)?,
            truncate: true,
            magnitude,
        }))
    }

    /// A small tensor of divisors, if the file has it.
    fn divisors(&self, name: &str, dim: u32) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.checkpoint.tensor(name) else { return Ok(None) };
        if tensor.shape != [u64::from(dim / 2)] {
            let text =
                format!("tensor {name:?} has shape {:?}, expected [{}]", tensor.shape, dim / 2);
            return Err(Error::BadModel(text));
        }
        let values = read_floats(self.checkpoint, tensor, 0, dim / 2)?;
        check_divisors(&values, dim)
            .map_err(|text| Error::BadModel(format!("tensor {name:?} {text}")))?;
        Ok(Some(values))
    }

    /// gemma's factor of q · k, which GGUF tells only if its converter was asked to: that of the head size, but in
    /// the largest model that of the hidden size.
    pub fn gemma_attention_scale(&self, spec: &mut DecoderSpec, n_layers: usize) -> Result<()> {
        if spec.layers.len() == n_layers && self.keys.opt_f32("attention.scale")?.is_none() {
            let heads = spec.layers.first().map_or(1, |layer| layer.attention.heads.n_heads);
            spec.set_attention_scale(1.0 / ((spec.hidden_size / heads) as f32).sqrt());
        }
        Ok(())
    }
}
