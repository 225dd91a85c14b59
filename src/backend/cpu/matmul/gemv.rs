//! Quantised weights with one 8-bit activation row: the speed is that of memory, so blocks are decoded in
//! registers, several weight rows at once. Only the offsets go to the scratch.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use super::Job;
use super::dense::prefetch;
use super::panel::{add_chunk, offset_sum, weight_scale};
use super::q8::{CHUNK, Row};
use crate::backend::cpu::blocks::bytes::{Bytes, EightLanes};
use crate::backend::cpu::blocks::{Chunk, Format};
use crate::backend::cpu::simd::Simd;

/// Weight rows at once.
const ROWS: usize = 4;

/// All weight rows with the one activation row.
#[inline(always)]
pub(super) unsafe fn gemv<S: Bytes, F: Format>(job: &Job) {
    let mut row = 0;
    while row + ROWS <= job.n_rows {
        rows::<S, F, ROWS>(job, row);
        row += ROWS;
    }
    while row < job.n_rows {
        rows::<S, F, 1>(job, row);
        row += 1;
    }
}

#[inline(always)]
unsafe fn rows<S: Bytes, F: Format, const R: usize>(job: &Job, row: usize) {
    let n_in = job.n_in;
    let weights = job.weights.add(row * job.row_bytes);
    let x = Row::new(job.x, n_in);
    let offsets = job.scratch.cast::<f32>();
    let mut sums = [S::Eight::zero(); R];
    for block in 0..n_in / F::LEN {
        prefetch_block::<S, F, R>(weights, job.row_bytes, block * F::BYTES);
        for i in 0..F::LEN / CHUNK {
            let c = block * (F::LEN / CHUNK) + i;
            let q = S::load_bytes(x.q.add(c * CHUNK));
            let x_scale = x.scales.add(c).read_unaligned();
            for r in 0..R {
                let at = weights.add(r * job.row_bytes + block * F::BYTES);
                let chunk = F::chunk::<S>(at, i);
                sums[r] = add::<S, F>(&chunk, q, x_scale, sums[r]);
                if !F::SIGNED {
                    let to = offsets.add(r * (n_in / 16) + 2 * c);
                    to.cast::<[f32; 2]>().write_unaligned(chunk.offsets);
                }
            }
        }
    }
    for r in 0..R {
        let mut sum = S::Eight::sum(sums[r]);
        if !F::SIGNED {
            let offsets = offsets.add(r * (n_in / 16));
            sum += offset_sum::<S>(offsets, x.sums, n_in / 16);
        }
        *job.out.first.add(row + r) = sum;
    }
}

#[inline(always)]
unsafe fn add<S: Bytes, F: Format>(
    chunk: &Chunk<S>,
    x: S::B,
    x_scale: f32,
    sum: EightLanes<S>,
) -> EightLanes<S> {
    let scales = chunk.scales.as_ptr();
    let scale =
        if F::HALVES { weight_scale::<S, true>(scales) } else { weight_scale::<S, false>(scales) };
    if F::SIGNED {
        add_chunk::<S, true>(chunk.q, scale, x, x_scale, sum)
    } else {
        add_chunk::<S, false>(chunk.q, scale, x, x_scale, sum)
    }
}

/// Asks for the blocks to come, every cache line of them.
#[inline(always)]
unsafe fn prefetch_block<S: Bytes, F: Format, const R: usize>(
    weights: *const u8,
    row_bytes: usize,
    at: usize,
) {
    let mut line = 0;
    while line < F::BYTES {
        prefetch::<S, R>(weights, row_bytes, at + line);
        line += 64;
    }
}
