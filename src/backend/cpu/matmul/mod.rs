//! Products of a range of weight rows with activation rows, on one thread: `out[m][n] = w[n] · x[m]`.
//!
//! Three paths: plain weights with f32 activations ([`dense`]), quantised weights decoded to f32 (exact), and
//! quantised weights with activations quantised to 8 bits ([`integers`]). Weights are packed in tiles of 16 rows, as
//! [`pack`](super::blocks::pack) says. The bits of an output depend only on its weight row and its activation row:
//! each has a lane of its own, which accumulates over `n_in` in the same order, whatever lies beside it.
#![allow(
    clippy::needless_range_loop,
    reason = "an index of lanes or rows runs over several arrays"
)]

mod dense;
mod integers;
pub mod q8;
#[cfg(test)]
mod tests;
mod tile;

pub use dense::{matmul_dense, matmul_exact};
pub use integers::matmul_q8;

use super::blocks::pack::{Cut, TILE, unpack};
use super::dispatch::Kernels;
use crate::dtype::DType;
use std::ops::Range;

/// A packed weight matrix.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    pub dtype: DType,
    /// Columns: a multiple of the type's block length.
    pub n_in: usize,
    /// Whole tiles.
    pub bytes: &'a [u8],
}

/// Activation rows.
#[derive(Debug, Clone, Copy)]
pub enum Activations<'a> {
    /// Row m is `data[m * stride ..][.. n_in]`.
    F32 { data: &'a [f32], stride: usize },
    /// Row m is `data[m * stride ..][.. q8::row_bytes(n_in)]`, written by [`Kernels::quantise_row`]. Quantised
    /// weights only.
    Q8 { data: &'a [u8], stride: usize },
}

/// Where the outputs go: that of the i-th activation row and j-th weight row of a call at `first[i * stride + j]`.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub first: *mut f32,
    pub stride: usize,
}

/// How a product with quantised weights is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Weights to f32, f32 activations.
    Exact,
    /// 8-bit activations.
    Q8,
}

/// One call, for the kernels: everything by pointer and bytes.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    pub(super) dtype: DType,
    pub(super) n_in: usize,
    /// The tile of the first row.
    pub(super) weights: *const u8,
    pub(super) tile_bytes: usize,
    /// Rows of that tile before the first.
    pub(super) skip: usize,
    pub(super) n_rows: usize,
    pub(super) x: *const u8,
    /// Bytes from one activation row to the next.
    pub(super) x_stride: usize,
    pub(super) n_x: usize,
    pub(super) out: Output,
    pub(super) scratch: *mut u8,
}

impl Job {
    fn n_tiles(&self) -> usize {
        (self.skip + self.n_rows).div_ceil(TILE)
    }
}

/// Tiles that are worked on together, at most.
const MOST_TILES: usize = 2;

/// Scratch that [`matmul`] wants for each thread: decoded or unpacked weights. None for the plain types.
pub fn scratch_bytes(dtype: DType, n_in: usize, precision: Precision) -> usize {
    match precision {
        _ if !dtype.is_quantised() => 0,
        Precision::Exact => 4 * MOST_TILES * TILE * dense::BLOCK.min(n_in),
        Precision::Q8 => integers::unpacked_bytes(dtype, n_in),
    }
}

/// `out[i][j] = weights[rows[j]] · x[m[i]]`. `scratch` is aligned to 4 bytes, better to 64.
///
/// # Safety
/// `kernels` is supported by this processor; `out` is valid for writes of `rows.len()` values in each of
/// `m.len()` rows that are `out.stride` apart, and nobody else uses those.
///
/// # Panics
/// When the slices are too short for `rows`, `m` or [`scratch_bytes`], or the types do not go together.
pub unsafe fn matmul(
    kernels: &Kernels,
    weights: &Weights<'_>,
    rows: Range<usize>,
    x: &Activations<'_>,
    m: Range<usize>,
    scratch: &mut [u8],
    out: Output,
) {
    let (dtype, n_in) = (weights.dtype, weights.n_in);
    assert!(n_in % dtype.block_len() == 0, "{dtype:?} rows of {n_in} are no whole blocks");
    let tile_bytes = Cut::of(dtype).tile_bytes(n_in);
    let tiles_bytes = rows.end.div_ceil(TILE).checked_mul(tile_bytes);
    assert!(tiles_bytes.is_some_and(|n| weights.bytes.len() >= n), "rows lie outside the weights");
    if rows.is_empty() || m.is_empty() {
        return;
    }
    let (x_first, x_stride, precision) = match *x {
        Activations::F32 { data, stride } => {
            assert!(data.len() >= (m.end - 1) * stride + n_in, "m lies outside the activations");
            (data[m.start * stride..].as_ptr().cast::<u8>(), 4 * stride, Precision::Exact)
        }
        Activations::Q8 { data, stride } => {
            assert!(dtype.is_quantised(), "{dtype:?} weights take f32 activations");
            let last = (m.end - 1) * stride + q8::row_bytes(n_in);
            assert!(data.len() >= last, "m lies outside the activations");
            (data[m.start * stride..].as_ptr(), stride, Precision::Q8)
        }
    };
    assert!(scratch.len() >= scratch_bytes(dtype, n_in, precision), "the scratch is too small");
    assert!(scratch.as_ptr().cast::<f32>().is_aligned(), "the scratch holds f32 values");
    let job = Job {
        dtype,
        n_in,
        weights: weights.bytes[rows.start / TILE * tile_bytes..].as_ptr(),
        tile_bytes,
        skip: rows.start % TILE,
        n_rows: rows.len(),
        x: x_first,
        x_stride,
        n_x: m.len(),
        out,
        scratch: scratch.as_mut_ptr(),
    };
    let kernel = match (dtype.is_quantised(), precision) {
        (false, _) => kernels.matmul_dense,
        (true, Precision::Exact) => kernels.matmul_exact,
        (true, Precision::Q8) => kernels.matmul_q8,
    };
    // SAFETY: the job's ranges were checked above; the output is the caller's promise.
    unsafe { kernel(&job) }
}

/// Row `row` of packed weights: `weights.n_in` values.
///
/// # Safety
/// `kernels` is supported by this processor.
///
/// # Panics
/// When the row lies outside the weights, or `out` is shorter than a row.
pub unsafe fn weight_row(kernels: &Kernels, weights: &Weights<'_>, row: usize, out: &mut [f32]) {
    let (dtype, n_in) = (weights.dtype, weights.n_in);
    let cut = Cut::of(dtype);
    let tile = &weights.bytes[row / TILE * cut.tile_bytes(n_in)..];
    let mut bytes = [0; 1024];
    let some = bytes.len() / cut.bytes;
    for (i, out) in out[..n_in].chunks_mut(some * cut.len).enumerate() {
        let bytes = &mut bytes[..out.len() / dtype.block_len() * dtype.block_bytes()];
        unpack(dtype, tile, row % TILE, i * some, bytes);
        // SAFETY: the caller's promise.
        unsafe { dequantise_row(kernels, dtype, bytes, out) };
    }
}

/// `out.len()` weights of `dtype` from a row's bytes as in the file.
///
/// # Safety
/// `kernels` is supported by this processor.
///
/// # Panics
/// When `bytes` is shorter than such a row, or `out` is no whole number of blocks.
pub unsafe fn dequantise_row(kernels: &Kernels, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let row_bytes = dtype.row_bytes(out.len() as u64);
    assert!(row_bytes.is_some_and(|n| bytes.len() as u64 >= n), "no row of {dtype:?} weights");
    // SAFETY: the row's bytes were checked.
    unsafe { (kernels.dequantise)(dtype, bytes.as_ptr(), out) }
}
