//! Quantised weights with 8-bit activations, several activation rows: a panel of weight rows is decoded once to
//! bytes, scales and offsets in the scratch, and serves all of them.
//!
//! An output is `Σ over chunks (dw · dx) · Σ q·p  +  Σ over halves offset · (dx · Σp)`. The first sum runs in eight
//! lanes, chunk after chunk; the second is a plain f32 product of two short rows. [`gemv`](super::gemv) computes
//! the same, in the same order.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use super::q8::{CHUNK, Row};
use super::tile::{next_columns, with_columns};
use super::{Job, gemv};
use crate::backend::cpu::blocks::bytes::{Bytes, EightLanes};
use crate::backend::cpu::blocks::{Format, with_format};
use crate::backend::cpu::simd::Simd;

/// Weight rows of a tile.
const ROWS: usize = 4;

/// Bytes of a decoded row: `[q: n_in][scales f32: n_in / 16][offsets f32: n_in / 16]`.
pub(super) const fn row_bytes(n_in: usize) -> usize {
    n_in + 2 * (n_in / 16 * 4)
}

/// A decoded row's parts.
#[derive(Clone, Copy)]
struct Decoded {
    q: *mut u8,
    scales: *mut f32,
    offsets: *mut f32,
}

#[inline(always)]
unsafe fn decoded(job: &Job, row: usize) -> Decoded {
    let q = job.scratch.add(row * row_bytes(job.n_in));
    let scales = q.add(job.n_in).cast::<f32>();
    Decoded { q, scales, offsets: scales.add(job.n_in / 16) }
}

/// Quantised weights with 8-bit activations.
///
/// # Safety
/// The processor has `S`'s instruction set; the job's pointers are valid for what its sizes say, with scratch for
/// at least four decoded rows.
#[inline(always)]
pub unsafe fn matmul_q8<S: Bytes>(job: &Job) {
    if job.n_x == 1 {
        return with_format!(job.dtype, F => gemv::gemv::<S, F>(job), else unreachable!());
    }
    let panel_rows = job.scratch_bytes / row_bytes(job.n_in).max(1);
    let mut row = 0;
    while row < job.n_rows {
        let n_rows = panel_rows.min(job.n_rows - row);
        with_format!(job.dtype, F => decode::<S, F>(job, row, n_rows), else unreachable!());
        let (signed, halves) =
            with_format!(job.dtype, F => (F::SIGNED, F::HALVES), else unreachable!());
        match (signed, halves) {
            (true, _) => panel::<S, true, false>(job, row, n_rows),
            (false, false) => panel::<S, false, false>(job, row, n_rows),
            (false, true) => panel::<S, false, true>(job, row, n_rows),
        }
        row += n_rows;
    }
}

/// Decodes weight rows `first .. first + n_rows` to the scratch.
#[inline(always)]
unsafe fn decode<S: Bytes, F: Format>(job: &Job, first: usize, n_rows: usize) {
    for row in 0..n_rows {
        let to = decoded(job, row);
        let mut block = job.weights.add((first + row) * job.row_bytes);
        let mut c = 0;
        for _ in 0..job.n_in / F::LEN {
            for i in 0..F::LEN / CHUNK {
                let chunk = F::chunk::<S>(block, i);
                S::store_bytes(to.q.add(c * CHUNK), chunk.q);
                to.scales.add(2 * c).cast::<[f32; 2]>().write_unaligned(chunk.scales);
                to.offsets.add(2 * c).cast::<[f32; 2]>().write_unaligned(chunk.offsets);
                c += 1;
            }
            block = block.add(F::BYTES);
        }
    }
}

/// The decoded rows, which are weight rows `first .. first + n_rows`, with all activation rows.
#[inline(always)]
unsafe fn panel<S: Bytes, const SIGNED: bool, const HALVES: bool>(
    job: &Job,
    first: usize,
    n_rows: usize,
) {
    let mut m = 0;
    while m < job.n_x {
        let n = next_columns(job.n_x - m, S::TILE_COLUMNS);
        let mut row = 0;
        while row + ROWS <= n_rows {
            with_columns!(n, S, C => tile::<S, SIGNED, HALVES, ROWS, C>(job, first, row, m));
            row += ROWS;
        }
        while row < n_rows {
            with_columns!(n, S, C => tile::<S, SIGNED, HALVES, 1, C>(job, first, row, m));
            row += 1;
        }
        m += n;
    }
}

#[inline(always)]
unsafe fn tile<S: Bytes, const SIGNED: bool, const HALVES: bool, const R: usize, const C: usize>(
    job: &Job,
    first: usize,
    row: usize,
    m: usize,
) {
    let n_in = job.n_in;
    let mut rows = [decoded(job, row); R];
    for r in 0..R {
        rows[r] = decoded(job, row + r);
    }
    let mut columns = [Row::new(job.x, n_in); C];
    for c in 0..C {
        columns[c] = Row::new(job.x.add((m + c) * job.x_stride), n_in);
    }
    let mut sums = [[S::Eight::zero(); C]; R];
    for chunk in 0..n_in / CHUNK {
        for r in 0..R {
            let w = S::load_bytes(rows[r].q.add(chunk * CHUNK));
            let scale = weight_scale::<S, HALVES>(rows[r].scales.add(2 * chunk));
            for c in 0..C {
                let x = S::load_bytes(columns[c].q.add(chunk * CHUNK));
                let x_scale = columns[c].scales.add(chunk).read_unaligned();
                sums[r][c] = add_chunk::<S, SIGNED>(w, scale, x, x_scale, sums[r][c]);
            }
        }
    }
    let out = job.out.first.add(m * job.out.stride + first + row);
    for r in 0..R {
        for c in 0..C {
            let mut sum = S::Eight::sum(sums[r][c]);
            if !SIGNED {
                sum += offset_sum::<S>(rows[r].offsets, columns[c].sums, n_in / 16);
            }
            *out.add(c * job.out.stride + r) = sum;
        }
    }
}

/// The lanes' scales of one chunk of weights.
#[inline(always)]
pub(super) unsafe fn weight_scale<S: Bytes, const HALVES: bool>(
    scales: *const f32,
) -> EightLanes<S> {
    if HALVES { S::halves(scales) } else { S::Eight::splat(scales.read_unaligned()) }
}

/// `sum + (dw · dx) · Σ w·x` in eight lanes.
#[inline(always)]
pub(super) unsafe fn add_chunk<S: Bytes, const SIGNED: bool>(
    w: S::B,
    scale: EightLanes<S>,
    x: S::B,
    x_scale: f32,
    sum: EightLanes<S>,
) -> EightLanes<S> {
    let dot = if SIGNED { S::dot_signed(w, x) } else { S::dot_unsigned(w, x) };
    S::Eight::fma(dot, S::Eight::mul(scale, S::Eight::splat(x_scale)), sum)
}

/// `Σ offsets[i] · sums[i]` over `n` halves.
#[inline(always)]
pub(super) unsafe fn offset_sum<S: Simd>(offsets: *const f32, sums: *const f32, n: usize) -> f32 {
    let whole = n - n % S::LANES;
    let mut sum = S::zero();
    let mut i = 0;
    while i < whole {
        sum = S::fma(S::load(offsets.add(i)), S::load(sums.add(i)), sum);
        i += S::LANES;
    }
    if i < n {
        let offsets = S::load_partial(offsets.add(i), n - i);
        sum = S::fma(offsets, S::load_partial(sums.add(i), n - i), sum);
    }
    S::sum(sum)
}
