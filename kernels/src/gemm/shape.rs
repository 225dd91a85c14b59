//! The tiles of a product: which kernel, how many blocks, how much shared memory.
#![forbid(unsafe_code)]

use crate::format::{Format, Weights};
use crate::product::FinishKind;

/// Stages of the operands' ring, elements of a step, and values between staged rows; as in gemm.cuh.
const STAGES: u32 = 3;
const TILE_K: u32 = 32;
const STAGED_PAD: u32 = 8;

/// Tile and threads of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub rows: u32,
    pub columns: u32,
    pub threads: u32,
}

const LARGE: Shape = Shape { rows: 128, columns: 128, threads: 128 };
/// Two more pairs of warps share the decoding.
const LARGE_DECODED: Shape = Shape { rows: 128, columns: 128, threads: 256 };
const SMALL: Shape = Shape { rows: 64, columns: 64, threads: 128 };
const F32: Shape = Shape { rows: 64, columns: 64, threads: 256 };

/// How much of the result a block computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiles {
    /// 64 x 64; f32 weights have no others.
    Small,
    /// 128 x 128: half the traffic, a quarter of the blocks.
    Large,
}

impl Tiles {
    /// Large tiles where they give every multiprocessor one.
    pub fn choose(
        n_multiprocessors: u32,
        weights: &[Weights],
        format: Format,
        n_rows: u32,
        finish: &FinishKind,
    ) -> Self {
        let large = Shape::of(format, Tiles::Large);
        let few = large.blocks(weights, n_rows, finish) < u64::from(n_multiprocessors);
        if few || large.passes(finish) > 1 { Tiles::Small } else { Tiles::Large }
    }
}

pub fn kernel(format: Format, tiles: Tiles) -> &'static str {
    match (format, tiles) {
        (Format::F32, _) => "gemm_f32",
        (Format::F16, Tiles::Large) => "gemm_large_f16",
        (Format::F16, Tiles::Small) => "gemm_small_f16",
        (Format::BF16, Tiles::Large) => "gemm_large_bf16",
        (Format::BF16, Tiles::Small) => "gemm_small_bf16",
        (Format::F8E4M3, Tiles::Large) => "gemm_large_f8e4m3",
        (Format::F8E4M3, Tiles::Small) => "gemm_small_f8e4m3",
        (Format::I8, Tiles::Large) => "gemm_large_i8",
        (Format::I8, Tiles::Small) => "gemm_small_i8",
        (Format::Q8_0, Tiles::Large) => "gemm_large_q8_0",
        (Format::Q8_0, Tiles::Small) => "gemm_small_q8_0",
        (Format::Q4_0, Tiles::Large) => "gemm_large_q4_0",
        (Format::Q4_0, Tiles::Small) => "gemm_small_q4_0",
        (Format::Q4_K, Tiles::Large) => "gemm_large_q4_k",
        (Format::Q4_K, Tiles::Small) => "gemm_small_q4_k",
        (Format::Q6_K, Tiles::Large) => "gemm_large_q6_k",
        (Format::Q6_K, Tiles::Small) => "gemm_small_q6_k",
    }
}

impl Shape {
    pub fn of(format: Format, tiles: Tiles) -> Self {
        match (format, tiles) {
            (Format::F32, _) => F32,
            (_, Tiles::Small) => SMALL,
            (Format::F16 | Format::BF16, Tiles::Large) => LARGE,
            (_, Tiles::Large) => LARGE_DECODED,
        }
    }

    /// Columns that a block has of each matrix: half a tile of gate and of up, whole heads of q, k and v.
    pub fn tile_columns(&self, finish: &FinishKind) -> u32 {
        match finish {
            FinishKind::Store(_) | FinishKind::Residual(_) => self.columns,
            FinishKind::Gated(..) => self.columns / 2,
            FinishKind::Qkv(qkv) => {
                let head_dim = qkv.kv.head_dim.max(1);
                (self.columns / head_dim).max(1) * head_dim
            }
        }
    }

    /// Tiles that a block computes one after the other until it has a whole head.
    fn passes(&self, finish: &FinishKind) -> u32 {
        match finish {
            FinishKind::Qkv(_) => self.tile_columns(finish).div_ceil(self.columns),
            _ => 1,
        }
    }

    pub fn blocks(&self, weights: &[Weights], n_rows: u32, finish: &FinishKind) -> u64 {
        let columns = self.tile_columns(finish);
        let tiles = |matrix: &Weights| u64::from(matrix.n_out.div_ceil(columns));
        let n_tiles = match finish {
            FinishKind::Qkv(_) => weights.iter().map(tiles).sum(),
            _ => weights.first().map_or(0, tiles),
        };
        n_tiles * u64::from(n_rows.div_ceil(self.rows))
    }

    pub fn shared_bytes(&self, format: Format, finish: &FinishKind) -> u32 {
        let Shape { rows, columns, .. } = *self;
        let operands = match format {
            // Two tiles of 16 values along n_in of either, their rows padded.
            Format::F32 => 2 * 4 * 16 * (rows + columns + 8),
            Format::F16 | Format::BF16 => 2 * TILE_K * STAGES * (rows + columns),
            // Two tiles of decoded weights, and their scales.
            _ => 2 * TILE_K * (STAGES * rows + 2 * columns) + 2 * 4 * columns,
        };
        let leading = self.passes(finish) * columns + STAGED_PAD;
        if self.passes(finish) > 1 {
            operands + 4 * rows * leading
        } else {
            // Over the operands; tensor cores stage the rows of half the warps at a time.
            let rows = if format == Format::F32 { rows } else { rows / 2 };
            operands.max(4 * rows * leading)
        }
    }
}
