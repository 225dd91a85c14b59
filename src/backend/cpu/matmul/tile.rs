//! What the kernels' loops share: how many activation rows a register tile takes, asking for memory ahead, and
//! writing a tile's outputs.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use super::Job;
use crate::backend::cpu::blocks::pack::TILE;
use crate::backend::cpu::simd::Simd;

/// Vectors of a tile's rows, at most.
pub(super) const MAX_PARTS: usize = 2;

/// Vectors of a tile's rows.
pub(super) const fn parts<S: Simd>() -> usize {
    TILE / S::LANES
}

/// A tile's outputs with one activation row.
pub(super) type Outputs<S> = [<S as Simd>::F; MAX_PARTS];

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the lines that follow those of `bytes` bytes from `at` on by `ahead` bytes; not at all for 0.
#[inline(always)]
pub(super) unsafe fn prefetch<S: Simd>(at: *const u8, bytes: usize, ahead: usize) {
    let mut line = 0;
    while line < bytes && ahead > 0 {
        // Any address may be asked for.
        S::prefetch(at.wrapping_add(ahead + line));
        line += LINE;
    }
}

/// Runs `$body` with the constant `$columns` equal to `$n`, which is what [`next_columns`] gave for the constant
/// `$max`: the arms above that are never compiled.
macro_rules! with_columns {
    ($n:expr, $max:expr, $columns:ident => $body:expr) => {{
        macro_rules! arm {
            ($number:literal) => {{
                const $columns: usize = $number;
                $body
            }};
        }
        match $n {
            1 => arm!(1),
            2 => arm!(2),
            3 if $max >= 3 => arm!(3),
            4 if $max >= 4 => arm!(4),
            6 if $max >= 6 => arm!(6),
            8 if $max >= 8 => arm!(8),
            12 if $max >= 12 => arm!(12),
            _ => unreachable!(),
        }
    }};
}
pub(super) use with_columns;

/// Columns of the next tile when `left` are left: the most that there is a kernel for.
#[inline(always)]
pub(super) fn next_columns(left: usize, max: usize) -> usize {
    let left = if left < max { left } else { max };
    match left {
        12.. => 12,
        8.. => 8,
        6.. => 6,
        5 => 4,
        few => few,
    }
}

/// Writes the outputs of the job's tile `tile` with activation row `m`, those of the job's rows, or adds them.
#[inline(always)]
pub(super) unsafe fn store<S: Simd>(
    job: &Job,
    tile: usize,
    m: usize,
    values: &Outputs<S>,
    add: bool,
) {
    let out = job.out.first.add(m * job.out.stride);
    // Of the tiles' rows the job's are `skip .. skip + n_rows`.
    let (first, end) = (tile * TILE, job.skip + job.n_rows);
    if first >= job.skip && first + TILE <= end {
        let to = out.add(first - job.skip);
        for part in 0..parts::<S>() {
            let to = to.add(part * S::LANES);
            let value = values[part];
            S::store(to, if add { S::add(S::load(to), value) } else { value });
        }
        return;
    }
    let mut lanes = [0.0f32; TILE];
    for part in 0..parts::<S>() {
        S::store(lanes.as_mut_ptr().add(part * S::LANES), values[part]);
    }
    store_some(job, tile, m, &lanes, add);
}

/// The same of a tile of which the job has some rows only. Not inlined, so that the caller's loop is short enough to
/// unroll: in one that is not, the sums lie in memory.
#[inline(never)]
unsafe fn store_some(job: &Job, tile: usize, m: usize, lanes: &[f32; TILE], add: bool) {
    let out = job.out.first.add(m * job.out.stride);
    let (first, end) = (tile * TILE, job.skip + job.n_rows);
    let mut lane = job.skip.saturating_sub(first);
    while lane < TILE && first + lane < end {
        let to = out.add(first + lane - job.skip);
        *to = if add { *to + lanes[lane] } else { lanes[lane] };
        lane += 1;
    }
}
