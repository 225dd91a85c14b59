//! Quantised weights with 8-bit activations, eight weight rows at once.
//!
//! An output is the sum, chunk after chunk and part after part, of `(dw · dx) · Σ q·p` and of
//! `offset · (dx · Σp)`. It has one lane, so its bits cannot depend on a neighbour. For one activation row the
//! speed is that of memory, and the weights are decoded in registers; for more, a panel of rows is decoded once to
//! the scratch, as `[chunk][8 groups of 32 bytes | scales of 8 rows | offsets of 8 rows]`, and serves all of them.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use super::Job;
use super::q8::{CHUNK, CHUNK_BYTES, number};
use super::tile::{LINE, next_columns, prefetch, with_columns};
use crate::backend::cpu::blocks::bytes::{Bytes, EightLanes};
use crate::backend::cpu::blocks::{Format, Q2K, Q4_1, Q5_1, Q6K, Q8_0, Scales, with_format};
use crate::backend::cpu::simd::Simd;
use crate::dtype::DType;

/// Rows of an octet.
pub(super) const ROWS: usize = 8;

/// A chunk of eight rows, transposed, with the scales and offsets of its one or two parts.
struct Chunk<S: Bytes> {
    q: [S::B; 8],
    scales: [EightLanes<S>; 2],
    offsets: [EightLanes<S>; 2],
}

/// Bytes of a decoded chunk of eight rows.
const fn chunk_bytes(halves: bool) -> usize {
    ROWS * CHUNK + 2 * 4 * ROWS * if halves { 2 } else { 1 }
}

/// Bytes of a decoded octet.
pub(super) fn octet_bytes(dtype: DType, n_in: usize) -> usize {
    let halves = with_format!(dtype, F => F::HALVES, else false);
    n_in / CHUNK * chunk_bytes(halves)
}

/// Quantised weights with 8-bit activations.
///
/// # Safety
/// The processor has `S`'s instruction set; the job's pointers are valid for what its sizes say, with scratch for
/// at least one decoded octet.
#[inline(always)]
pub unsafe fn matmul_q8<S: Bytes>(job: &Job) {
    if job.n_x == 1 {
        return with_format!(job.dtype, F => one_column::<S, F>(job), else unreachable!());
    }
    let octet_bytes = octet_bytes(job.dtype, job.n_in);
    let panel_rows = job.scratch_bytes / octet_bytes.max(1) * ROWS;
    let mut first = 0;
    while first < job.n_rows {
        let end = job.n_rows.min(first + panel_rows);
        with_format!(job.dtype, F => decode::<S, F>(job, first, end), else unreachable!());
        columns::<S>(job, first, end, octet_bytes);
        first = end;
    }
}

/// The eight rows from `row` on; behind `end` the last one again.
#[inline(always)]
unsafe fn row_pointers(job: &Job, row: usize, end: usize) -> [*const u8; ROWS] {
    let mut rows = [job.weights; ROWS];
    for r in 0..ROWS {
        rows[r] = job.weights.add((row + r).min(end - 1) * job.row_bytes);
    }
    rows
}

/// Chunk `i` of the blocks at byte `at` of eight rows, whose scales are known.
#[inline(always)]
unsafe fn chunk<S: Bytes, F: Format>(
    rows: &[*const u8; ROWS],
    at: usize,
    scales: &Scales<EightLanes<S>>,
    i: usize,
) -> Chunk<S> {
    let mut q = [F::chunk::<S>(rows[0].add(at), i); ROWS];
    for r in 1..ROWS {
        q[r] = F::chunk::<S>(rows[r].add(at), i);
    }
    let (first, second) = if F::HALVES { (2 * i, 2 * i + 1) } else { (i, i) };
    Chunk {
        q: S::transpose(q),
        scales: [scales.scales[first], scales.scales[second]],
        offsets: [scales.offsets[first], scales.offsets[second]],
    }
}

#[inline(always)]
unsafe fn one_column<S: Bytes, F: Format>(job: &Job) {
    let mut scales = Scales::new(S::Eight::zero());
    let mut row = 0;
    while row < job.n_rows {
        let rows = row_pointers(job, row, job.n_rows);
        let mut sums = [S::Eight::zero()];
        let mut x = job.x;
        for block in 0..job.n_in / F::LEN {
            let at = block * F::BYTES;
            F::octet_scales::<S>(&rows, at, &mut scales);
            for i in 0..F::LEN / CHUNK {
                // A line at a time: a whole block's would be more than the processor can wait for.
                let begin = at + i * F::BYTES * CHUNK / F::LEN;
                let line = begin.next_multiple_of(LINE);
                if line < at + (i + 1) * F::BYTES * CHUNK / F::LEN {
                    prefetch::<S, ROWS>(rows[0], job.row_bytes, line);
                }
                let chunk = chunk::<S, F>(&rows, at, &scales, i);
                add_chunk::<S, F, 1>(&chunk, [x], &mut sums);
                x = x.add(CHUNK_BYTES);
            }
        }
        store::<S>(job, row, job.n_rows, 0, sums[0]);
        row += ROWS;
    }
}

/// Decodes weight rows `first .. end` to the scratch.
#[inline(always)]
unsafe fn decode<S: Bytes, F: Format>(job: &Job, first: usize, end: usize) {
    let mut scales = Scales::new(S::Eight::zero());
    let mut to = job.scratch;
    let mut row = first;
    while row < end {
        let rows = row_pointers(job, row, end);
        for block in 0..job.n_in / F::LEN {
            let at = block * F::BYTES;
            F::octet_scales::<S>(&rows, at, &mut scales);
            for i in 0..F::LEN / CHUNK {
                store_chunk::<S, F>(to, &chunk::<S, F>(&rows, at, &scales, i));
                to = to.add(chunk_bytes(F::HALVES));
            }
        }
        row += ROWS;
    }
}

#[inline(always)]
unsafe fn store_chunk<S: Bytes, F: Format>(to: *mut u8, chunk: &Chunk<S>) {
    for g in 0..8 {
        S::store_bytes(to.add(CHUNK * g), chunk.q[g]);
    }
    let numbers = to.add(ROWS * CHUNK).cast::<f32>();
    let n_parts = if F::HALVES { 2 } else { 1 };
    for part in 0..n_parts {
        S::Eight::store(numbers.add(8 * part), chunk.scales[part]);
        S::Eight::store(numbers.add(8 * (n_parts + part)), chunk.offsets[part]);
    }
}

#[inline(always)]
unsafe fn load_chunk<S: Bytes, F: Format>(from: *const u8) -> Chunk<S> {
    let mut q = [S::load_bytes(from); 8];
    for g in 1..8 {
        q[g] = S::load_bytes(from.add(CHUNK * g));
    }
    let numbers = from.add(ROWS * CHUNK).cast::<f32>();
    let (n_parts, second) = if F::HALVES { (2, 1) } else { (1, 0) };
    Chunk {
        q,
        scales: [S::Eight::load(numbers), S::Eight::load(numbers.add(8 * second))],
        offsets: [
            S::Eight::load(numbers.add(8 * n_parts)),
            S::Eight::load(numbers.add(8 * (n_parts + second))),
        ],
    }
}

/// The formats are alike once decoded, but for sign, halves and run: one stands for each kind.
macro_rules! with_shape {
    ($dtype:expr, $format:ident => $body:expr) => {{
        macro_rules! arm {
            ($type:ty) => {{
                type $format = $type;
                $body
            }};
        }
        match with_format!($dtype, F => (F::SIGNED, F::HALVES, F::RUN), else unreachable!()) {
            (true, ..) => arm!(Q8_0),
            (false, false, 8) => arm!(Q4_1),
            (false, false, _) => arm!(Q5_1),
            (false, true, 8) => arm!(Q2K),
            (false, true, _) => arm!(Q6K),
        }
    }};
}

/// The decoded rows `first .. end` with all activation rows.
#[inline(always)]
unsafe fn columns<S: Bytes>(job: &Job, first: usize, end: usize, octet_bytes: usize) {
    let mut m = 0;
    while m < job.n_x {
        let n = next_columns(job.n_x - m, S::DOT_COLUMNS);
        let mut row = first;
        let mut from = job.scratch.cast_const();
        while row < end {
            with_columns!(n, S::DOT_COLUMNS, C => {
                with_shape!(job.dtype, F => tile::<S, F, C>(job, from, row, end, m))
            });
            from = from.add(octet_bytes);
            row += ROWS;
        }
        m += n;
    }
}

/// One decoded octet with C activation rows.
#[inline(always)]
unsafe fn tile<S: Bytes, F: Format, const C: usize>(
    job: &Job,
    mut from: *const u8,
    row: usize,
    end: usize,
    m: usize,
) {
    let mut sums = [S::Eight::zero(); C];
    let mut x = [job.x; C];
    for c in 0..C {
        x[c] = job.x.add((m + c) * job.x_stride);
    }
    for _ in 0..job.n_in / CHUNK {
        add_chunk::<S, F, C>(&load_chunk::<S, F>(from), x, &mut sums);
        from = from.add(chunk_bytes(F::HALVES));
        for c in 0..C {
            x[c] = x[c].add(CHUNK_BYTES);
        }
    }
    for c in 0..C {
        store::<S>(job, row, end, m + c, sums[c]);
    }
}

/// Adds what one chunk of eight rows gives with C activation rows. The chunk's own sum comes first, so that the
/// next chunk waits for one addition only.
#[inline(always)]
unsafe fn add_chunk<S: Bytes, F: Format, const C: usize>(
    chunk: &Chunk<S>,
    x: [*const u8; C],
    sums: &mut [EightLanes<S>; C],
) {
    let [first, second] = &chunk.scales;
    let mut values = [S::Eight::zero(); C];
    if F::SIGNED {
        add_scaled::<S, C>(S::dot_signed(&chunk.q, &x), *first, x, &mut values);
    } else {
        for c in 0..C {
            let of_first = S::Eight::mul(chunk.offsets[0], S::Eight::splat(number(x[c], 1)));
            let sum = S::Eight::splat(number(x[c], 2));
            values[c] = S::Eight::fma(chunk.offsets[1], sum, of_first);
        }
        if F::HALVES {
            add_scaled::<S, C>(dot::<S, F, C, 0, 4>(chunk, &x), *first, x, &mut values);
            add_scaled::<S, C>(dot::<S, F, C, 4, 4>(chunk, &x), *second, x, &mut values);
        } else {
            add_scaled::<S, C>(dot::<S, F, C, 0, 8>(chunk, &x), *first, x, &mut values);
        }
    }
    for c in 0..C {
        sums[c] = S::Eight::add(sums[c], values[c]);
    }
}

/// `RUN` as a constant argument.
#[inline(always)]
unsafe fn dot<S: Bytes, F: Format, const C: usize, const FIRST: usize, const N: usize>(
    chunk: &Chunk<S>,
    x: &[*const u8; C],
) -> [EightLanes<S>; C] {
    match F::RUN {
        2 => S::dot_unsigned::<C, FIRST, N, 2>(&chunk.q, x),
        4 => S::dot_unsigned::<C, FIRST, N, 4>(&chunk.q, x),
        _ => S::dot_unsigned::<C, FIRST, N, 8>(&chunk.q, x),
    }
}

/// Adds `scale · dx · dots`.
#[inline(always)]
unsafe fn add_scaled<S: Bytes, const C: usize>(
    dots: [EightLanes<S>; C],
    scale: EightLanes<S>,
    x: [*const u8; C],
    values: &mut [EightLanes<S>; C],
) {
    for c in 0..C {
        let scale = S::Eight::mul(scale, S::Eight::splat(number(x[c], 0)));
        values[c] = S::Eight::fma(dots[c], scale, values[c]);
    }
}

/// Writes the outputs of weight rows `row ..`, those before `end`, with activation row `m`.
#[inline(always)]
unsafe fn store<S: Bytes>(job: &Job, row: usize, end: usize, m: usize, sums: EightLanes<S>) {
    let to = job.out.first.add(m * job.out.stride + row);
    if row + ROWS <= end {
        S::Eight::store(to, sums);
    } else {
        S::Eight::store_partial(to, sums, end - row);
    }
}
