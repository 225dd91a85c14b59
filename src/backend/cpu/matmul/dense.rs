//! f32, f16 or bf16 weights with f32 activations, and quantised weights decoded to f32 first.
//!
//! Each output has a lane. It adds its products in the order of `n_in`, [`BLOCK`] of them at a time, and the blocks'
//! sums in order. A register tile of R tiles of weights and C activation rows keeps their sums in registers; for
//! C = 1 the speed is that of memory.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use super::tile::{MAX_PARTS, next_columns, parts, prefetch, store, with_columns};
use super::{Job, MOST_TILES};
use crate::backend::cpu::blocks::pack::TILE;
use crate::backend::cpu::blocks::with_format;
use crate::backend::cpu::blocks::words::Words;
use crate::backend::cpu::simd::Simd;
use crate::dtype::DType;
use std::ops::Range;

/// Weights of a row whose products are summed before the sum so far is touched: a tile of them and as many values of
/// the activation rows stay in the first level of the cache. A multiple of every type's block.
pub(super) const BLOCK: usize = 512;

/// A plain weight type: how two neighbouring weights of a tile's rows are read.
trait Element {
    /// Bytes of a weight.
    const BYTES: usize;
    /// Vector `part` of weight 0 of the rows.
    unsafe fn even<S: Simd>(at: *const u8, part: usize) -> S::F;
    /// Vector `part` of weight 1.
    unsafe fn odd<S: Simd>(at: *const u8, part: usize) -> S::F;
}

struct F32;
struct F16;
struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn even<S: Simd>(at: *const u8, part: usize) -> S::F {
        S::load(at.cast::<f32>().add(part * S::LANES))
    }
    #[inline(always)]
    unsafe fn odd<S: Simd>(at: *const u8, part: usize) -> S::F {
        S::load(at.cast::<f32>().add(TILE + part * S::LANES))
    }
}

impl Element for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn even<S: Simd>(at: *const u8, part: usize) -> S::F {
        S::load_f16(at.cast::<u16>().add(part * S::LANES))
    }
    #[inline(always)]
    unsafe fn odd<S: Simd>(at: *const u8, part: usize) -> S::F {
        S::load_f16(at.cast::<u16>().add(TILE + part * S::LANES))
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn even<S: Simd>(at: *const u8, part: usize) -> S::F {
        S::load_even_bf16(at.cast::<u16>().add(2 * part * S::LANES))
    }
    #[inline(always)]
    unsafe fn odd<S: Simd>(at: *const u8, part: usize) -> S::F {
        S::load_odd_bf16(at.cast::<u16>().add(2 * part * S::LANES))
    }
}

/// Plain weights.
///
/// # Safety
/// The processor has `S`'s instruction set; the job's pointers are valid for what its sizes say.
#[inline(always)]
pub unsafe fn matmul_dense<S: Simd>(job: &Job) {
    match job.dtype {
        DType::F16 => plain::<S, F16>(job),
        DType::BF16 => plain::<S, Bf16>(job),
        _ => plain::<S, F32>(job),
    }
}

/// The whole product, a strip of tiles at a time: few activation rows follow each tile's stream to its end; many
/// pass all tiles with a block of their values before the next block.
#[inline(always)]
unsafe fn plain<S: Simd, E: Element>(job: &Job) {
    let strip = if job.n_x <= S::TILE_COLUMNS { 2 } else { job.n_tiles() };
    let mut first = 0;
    while first < job.n_tiles() {
        let end = job.n_tiles().min(first + strip);
        let mut k = 0;
        loop {
            let n = BLOCK.min(job.n_in - k);
            let mut tile = first;
            while tile < end {
                let at = job.weights.add(tile * job.tile_bytes + k * TILE * E::BYTES);
                tile += columns::<S, E>(job, tile..end, at, job.tile_bytes, k, n);
            }
            k += n;
            if k >= job.n_in {
                break;
            }
        }
        first = end;
    }
}

/// Quantised weights, decoded block by block to f32.
///
/// # Safety
/// As for [`matmul_dense`], with scratch for `min(n_in, BLOCK)` values of [`MOST_TILES`] tiles.
#[inline(always)]
pub unsafe fn matmul_exact<S: Words>(job: &Job) {
    let mut tile = 0;
    while tile < job.n_tiles() {
        let n_tiles = MOST_TILES.min(job.n_tiles() - tile);
        let (mut k, mut blocks) = (0, job.weights.add(tile * job.tile_bytes));
        while k < job.n_in {
            let n = BLOCK.min(job.n_in - k);
            let panel_bytes = 4 * TILE * n;
            for i in 0..n_tiles {
                let (from, to) = (blocks.add(i * job.tile_bytes), job.scratch.add(i * panel_bytes));
                let to = to.cast();
                with_format!(job.dtype, F => decode::<S, F>(from, n, to), else unreachable!());
            }
            let (mut done, mut at) = (0, job.scratch.cast_const());
            while done < n_tiles {
                let range = tile + done..tile + n_tiles;
                let n_done = columns::<S, F32>(job, range, at, panel_bytes, k, n);
                done += n_done;
                at = at.add(n_done * panel_bytes);
            }
            blocks = blocks.add(n / job.dtype.block_len() * job.dtype.block_bytes() * TILE);
            k += n;
        }
        tile += n_tiles;
    }
}

/// Weights `k .. k + n` of the first of `tiles`, the next tile `tile_bytes` behind the one at `at`, with all
/// activation rows: of two tiles where the register tile has room for two, or where two streams come faster than one.
/// Returns how many.
#[inline(always)]
unsafe fn columns<S: Simd, E: Element>(
    job: &Job,
    tiles: Range<usize>,
    at: *const u8,
    tile_bytes: usize,
    k: usize,
    n: usize,
) -> usize {
    let tile = tiles.start;
    let two = tiles.len() >= 2 && (S::TILES == 2 || job.n_x == 1);
    let mut m = 0;
    while m < job.n_x {
        let columns = next_columns(job.n_x - m, S::TILE_COLUMNS);
        with_columns!(columns, S::TILE_COLUMNS, C => {
            if two && (S::TILES == 2 || C == 1) {
                register_tile::<S, E, 2, C>(job, tile, at, tile_bytes, m, k, n)
            } else {
                register_tile::<S, E, 1, C>(job, tile, at, tile_bytes, m, k, n)
            }
        });
        m += columns;
    }
    if two { 2 } else { 1 }
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "where a register tile lies")]
unsafe fn register_tile<S: Simd, E: Element, const R: usize, const C: usize>(
    job: &Job,
    tile: usize,
    mut at: *const u8,
    tile_bytes: usize,
    m: usize,
    k: usize,
    n: usize,
) {
    let mut sums = [[[S::zero(); MAX_PARTS]; R]; C];
    let mut x = job.x.add(m * job.x_stride).cast::<f32>().add(k);
    let stride = job.x_stride / 4;
    for _ in 0..n / 2 {
        for r in 0..R {
            prefetch::<S>(at.wrapping_add(r * tile_bytes), 2 * TILE * E::BYTES, S::AHEAD);
        }
        macro_rules! step {
            ($weight:ident, $i:literal, $at:expr) => {
                let at = $at;
                let mut weights = [[S::zero(); MAX_PARTS]; R];
                for r in 0..R {
                    for part in 0..parts::<S>() {
                        weights[r][part] = E::$weight::<S>(at.add(r * tile_bytes), part);
                    }
                }
                for c in 0..C {
                    let value = S::splat(*x.add(c * stride + $i));
                    for r in 0..R {
                        for part in 0..parts::<S>() {
                            sums[c][r][part] = S::fma(weights[r][part], value, sums[c][r][part]);
                        }
                    }
                }
            };
        }
        step!(even, 0, at);
        // Or pairs of bf16 would be kept from one step to the other, for which there is no register.
        step!(odd, 1, S::same_address(at));
        at = at.add(2 * TILE * E::BYTES);
        x = x.add(2);
    }
    if n % 2 == 1 {
        for c in 0..C {
            let value = S::splat(*x.add(c * stride));
            for r in 0..R {
                for part in 0..parts::<S>() {
                    let weight = E::even::<S>(at.add(r * tile_bytes), part);
                    sums[c][r][part] = S::fma(weight, value, sums[c][r][part]);
                }
            }
        }
    }
    for c in 0..C {
        for r in 0..R {
            store::<S>(job, tile + r, m + c, &sums[c][r], k > 0);
        }
    }
}
