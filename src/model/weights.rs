//! Finding a decoder's weights: every tensor that the spec asks for, with its exact shape, a place in the weights
//! block, and where it is read from. Needs no device and no weight data.
//!
//! | `tie_word_embeddings` | the file has a head | it has none |
//! | --- | --- | --- |
//! | true | the file's head | the embedding |
//! | false | the file's head | refused |
//! | absent | the file's head | the family's default; in GGUF always the embedding |
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::decoder::{Decoder, DecoderLayer, MAX_ROPES};
use super::families::Description;
use super::gguf::ROPE_TENSORS;
use super::names::{GateUp, Names, Qkv};
use super::spec::{AttentionSpec, DecoderSpec, LayerSpec, NormSpec};
use crate::backend::Backend;
use crate::backend::ops::{
    AttendOp, Embedding, HeadOp, Linear, MlpOp, Norm, ProjectOp, QkvOp, Rope, Vector,
};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::Checkpoint;

/// A decoder and where each of its weights comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub spec: DecoderSpec,
    pub decoder: Decoder,
    /// Bytes of the weights block.
    pub weights_bytes: u64,
    pub(super) items: Vec<LoadItem>,
}

/// Something to write into the weights block.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum LoadItem {
    /// Rows `first_row ..` of a tensor.
    Linear { linear: Linear, tensor: String, first_row: u32 },
    /// Elements `first ..` of a tensor, with `offset` added.
    Vector { vector: Vector, tensor: String, first: u32, offset: f32 },
    /// Numbers that no file holds.
    Values { vector: Vector, values: Vec<f32> },
}

impl Model {
    /// Finds the weights that `description` asks for. `max_sequence_tokens` decides what RoPE scalings make of it
    /// (see [`rope`](super::rope)), but no sizes.
    ///
    /// # Errors
    /// `BadModel` for a tensor that is missing, has another shape, or that nothing asks for; `Unsupported` for a
    /// tensor type that cannot be used at its place.
    pub fn new<B: Backend>(
        description: Description,
        checkpoint: &Checkpoint,
        backend: &B,
        max_sequence_tokens: u32,
    ) -> Result<Model> {
        let Description { spec, names } = description;
        let mut finder = Finder {
            checkpoint,
            names,
            linear_bytes: &|linear| backend.linear_bytes(linear.dtype, linear.n_out, linear.n_in),
            alignment: backend.alignment(),
            weights_bytes: 0,
            items: Vec::new(),
            used: BTreeSet::new(),
        };
        let decoder = finder.decoder(&spec, max_sequence_tokens)?;
        finder.refuse_unused()?;
        let Finder { weights_bytes, items, .. } = finder;
        Ok(Model { spec, decoder, weights_bytes, items })
    }
}

struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    names: Names,
    linear_bytes: &'a dyn Fn(&Linear) -> Result<u64>,
    /// Every weight begins at a multiple of this many bytes of the weights block.
    alignment: u64,
    weights_bytes: u64,
    items: Vec<LoadItem>,
    used: BTreeSet<String>,
}

/// A part of a fused tensor: `n` rows from `first` of `total`.
#[derive(Clone, Copy)]
struct Rows {
    first: u64,
    n: u64,
    total: u64,
}

impl Rows {
    fn all(n: u64) -> Rows {
        Rows { first: 0, n, total: n }
    }

    /// Parts of these sizes, one after the other.
    fn split<const N: usize>(sizes: [u64; N]) -> [Rows; N] {
        let total = sizes.iter().sum();
        let mut first = 0;
        sizes.map(|n| {
            first += n;
            Rows { first: first - n, n, total }
        })
    }
}

impl Finder<'_> {
    fn decoder(&mut self, spec: &DecoderSpec, max_sequence_tokens: u32) -> Result<Decoder> {
        let names = self.names;
        let (vocab, hidden) = (u64::from(spec.vocab_size), u64::from(spec.hidden_size));
        let embedding = format!("{}{}", names.root, names.embedding);
        let table = self.linear(&embedding, Rows::all(vocab), hidden, false)?;
        let ropes = self.ropes(spec, max_sequence_tokens)?;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            let prefix = format!("{}{}{index}.", names.root, names.layers);
            layers.push(self.layer(layer, &ropes, &prefix, hidden)?);
        }
        let final_norm =
            self.norm(&format!("{}{}", names.root, names.final_norm), &spec.final_norm, hidden)?;
        let head = match self.has_head() || self.checkpoint.outline().is_some() && !spec.head.tied {
            true => self.linear(names.head, Rows::all(vocab), hidden, false)?,
            false if spec.head.tied => table,
            false => {
                let text = "and tie_word_embeddings does not allow the embedding in its place";
                return Err(missing(&format!("{}.weight", names.head), text));
            }
        };
        Ok(Decoder {
            hidden_size: spec.hidden_size,
            embedding: Embedding { table, scale: spec.embedding_scale },
            ropes,
            layers,
            final_norm,
            head: HeadOp {
                weight: head,
                softcap: spec.head.softcap,
                multiplier: spec.head.multiplier,
            },
        })
    }

    fn ropes(&mut self, spec: &DecoderSpec, max_sequence_tokens: u32) -> Result<Vec<Rope>> {
        if spec.ropes.len() > MAX_ROPES {
            let text =
                format!("{} position encodings, expected up to {MAX_ROPES}", spec.ropes.len());
            return Err(Error::Internal(text));
        }
        let mut ropes = Vec::with_capacity(spec.ropes.len());
        for rope in &spec.ropes {
            let values = rope.inverse_frequencies(max_sequence_tokens);
            if values.iter().any(|frequency| !frequency.is_finite()) {
                return Err(Error::BadModel(format!("RoPE has frequencies beyond f32: {rope:?}")));
            }
            let vector = self.place_vector(values.len() as u64)?;
            self.items.push(LoadItem::Values { vector, values });
            ropes.push(Rope {
                pairs: rope.pairs,
                dim: rope.dim,
                inverse_frequencies: vector,
                magnitude: rope.magnitude(),
            });
        }
        Ok(ropes)
    }

    fn layer(
        &mut self,
        spec: &LayerSpec,
        ropes: &[Rope],
        prefix: &str,
        hidden: u64,
    ) -> Result<DecoderLayer> {
        let names = self.names;
        let attention = &spec.attention;
        let name = |part: &str| format!("{prefix}{part}");
        let norm = self.norm(&name(names.attention_norm), &spec.attention_norm, hidden)?;
        let qkv = self.qkv(attention, norm, ropes, prefix, hidden)?;
        let project = ProjectOp {
            weight: self.linear(
                &name(names.output),
                Rows::all(hidden),
                u64::from(qkv.q.n_out),
                attention.output_bias,
            )?,
            norm_after: self.opt_norm(
                &name(names.attention_norm_after),
                spec.attention_norm_after.as_ref(),
                hidden,
            )?,
            multiplier: spec.residual_multiplier,
        };
        Ok(DecoderLayer {
            rope: attention.rope,
            qkv,
            attend: AttendOp {
                heads: attention.heads,
                scale: attention.scale,
                window: attention.window,
                softcap: attention.softcap,
            },
            project,
            mlp: self.mlp(spec, prefix, hidden)?,
        })
    }

    fn qkv(
        &mut self,
        spec: &AttentionSpec,
        norm: Norm,
        ropes: &[Rope],
        prefix: &str,
        hidden: u64,
    ) -> Result<QkvOp> {
        let heads = spec.heads;
        let head_dim = u64::from(heads.head_dim);
        let (n_q, n_kv) =
            (u64::from(heads.n_heads) * head_dim, u64::from(heads.n_kv_heads) * head_dim);
        let ((q, k, v), [q_rows, k_rows, v_rows]) = match self.names.qkv {
            Qkv::Apart { q, k, v } => ((q, k, v), [n_q, n_kv, n_kv].map(Rows::all)),
            Qkv::Fused(name) => ((name, name, name), Rows::split([n_q, n_kv, n_kv])),
        };
        let names = self.names;
        let name = |part: &str| format!("{prefix}{part}");
        Ok(QkvOp {
            norm: Some(norm),
            heads,
            q: self.linear(&name(q), q_rows, hidden, spec.qkv_bias)?,
            k: self.linear(&name(k), k_rows, hidden, spec.qkv_bias)?,
            v: self.linear(&name(v), v_rows, hidden, spec.qkv_bias)?,
            q_norm: self.opt_norm(&name(names.q_norm), spec.qk_norm.as_ref(), head_dim)?,
            k_norm: self.opt_norm(&name(names.k_norm), spec.qk_norm.as_ref(), head_dim)?,
            rope: ropes.get(spec.rope).copied(),
        })
    }

    fn mlp(&mut self, spec: &LayerSpec, prefix: &str, hidden: u64) -> Result<MlpOp> {
        let names = self.names;
        let mlp = &spec.mlp;
        let width = u64::from(mlp.intermediate_size);
        let ((gate, up), [gate_rows, up_rows]) = match names.gate_up {
            GateUp::Apart { gate, up } => ((gate, up), [width, width].map(Rows::all)),
            GateUp::Fused(name) => ((name, name), Rows::split([width, width])),
        };
        let name = |part: &str| format!("{prefix}{part}");
        Ok(MlpOp {
            norm: Some(self.norm(&name(names.mlp_norm), &spec.mlp_norm, hidden)?),
            gate: self.linear(&name(gate), gate_rows, hidden, mlp.bias)?,
            up: self.linear(&name(up), up_rows, hidden, mlp.bias)?,
            down: self.linear(&name(names.down), Rows::all(hidden), width, mlp.bias)?,
            activation: mlp.activation,
            norm_after: self.opt_norm(
                &name(names.mlp_norm_after),
                spec.mlp_norm_after.as_ref(),
                hidden,
            )?,
            multiplier: spec.residual_multiplier,
        })
    }

    /// `rows` of the matrix `name.weight [rows.total, n_in]`, with `name.bias` where asked for.
    fn linear(&mut self, name: &str, rows: Rows, n_in: u64, with_bias: bool) -> Result<Linear> {
        let weight = format!("{name}.weight");
        let dtype = self.expect(&weight, &[rows.total, n_in])?;
        let mut linear = Linear {
            dtype,
            n_out: narrow(rows.n, &weight)?,
            n_in: narrow(n_in, &weight)?,
            offset: 0,
            bias: None,
        };
        linear.offset = self.place((self.linear_bytes)(&linear)?)?;
        if with_bias {
            linear.bias = Some(self.vector(&format!("{name}.bias"), rows, 0.0)?);
        }
        let first_row = narrow(rows.first, &weight)?;
        self.items.push(LoadItem::Linear { linear, tensor: weight, first_row });
        Ok(linear)
    }

    fn opt_norm(&mut self, name: &str, spec: Option<&NormSpec>, n: u64) -> Result<Option<Norm>> {
        spec.map(|spec| self.norm(name, spec, n)).transpose()
    }

    fn norm(&mut self, name: &str, spec: &NormSpec, n: u64) -> Result<Norm> {
        let weight = self.vector(&format!("{name}.weight"), Rows::all(n), spec.weight_offset)?;
        Ok(Norm::Rms { weight, eps: spec.eps })
    }

    fn vector(&mut self, name: &str, part: Rows, offset: f32) -> Result<Vector> {
        let dtype = self.expect(name, &[part.total])?;
        if dtype.is_quantised() {
            let text = format!("tensor {name:?} is {dtype:?}, expected F32, F16 or BF16");
            return Err(Error::Unsupported(text));
        }
        let vector = self.place_vector(part.n)?;
        let first = narrow(part.first, name)?;
        self.items.push(LoadItem::Vector { vector, tensor: name.to_owned(), first, offset });
        Ok(vector)
    }

    fn place_vector(&mut self, len: u64) -> Result<Vector> {
        let offset = self.place(len.saturating_mul(4))?;
        Ok(Vector { offset, len: narrow(len, "a vector")? })
    }

    /// The next `bytes` bytes of the weights block.
    fn place(&mut self, bytes: u64) -> Result<u64> {
        let offset = self.weights_bytes;
        let end = offset.checked_add(bytes);
        let end = end.and_then(|end| end.checked_next_multiple_of(self.alignment));
        self.weights_bytes =
            end.ok_or_else(|| Error::BadModel("the weights need more than 2^64 bytes".into()))?;
        Ok(offset)
    }

    /// The type of the tensor, which must be there with this shape. An outline has all that are asked for.
    fn expect(&mut self, name: &str, shape: &[u64]) -> Result<DType> {
        if let Some(dtype) = self.checkpoint.outline() {
            return Ok(dtype);
        }
        self.used.insert(name.to_owned());
        let tensor = self.checkpoint.tensor(name).ok_or_else(|| missing(name, ""))?;
        if tensor.shape != shape {
            let text = format!("tensor {name:?} has shape {:?}, expected {shape:?}", tensor.shape);
            return Err(Error::BadModel(text));
        }
        Ok(tensor.dtype)
    }

    fn has_head(&self) -> bool {
        self.checkpoint.tensor(&format!("{}.weight", self.names.head)).is_some()
    }

    /// A tensor that nothing reads is a part of the model that would be missing from the answer.
    fn refuse_unused(&self) -> Result<()> {
        let is_left = |name: &str| !self.used.contains(name) && !is_harmless(name);
        let mut left = self.checkpoint.tensors().map(|tensor| tensor.name.as_str());
        let Some(first) = left.find(|name| is_left(name)) else { return Ok(()) };
        let more = left.filter(|name| is_left(name)).count();
        Err(Error::BadModel(format!(
            "tensor {first:?} belongs to nothing that the model's description asks for{}",
            if more > 0 { format!(", nor do {more} others") } else { String::new() }
        )))
    }
}

/// RoPE's frequencies are computed, or were read with the description.
fn is_harmless(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || ROPE_TENSORS.contains(&name)
}

fn missing(name: &str, why: &str) -> Error {
    let space = if why.is_empty() { "" } else { ", " };
    Error::BadModel(format!("tensor {name:?} is missing{space}{why}"))
}

fn narrow(n: u64, name: &str) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::Unsupported(format!("{name:?}: {n} exceeds 2^32 - 1")))
}
