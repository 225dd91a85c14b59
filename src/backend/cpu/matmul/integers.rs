//! Quantised weights with 8-bit activations.
//!
//! An output is the sum, chunk after chunk and part after part, of `offset · (dx · Σp)` and `(dw · dx) · Σ q·p`. It
//! has a lane of its own from the packed weights to its place, so its bits cannot depend on a neighbour, and no sum
//! goes across lanes. The integers are unpacked in registers, once for C activation rows.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use super::Job;
use super::q8::{CHUNK, CHUNK_BYTES, number};
use super::tile::{MAX_PARTS, Outputs, next_columns, parts, prefetch, store, with_columns};
use crate::backend::cpu::blocks::pack::TILE;
use crate::backend::cpu::blocks::panel::{Unpacked, panel_bytes, unpack_tile};
use crate::backend::cpu::blocks::words::Words;
use crate::backend::cpu::blocks::{Lanes, Q8_0, Scales, Tiled, with_format};
use crate::dtype::DType;

/// Scales and offsets of a block's rows.
type TileScales<S> = [Scales<<S as crate::backend::cpu::simd::Simd>::F>; MAX_PARTS];

/// Runs `$body` with `$unpacked` naming what blocks of a quantised `$dtype` are once unpacked: they are alike but for
/// sign, halves and run.
macro_rules! with_unpacked {
    ($dtype:expr, $unpacked:ident => $body:expr) => {{
        macro_rules! arm {
            ($signed:literal, $halves:literal, $run:literal) => {{
                type $unpacked = Unpacked<$signed, $halves, $run>;
                $body
            }};
        }
        match with_format!($dtype, F => (F::SIGNED, F::HALVES, F::RUN), else unreachable!()) {
            (true, ..) => arm!(true, false, 8),
            (false, false, 8) => arm!(false, false, 8),
            (false, false, _) => arm!(false, false, 4),
            (false, true, 8) => arm!(false, true, 8),
            (false, true, _) => arm!(false, true, 2),
        }
    }};
}
/// Quantised weights with 8-bit activations. One activation row meets the packed tiles; for more, a tile is unpacked
/// once to the scratch, unless its integers are bytes already.
///
/// # Safety
/// The processor has `S`'s instruction set; the job's pointers are valid for what its sizes say, with scratch for an
/// unpacked tile ([`panel_bytes`]).
#[inline(always)]
pub unsafe fn matmul_q8<S: Words>(job: &Job) {
    match (job.n_x, job.dtype) {
        (1, dtype) => with_format!(dtype, F => one_column::<S, F>(job), else unreachable!()),
        (_, DType::Q8_0) => {
            for tile in 0..job.n_tiles() {
                let at = job.weights.add(tile * job.tile_bytes);
                all_columns::<S, Q8_0>(job, tile, at);
            }
        }
        (_, dtype) => {
            for tile in 0..job.n_tiles() {
                let (at, panel) = (job.weights.add(tile * job.tile_bytes), job.scratch);
                with_format!(
                    dtype, F => unpack_tile::<S, F>(at, job.n_in, panel), else unreachable!()
                );
                with_unpacked!(dtype, U => all_columns::<S, U>(job, tile, panel));
            }
        }
    }
}

/// Two tiles at once, because two streams come faster than one.
#[inline(always)]
unsafe fn one_column<S: Words, F: Tiled>(job: &Job) {
    let mut tile = 0;
    while tile + 2 <= job.n_tiles() {
        columns::<S, F, 2, 1>(job, tile, job.weights.add(tile * job.tile_bytes), 0);
        tile += 2;
    }
    if tile < job.n_tiles() {
        columns::<S, F, 1, 1>(job, tile, job.weights.add(tile * job.tile_bytes), 0);
    }
}

/// The tile at `at` with all activation rows.
#[inline(always)]
unsafe fn all_columns<S: Words, F: Tiled>(job: &Job, tile: usize, at: *const u8) {
    let mut m = 0;
    while m < job.n_x {
        let n = next_columns(job.n_x - m, S::DOT_COLUMNS);
        with_columns!(n, S::DOT_COLUMNS, C => columns::<S, F, 1, C>(job, tile, at, m));
        m += n;
    }
}

/// How far ahead of its use a tile's stream is asked for: unpacking leaves the processor too little room to look ahead
/// by itself. Farther is slower, as each line on its way holds one of a core's few places for misses. The parts of
/// large blocks are read in another order than they lie, the scales behind the integers of those with halves first.
const fn ahead<S: Words, F: Tiled>() -> usize {
    let near = if F::LEN == CHUNK { 512 } else { 1024 };
    let near = near + if F::HALVES { TILE * F::BYTES } else { 0 };
    if S::AHEAD > near { S::AHEAD } else { near }
}

/// R tiles, the first at `block`, with C activation rows.
#[inline(always)]
unsafe fn columns<S: Words, F: Tiled, const R: usize, const C: usize>(
    job: &Job,
    tile: usize,
    mut block: *const u8,
    m: usize,
) {
    let mut x = [job.x; C];
    for c in 0..C {
        x[c] = job.x.add((m + c) * job.x_stride);
    }
    let mut sums = [[[S::zero(); MAX_PARTS]; C]; R];
    let mut scales: TileScales<S> = [Scales::new(S::zero()); MAX_PARTS];
    let mut left = job.n_in / F::LEN * TILE * F::BYTES;
    for _ in 0..job.n_in / F::LEN {
        // Behind a tile's end the stream goes on where the tiles beside it end.
        let beyond = if left <= ahead::<S, F>() { (R - 1) * job.tile_bytes } else { 0 };
        left -= TILE * F::BYTES;
        for r in 0..R {
            let block = block.add(r * job.tile_bytes);
            for part in 0..parts::<S>() {
                F::tile_scales::<S>(Lanes::of::<S>(block, part), &mut scales[part]);
            }
            let (mut x, mut tile_sums) = (x, sums[r]);
            for i in 0..F::LEN / CHUNK {
                let bytes = TILE * F::BYTES / (F::LEN / CHUNK);
                let ahead = ahead::<S, F>() + beyond;
                prefetch::<S>(block.wrapping_add(i * bytes), bytes, ahead);
                add_chunk::<S, F, C>(block, i, &scales, &x, &mut tile_sums);
                for c in 0..C {
                    x[c] = x[c].add(CHUNK_BYTES);
                }
            }
            sums[r] = tile_sums;
        }
        block = block.add(TILE * F::BYTES);
        for c in 0..C {
            x[c] = x[c].add(F::LEN / CHUNK * CHUNK_BYTES);
        }
    }
    for r in 0..R {
        for c in 0..C {
            store::<S>(job, tile + r, m + c, &sums[r][c], false);
        }
    }
}

/// Adds what chunk `i` of a tile's block gives with C activation rows.
#[inline(always)]
unsafe fn add_chunk<S: Words, F: Tiled, const C: usize>(
    block: *const u8,
    i: usize,
    scales: &TileScales<S>,
    x: &[*const u8; C],
    sums: &mut [Outputs<S>; C],
) {
    add_offsets::<S, F, C>(i, scales, x, sums);
    let mut pairs = [[S::no_sums(); MAX_PARTS]; C];
    let mut dots = [[S::no_sums(); MAX_PARTS]; C];
    // Keeps the groups apart: or the compiler would read all of them first, for which there are not enough registers.
    let mut zero = 0;
    macro_rules! group {
        ($g:literal) => {
            let block = block.add(zero);
            let mut w = [S::load_words(block); MAX_PARTS];
            for part in 0..parts::<S>() {
                w[part] = F::group::<S>(Lanes::of::<S>(block, part), i, $g);
            }
            for c in 0..C {
                let group = S::splat_word(x[c].add(zero + 4 * $g));
                for part in 0..parts::<S>() {
                    if F::SIGNED {
                        dots[c][part] = S::add_signed(dots[c][part], w[part], group);
                        zero = S::after(zero, dots[c][part]);
                        continue;
                    }
                    pairs[c][part] = S::add_unsigned(pairs[c][part], w[part], group);
                    zero = S::after(zero, pairs[c][part]);
                    if ($g + 1) % F::RUN == 0 {
                        dots[c][part] = S::add_pairs(dots[c][part], pairs[c][part]);
                        zero = S::after(zero, dots[c][part]);
                        pairs[c][part] = S::no_sums();
                    }
                }
            }
        };
    }
    group!(0);
    group!(1);
    group!(2);
    group!(3);
    let (first, last) = if F::HALVES { (2 * i, 2 * i + 1) } else { (i, i) };
    if F::HALVES {
        for c in 0..C {
            for part in 0..parts::<S>() {
                if F::RUN > 4 {
                    dots[c][part] = S::add_pairs(dots[c][part], pairs[c][part]);
                    pairs[c][part] = S::no_sums();
                }
            }
            add_scaled::<S>(dots[c], first, scales, x[c], &mut sums[c]);
            dots[c] = [S::no_sums(); MAX_PARTS];
        }
    }
    group!(4);
    group!(5);
    group!(6);
    group!(7);
    for c in 0..C {
        add_scaled::<S>(dots[c], last, scales, x[c], &mut sums[c]);
    }
}

/// Adds `scale · dx · dots`.
#[inline(always)]
unsafe fn add_scaled<S: Words>(
    dots: [S::Sums; MAX_PARTS],
    number_of_part: usize,
    scales: &TileScales<S>,
    x: *const u8,
    sums: &mut Outputs<S>,
) {
    let dx = S::splat(number(x, 0));
    for part in 0..parts::<S>() {
        let scale = S::mul(scales[part].scales[number_of_part], dx);
        sums[part] = S::fma(S::sums_f32(dots[part]), scale, sums[part]);
    }
}

/// Adds `offset · dx · Σp`, with what the products of signed weights have too much.
#[inline(always)]
unsafe fn add_offsets<S: Words, F: Tiled, const C: usize>(
    i: usize,
    scales: &TileScales<S>,
    x: &[*const u8; C],
    sums: &mut [Outputs<S>; C],
) {
    if F::SIGNED && S::SIGNED_EXCESS == 0.0 {
        return;
    }
    for part in 0..parts::<S>() {
        let Scales { scales, offsets } = &scales[part];
        if F::HALVES {
            let (first, second) = (offsets[2 * i], offsets[2 * i + 1]);
            let difference = S::sub(second, first);
            for c in 0..C {
                let sum = S::fma(first, S::splat(number(x[c], 1)), sums[c][part]);
                sums[c][part] = S::fma(difference, S::splat(number(x[c], 2)), sum);
            }
        } else {
            let offset = match F::SIGNED {
                true => S::mul(scales[i], S::splat(-S::SIGNED_EXCESS)),
                false => offsets[i],
            };
            for c in 0..C {
                sums[c][part] = S::fma(offset, S::splat(number(x[c], 1)), sums[c][part]);
            }
        }
    }
}

/// Scratch for one unpacked tile of rows of `n_in` weights.
pub(super) fn unpacked_bytes(dtype: DType, n_in: usize) -> usize {
    match dtype {
        DType::Q8_0 => 0,
        _ => with_format!(dtype, F => panel_bytes::<F>(n_in), else 0),
    }
}
