//! What the kernels' loops share: how many activation rows a register tile takes, and asking for memory ahead.

use crate::backend::cpu::simd::Simd;

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Bytes that are asked for ahead of use, in each row.
const AHEAD: usize = 1024;

/// Asks for the line that each of R neighbouring rows needs [`AHEAD`] bytes behind byte `at`; behind a row's end,
/// that is the begin of the rows that come next.
#[inline(always)]
pub(super) unsafe fn prefetch<S: Simd, const R: usize>(
    rows: *const u8,
    row_bytes: usize,
    at: usize,
) {
    let ahead = at + AHEAD;
    let ahead = if ahead < row_bytes { ahead } else { ahead + (R - 1) * row_bytes };
    let mut row = rows.wrapping_add(ahead);
    for _ in 0..R {
        // SAFETY: any address may be asked for.
        unsafe { S::prefetch(row) };
        row = row.wrapping_add(row_bytes);
    }
}

/// Runs `$body` with the constant `$columns` equal to `$n`, which is at most six and at most the constant `$max`:
/// the arms above that are never compiled.
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
            3 => arm!(3),
            4 if $max >= 4 => arm!(4),
            5 if $max >= 5 => arm!(5),
            6 if $max >= 6 => arm!(6),
            _ => unreachable!(),
        }
    }};
}
pub(super) use with_columns;

/// Columns of the next tile when `left` are left: as many as fit, but the last two tiles share evenly.
#[inline(always)]
pub(super) fn next_columns(left: usize, max: usize) -> usize {
    if left > max && left < 2 * max { left.div_ceil(2) } else { left.min(max) }
}
