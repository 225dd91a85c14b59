//! Register tiles: how many activation rows the next one takes.

/// Calls `$function::<.., $rows, C>` for the run-time number of columns `$n`, at most six and at most
/// `S::TILE_COLUMNS`, which lets the compiler drop the arms above.
macro_rules! with_columns {
    ($n:expr, $simd:ident, $columns:ident => $body:expr) => {{
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
            4 if $simd::TILE_COLUMNS >= 4 => arm!(4),
            5 if $simd::TILE_COLUMNS >= 5 => arm!(5),
            6 if $simd::TILE_COLUMNS >= 6 => arm!(6),
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
