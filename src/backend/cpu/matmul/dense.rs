//! f32, f16 or bf16 weights with f32 activations, and quantised weights decoded to f32 first.
//!
//! Each output has one vector of partial sums: lane l adds the products l, l + LANES, … in order, the lanes are
//! added at the end. A tile of R weight rows and C activation rows keeps R · C such vectors in registers; for
//! C = 1 the speed is that of memory, and R streams are read at once.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use super::tile::{LINE, next_columns, prefetch, with_columns};
use super::{Job, Output};
use crate::backend::cpu::blocks::{bytes::Bytes, dequantise};
use crate::backend::cpu::simd::Simd;
use crate::dtype::DType;

/// Weight rows of a tile, and of a tile with one column.
const ROWS: usize = 4;
const ROWS_ALONE: usize = 8;

/// Rows of a panel of decoded weights, at least.
pub(super) const MIN_PANEL_ROWS: usize = ROWS;

/// Bytes of weight rows that all activation rows pass before the next ones are read.
const STRIP_BYTES: usize = 128 << 10;

/// A plain weight type.
trait Element {
    const BYTES: usize;
    /// Element `i` and those behind it.
    unsafe fn load<S: Simd>(row: *const u8, i: usize) -> S::F;
    unsafe fn load_partial<S: Simd>(row: *const u8, i: usize, n: usize) -> S::F;
}

struct F32;
struct F16;
struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(row: *const u8, i: usize) -> S::F {
        S::load(row.cast::<f32>().add(i))
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(row: *const u8, i: usize, n: usize) -> S::F {
        S::load_partial(row.cast::<f32>().add(i), n)
    }
}

impl Element for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(row: *const u8, i: usize) -> S::F {
        S::load_f16(row.cast::<u16>().add(i))
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(row: *const u8, i: usize, n: usize) -> S::F {
        S::load_f16_partial(row.cast::<u16>().add(i), n)
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(row: *const u8, i: usize) -> S::F {
        S::load_bf16(row.cast::<u16>().add(i))
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(row: *const u8, i: usize, n: usize) -> S::F {
        S::load_bf16_partial(row.cast::<u16>().add(i), n)
    }
}

/// Plain weights.
///
/// # Safety
/// The processor has `S`'s instruction set; the job's pointers are valid for what its sizes say.
#[inline(always)]
pub unsafe fn matmul_dense<S: Simd>(job: &Job) {
    match job.dtype {
        DType::F16 => strips::<S, F16>(job),
        DType::BF16 => strips::<S, Bf16>(job),
        _ => strips::<S, F32>(job),
    }
}

/// Quantised weights, decoded panel by panel to f32.
///
/// # Safety
/// As for [`matmul_dense`], with scratch for at least four rows of f32.
#[inline(always)]
pub unsafe fn matmul_exact<S: Bytes>(job: &Job) {
    let decoded_bytes = 4 * job.n_in;
    let panel_rows = job.scratch_bytes / decoded_bytes.max(1);
    let mut row = 0;
    while row < job.n_rows {
        let n_rows = panel_rows.min(job.n_rows - row);
        for i in 0..n_rows {
            let to = job.scratch.add(i * decoded_bytes).cast::<f32>();
            let from = job.weights.add((row + i) * job.row_bytes);
            dequantise::<S>(job.dtype, from, std::slice::from_raw_parts_mut(to, job.n_in));
        }
        let out = Output { first: job.out.first.add(row), stride: job.out.stride };
        let weights = job.scratch.cast_const();
        strips::<S, F32>(&Job { weights, row_bytes: decoded_bytes, n_rows, out, ..*job });
        row += n_rows;
    }
}

/// Strips of weight rows that stay in the cache while the activation rows pass, a few at a time.
#[inline(always)]
unsafe fn strips<S: Simd, W: Element>(job: &Job) {
    let fitting = STRIP_BYTES / job.row_bytes.max(1);
    let strip = (fitting - fitting % ROWS_ALONE).max(ROWS_ALONE);
    let mut row = 0;
    while row < job.n_rows {
        let end = job.n_rows.min(row + strip);
        let mut m = 0;
        while m < job.n_x {
            let n = next_columns(job.n_x - m, S::TILE_COLUMNS);
            with_columns!(n, S::TILE_COLUMNS, C => columns::<S, W, C>(job, row, end, m));
            m += n;
        }
        row = end;
    }
}

/// Weight rows `row .. end` with activation rows `m .. m + C`.
#[inline(always)]
unsafe fn columns<S: Simd, W: Element, const C: usize>(
    job: &Job,
    mut row: usize,
    end: usize,
    m: usize,
) {
    if C == 1 {
        while row + ROWS_ALONE <= end {
            tile::<S, W, ROWS_ALONE, C>(job, row, m);
            row += ROWS_ALONE;
        }
    }
    while row + ROWS <= end {
        tile::<S, W, ROWS, C>(job, row, m);
        row += ROWS;
    }
    while row < end {
        tile::<S, W, 1, C>(job, row, m);
        row += 1;
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, W: Element, const R: usize, const C: usize>(
    job: &Job,
    row: usize,
    m: usize,
) {
    let n_in = job.n_in;
    let weights = job.weights.add(row * job.row_bytes);
    let x = job.x.add(m * job.x_stride);
    let mut sums = [[S::zero(); C]; R];
    let whole = n_in - n_in % S::LANES;
    let mut i = 0;
    while i < whole {
        if C == 1 && (i * W::BYTES) % LINE == 0 {
            prefetch::<S, R>(weights, job.row_bytes, i * W::BYTES);
        }
        let mut columns = [S::zero(); C];
        for c in 0..C {
            columns[c] = S::load(x.add(c * job.x_stride).cast::<f32>().add(i));
        }
        for r in 0..R {
            let w = W::load::<S>(weights.add(r * job.row_bytes), i);
            for c in 0..C {
                sums[r][c] = S::fma(w, columns[c], sums[r][c]);
            }
        }
        i += S::LANES;
    }
    if i < n_in {
        let n = n_in - i;
        for r in 0..R {
            let w = W::load_partial::<S>(weights.add(r * job.row_bytes), i, n);
            for c in 0..C {
                let column = x.add(c * job.x_stride).cast::<f32>().add(i);
                sums[r][c] = S::fma(w, S::load_partial(column, n), sums[r][c]);
            }
        }
    }
    let out = job.out.first.add(m * job.out.stride + row);
    for r in 0..R {
        for c in 0..C {
            *out.add(c * job.out.stride + r) = S::sum(sums[r][c]);
        }
    }
}
