//! The launch that [`gemv`](crate::gemv) and [`small`](crate::small) share: blocks of eight warps, each block with some
//! units of neighbouring rows of weights, and as many warps to a unit as it takes to keep the device busy.

use cudarc::driver::sys::CUresult;

use super::{Act, Finish, FinishKind, QkvFinish};
use crate::args;
use crate::driver::{CudaError, DevicePtr, Launch, Result, Stream};
use crate::format::{Format, Weights};
use crate::gemm;
use crate::kv::KvKind;
use crate::modules::Kernels;
use crate::norm::{Norm, NormKind};

/// Warps of a block.
const WARPS: u32 = 8;
/// Warps that a multiprocessor wants under way.
const BUSY_WARPS: u32 = 16;
/// Shared memory of a block: two fit on every architecture.
const MOST_SHARED: u32 = 48 << 10;
/// What a block with a whole head may have.
const MOST_SHARED_OF_HEADS: u32 = 96 << 10;

/// The parameter of the kernels; `Product` of product.cuh.
#[derive(Clone, Copy)]
#[repr(C)]
struct Product {
    weights: [Weights; 3],
    heads: QkvFinish,
    finish: Finish,
    input: DevicePtr,
    norm_weight: DevicePtr,
    norm_eps: f32,
    n_rows: u32,
    kind: Kind,
    out_act: Act,
    k_split: u32,
    block_units: u32,
}

const _: () = assert!(size_of::<Product>() == 144 + size_of::<QkvFinish>() + 40 + 40);

/// `ProductKind` of product.cuh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Store = 0,
    Residual = 1,
    Gated = 2,
    /// Heads may be spread over blocks.
    Pairs = 3,
    /// A block has one head.
    Heads = 4,
}

/// One of the two kernels.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// In errors.
    pub name: &'static str,
    /// Rows of a unit.
    pub unit: u32,
    /// Rows of the input that the kernel has sums for.
    pub sum_rows: u32,
    /// The same of the largest kernel: how columns are split, and so the order of the additions, depends on this one
    /// only.
    pub most_rows: u32,
    /// Chunks of a row that a warp takes at once.
    pub chunks_at_once: u32,
}

/// What a product reads.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    pub input: DevicePtr,
    pub n_rows: u32,
    /// An RMS norm in front.
    pub norm: Option<&'a Norm>,
}

/// How a product is spread over blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spread {
    blocks: u32,
    block_units: u32,
    k_split: u32,
    shared_bytes: u32,
}

impl Shape {
    pub fn refuse(&self, why: &str) -> CudaError {
        CudaError::found(self.name, CUresult::CUDA_ERROR_INVALID_VALUE, &format!(" ({why})"))
    }

    /// # Safety
    /// The addresses hold what the launcher says until the launch has run.
    pub unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Stream,
        kernel: &str,
        weights: &[Weights],
        rows: Rows<'_>,
        finish: &FinishKind,
    ) -> Result<()> {
        let format = weights.first().map_or(Format::F32, |matrix| matrix.format);
        gemm::check(weights, format, finish)?;
        if rows.norm.is_some_and(|norm| norm.kind != NormKind::Rms) {
            return Err(self.refuse("a norm in front that is not RMS"));
        }
        let kind = self.kind(finish);
        let spread = self.spread(kernels.info().n_multiprocessors, weights, kind, finish);
        let product = parameter(weights, rows, kind, spread, finish);
        let launch = Launch {
            grid: [spread.blocks, 1, 1],
            block: [32 * WARPS, 1, 1],
            shared_bytes: spread.shared_bytes,
            dependent: true,
        };
        // SAFETY: the parameter is the kernels'; the addresses as the caller says.
        unsafe { kernels.function(kernel).launch(stream, launch, &mut args![product]) }
    }

    fn kind(&self, finish: &FinishKind) -> Kind {
        let qkv = match finish {
            FinishKind::Store(_) => return Kind::Store,
            FinishKind::Residual(_) => return Kind::Residual,
            FinishKind::Gated(..) => return Kind::Gated,
            FinishKind::Qkv(qkv) => qkv,
        };
        let has_norm = [qkv.q_norm, qkv.k_norm].iter().any(|norm| norm.kind != NormKind::None);
        let is_scaled = |kind| kind == KvKind::Int8 as u32 || kind == KvKind::Fp8 as u32;
        let is_whole = |n: u32| n.is_multiple_of(self.unit);
        let needs_head = has_norm || is_scaled(qkv.kv.k_kind) || is_scaled(qkv.kv.v_kind);
        if needs_head || !is_whole(qkv.kv.head_dim) || !is_whole(qkv.rope_dim) {
            Kind::Heads
        } else {
            Kind::Pairs
        }
    }

    /// As many warps to a unit as the device needs to be busy, whatever the number of input rows.
    fn spread(
        &self,
        n_multiprocessors: u32,
        weights: &[Weights],
        kind: Kind,
        finish: &FinishKind,
    ) -> Spread {
        let n_units = match finish {
            FinishKind::Gated(..) => weights[0].n_out.div_ceil(self.unit / 2),
            FinishKind::Store(_) | FinishKind::Residual(_) => weights[0].n_out.div_ceil(self.unit),
            FinishKind::Qkv(qkv) => {
                let n_heads: u32 =
                    weights.iter().map(|matrix| matrix.n_out / qkv.kv.head_dim).sum();
                n_heads * qkv.kv.head_dim.div_ceil(self.unit)
            }
        };
        let per_head = match finish {
            FinishKind::Qkv(qkv) => qkv.kv.head_dim.div_ceil(self.unit),
            _ => 1,
        };
        let chunks = weights[0].n_in.div_ceil(weights[0].format.chunk_len());
        let wants_more = |k_split: u32| {
            k_split < WARPS
                && u64::from(n_units) * u64::from(k_split)
                    < u64::from(BUSY_WARPS * n_multiprocessors)
                && chunks >= 2 * k_split * self.chunks_at_once
        };
        let mut k_split = 1;
        while wants_more(k_split) {
            k_split *= 2;
        }
        let shared_of =
            |k_split: u32, units: u32, rows: u32| 4 * k_split * rows * (units * self.unit + 4);
        let shared = |k_split, units| shared_of(k_split, units, self.sum_rows);
        let block_units = match kind {
            Kind::Heads => {
                while k_split > 1
                    && shared_of(k_split, per_head, self.most_rows) > MOST_SHARED_OF_HEADS
                {
                    k_split /= 2;
                }
                per_head
            }
            // A block ends where the heads end: behind them there is no matrix to read.
            Kind::Pairs => 1 << (n_units | (WARPS / k_split)).trailing_zeros(),
            Kind::Store | Kind::Residual | Kind::Gated => {
                let at_once = WARPS / k_split;
                let mut rounds = (n_units / (2 * n_multiprocessors * at_once)).max(1);
                while rounds > 1 && shared(k_split, rounds * at_once) > MOST_SHARED {
                    rounds -= 1;
                }
                rounds * at_once
            }
        };
        Spread {
            blocks: n_units.div_ceil(block_units),
            block_units,
            k_split,
            shared_bytes: shared(k_split, block_units),
        }
    }
}

fn parameter(
    weights: &[Weights],
    rows: Rows<'_>,
    kind: Kind,
    spread: Spread,
    finish: &FinishKind,
) -> Product {
    let (no_values, no_heads) = (Finish::to(0, 0), QkvFinish::default());
    let (finish, heads, out_act) = match *finish {
        FinishKind::Store(finish) | FinishKind::Residual(finish) => (finish, no_heads, Act::F32),
        FinishKind::Gated(finish, act) => (finish, no_heads, act),
        FinishKind::Qkv(qkv) => (no_values, qkv, Act::F32),
    };
    // Matrices that are not there are never read.
    let matrix = |i: usize| weights[i.min(weights.len() - 1)];
    Product {
        weights: [matrix(0), matrix(1), matrix(2)],
        heads,
        finish,
        input: rows.input,
        norm_weight: rows.norm.map_or(0, |norm| norm.weight),
        norm_eps: rows.norm.map_or(0.0, |norm| norm.eps),
        n_rows: rows.n_rows,
        kind,
        out_act,
        k_split: spread.k_split,
        block_units: spread.block_units,
    }
}
