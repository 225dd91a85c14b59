//! What an operation is told: small plain structs, the same for every backend. Shapes are `[rows, columns]`.
#![forbid(unsafe_code)]

use crate::dtype::{DType, KvType};
use crate::ids::{Segment, Slot, TokenId};

/// `len` f32 values at byte `offset` of the weights block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vector {
    pub offset: u64,
    pub len: u32,
}

/// A weight matrix `[n_out, n_in]` at byte `offset` of the weights block, packed as the backend likes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Linear {
    pub dtype: DType,
    pub n_out: u32,
    pub n_in: u32,
    pub offset: u64,
    pub bias: Option<Vector>,
}

/// A norm over a row (or a head).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// `x / sqrt(mean(x²) + eps) · weight`
    Rms { weight: Vector, eps: f32 },
    /// `(x − mean) / sqrt(var + eps) · weight + bias`
    Layer { weight: Vector, bias: Option<Vector>, eps: f32 },
}

/// Which elements RoPE rotates together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// `i` with `i + dim / 2` (Hugging Face's order).
    Halves,
    /// `2i` with `2i + 1` (GGUF's `llama` order).
    Adjacent,
}

/// Rotary position encoding of the first `dim` elements of a head (Su et al., RoFormer).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    pub pairs: RopePairs,
    pub dim: u32,
    /// `dim / 2` frequencies with every scaling applied, in the weights block.
    pub inverse_frequencies: Vector,
    /// Factor of cos and sin (yarn, longrope).
    pub magnitude: f32,
}

/// The gate's activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    GeluTanh,
    Gelu,
}

/// The embedding table and the factor of what it gives. Given embeddings are not scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Embedding {
    pub table: Linear,
    pub scale: f32,
}

/// Sizes of the attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub n_heads: u32,
    pub n_kv_heads: u32,
    pub head_dim: u32,
}

/// Norm, projections, q/k norm and RoPE of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QkvOp {
    pub norm: Option<Norm>,
    pub heads: Heads,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    /// Over each head, before RoPE.
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
    pub rope: Option<Rope>,
}

/// Attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttendOp {
    pub heads: Heads,
    /// Factor of q · k.
    pub scale: f32,
    /// A query at position p sees keys `p + 1 - window ..= p`; `None`: all up to p.
    pub window: Option<u32>,
    /// `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// A projection added to the residual.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProjectOp {
    pub weight: Linear,
    pub norm_after: Option<Norm>,
    pub multiplier: f32,
}

/// A gated MLP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpOp {
    pub norm: Option<Norm>,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
    pub activation: Activation,
    pub norm_after: Option<Norm>,
    pub multiplier: f32,
}

/// The language-model head, after the final norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadOp {
    pub weight: Linear,
    /// `cap · tanh(logit / cap)`.
    pub softcap: Option<f32>,
    pub multiplier: f32,
}

/// Layout of the KV repo: `[layer][total_tokens + 1][K heads · head_dim | V heads · head_dim]`, token-major. Where K
/// or V is 8-bit, the f32 scales of the K heads and then of the V heads follow, and the row is padded to
/// [`SCALED_ROW_ALIGNMENT`] bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct KvLayout {
    pub k_type: KvType,
    pub v_type: KvType,
    /// Slots, without the extra one for padding rows.
    pub total_tokens: u64,
    /// Sizes layer by layer.
    pub layers: Vec<Heads>,
}

/// Of the bytes of a slot with scales.
pub const SCALED_ROW_ALIGNMENT: u64 = 16;

impl KvLayout {
    /// Bytes of K of one token in `layer`, without scales.
    pub fn k_bytes(&self, layer: usize) -> u64 {
        self.elements(layer) * self.k_type.bytes() as u64
    }

    /// Bytes of K and V of one token in `layer`.
    pub fn row_bytes(&self, layer: usize) -> u64 {
        let values = self.k_bytes(layer) + self.elements(layer) * self.v_type.bytes() as u64;
        let scale_bytes = (self.k_type.scale_bytes() + self.v_type.scale_bytes()) as u64;
        match scale_bytes * u64::from(self.layers[layer].n_kv_heads) {
            0 => values,
            scales => (values + scales).next_multiple_of(SCALED_ROW_ALIGNMENT),
        }
    }

    /// Elements of K, and of V, of one token in `layer`.
    fn elements(&self, layer: usize) -> u64 {
        let heads = self.layers[layer];
        u64::from(heads.n_kv_heads) * u64::from(heads.head_dim)
    }

    /// Bytes of one token in all layers.
    pub fn token_bytes(&self) -> u64 {
        (0..self.layers.len()).map(|layer| self.row_bytes(layer)).sum()
    }

    /// Bytes of the whole repo, with the extra slot.
    pub fn total_bytes(&self) -> u64 {
        self.token_bytes() * (self.total_tokens + 1)
    }
}

/// The rows of one sequence in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchSequence {
    /// Its rows are `batch.rows[first .. first + n]`, in order of position.
    pub first: u32,
    pub n: u32,
    /// Tokens of the sequence with these rows; row i has position `n_tokens - n + i`.
    pub n_tokens: u32,
    /// Its last segment in `batch.segments`.
    pub last_segment: u32,
}

/// What the rows are.
#[derive(Debug, Clone, Copy)]
pub enum RowInput<'a> {
    /// `[n_rows]`
    Tokens(&'a [TokenId]),
    /// `[n_rows][hidden]`
    Embeddings(&'a [f32]),
}

/// A ragged batch. While tracing, the slices may be empty; `n_rows` and the sequences' number are the planned maxima.
#[derive(Debug, Clone, Copy)]
pub struct BatchView<'a> {
    pub n_rows: usize,
    pub input: RowInput<'a>,
    /// `[n_rows]`
    pub positions: &'a [u32],
    /// `[n_rows]` where each row's K and V go.
    pub slots: &'a [Slot],
    /// `[n_rows]` row numbers, grouped by sequence.
    pub rows: &'a [u32],
    pub sequences: &'a [BatchSequence],
    /// The KV repo's segments; chains are walked from `last_segment` through `parent`.
    pub segments: &'a [Segment],
}

/// How a token is drawn. Zero is off everywhere. The repetition penalty looks at prompt and output, presence and
/// frequency penalties at the output.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sampling {
    /// 0: greedy.
    pub temperature: f32,
    /// 0 or more than the vocabulary: off.
    pub top_k: u32,
    /// 0 or 1: off.
    pub top_p: f32,
    pub min_p: f32,
    /// 0 or 1: off. (Keskar et al., CTRL: positive logits are divided, negative ones multiplied.)
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub seed: u64,
    /// Log probabilities wanted beside the chosen one's.
    pub n_logprobs: u32,
}

/// A token and its natural log probability.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct TokenLogprob {
    pub token: TokenId,
    pub logprob: f32,
}

/// One row to draw a token from, and what came of it.
#[derive(Debug)]
pub struct SampleRow<'a> {
    pub sampling: &'a Sampling,
    /// What came before, apart.
    pub prompt: &'a [TokenId],
    pub output: &'a [TokenId],
    /// Added to the logits before anything else; -inf bans.
    pub biases: &'a [(TokenId, f32)],
    /// Tokens that may be drawn, as bits: token i is bit `i % 32` of word `i / 32`. The logits of all others become
    /// -inf before anything else. `None`: all tokens may.
    pub mask: Option<&'a [u32]>,
    /// Number of the draw in this request: the generator's counter.
    pub counter: u64,
    /// Room for `sampling.n_logprobs`; filled in descending order, after mask, biases and penalties and before
    /// temperature.
    pub top: &'a mut [TokenLogprob],
    pub result: SampleResult,
}

/// The outcome of one row.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum SampleResult {
    #[default]
    None,
    Token(TokenLogprob),
    /// A NaN or +inf in the row, or nothing but -inf: there is no token to draw.
    NonFinite,
}
