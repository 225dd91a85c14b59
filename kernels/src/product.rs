//! What the products of activations with weights (`gemv`, `small`, `gemm`) have in common: the type of their input rows
//! and what is done with the results.
pub(crate) mod launch;

use crate::driver::DevicePtr;
use crate::format::Format;
use crate::kv::{KvKind, KvRows};
use crate::norm::Norm;

/// Type of the rows that a product reads. The numbers are those of `cuda/product.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Act {
    F32 = 0,
    F16 = 1,
    BF16 = 2,
}

impl Act {
    /// What products with weights of `format` read, above four rows.
    pub const fn of(format: Format) -> Self {
        match format {
            Format::F32 => Act::F32,
            Format::F16 => Act::F16,
            _ => Act::BF16,
        }
    }

    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Act::F32 => 4,
            Act::F16 | Act::BF16 => 2,
        }
    }
}

/// The gate's activation. The numbers are those of `cuda/finish.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Activation {
    #[default]
    Silu = 0,
    GeluTanh = 1,
    Gelu = 2,
}

/// Where values go one by one.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Finish {
    /// `[rows][leading]`: f32, or act rows when gated.
    pub out: DevicePtr,
    /// f32 `[n_out]`, of the gate when gated; 0: none.
    pub bias: DevicePtr,
    /// f32 `[n_out]`, gated only; 0: none.
    pub up_bias: DevicePtr,
    /// Elements from one row of `out` to the next.
    pub leading: u32,
    /// Gated only.
    pub activation: Activation,
    pub multiplier: f32,
    /// `cap · tanh(value / cap)`, store only; 0: none.
    pub cap: f32,
}

const _: () = assert!(size_of::<Finish>() == 40, "finish.cuh has the same struct");

impl Finish {
    /// Plain values at `out`.
    pub const fn to(out: DevicePtr, leading: u32) -> Self {
        Self {
            out,
            bias: 0,
            up_bias: 0,
            leading,
            activation: Activation::Silu,
            multiplier: 1.0,
            cap: 0.0,
        }
    }
}

/// Which elements RoPE rotates together. The numbers are those of `cuda/finish.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum RopePairs {
    /// `i` with `i + dim / 2`.
    #[default]
    Halves = 0,
    /// `2 i` with `2 i + 1`.
    Adjacent = 1,
}

/// Where the heads of q, K and V go. Heads count from 0: those of q, then K's, then V's.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct QkvFinish {
    /// f32 `[rows][n_heads * head_dim]`.
    pub q: DevicePtr,
    /// u32 `[rows]`: where each row's K and V go.
    pub slots: DevicePtr,
    /// f32 `[rows][rope_dim / 2][cos, sin]`; 0: no RoPE.
    pub rope_table: DevicePtr,
    /// Of q, k, v: f32 `[heads * head_dim]`; 0: none.
    pub bias: [DevicePtr; 3],
    /// Over each head, before RoPE.
    pub q_norm: Norm,
    pub k_norm: Norm,
    /// The layer's rows; has n_kv_heads and head_dim.
    pub kv: KvRows,
    pub n_heads: u32,
    pub rope_dim: u32,
    pub rope_pairs: RopePairs,
    /// Of each matrix of the launch, which covers `n_out / head_dim` heads.
    pub first_head: [u32; 3],
}

const _: () =
    assert!(size_of::<QkvFinish>() == 120 + size_of::<KvRows>(), "finish.cuh has the same struct");

impl Default for QkvFinish {
    /// No heads.
    fn default() -> Self {
        Self {
            q: 0,
            slots: 0,
            rope_table: 0,
            bias: [0; 3],
            q_norm: Norm::default(),
            k_norm: Norm::default(),
            kv: KvRows::new(0, KvKind::F32, KvKind::F32, 0, 0),
            n_heads: 0,
            rope_dim: 0,
            rope_pairs: RopePairs::Halves,
            first_head: [0; 3],
        }
    }
}

/// What a product does with its results, and how many matrices it takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FinishKind {
    /// One matrix: `out = cap((y + bias) * multiplier)`, f32.
    Store(Finish),
    /// One matrix: `out += (y + bias) * multiplier`, f32.
    Residual(Finish),
    /// Two matrices, gate and up: `out = activation(gate + bias) * (up + up_bias)`, rows of `Act`.
    Gated(Finish, Act),
    /// One to three matrices of whole heads.
    Qkv(QkvFinish),
}
