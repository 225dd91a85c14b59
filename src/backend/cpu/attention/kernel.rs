//! Scores and weighted sums over keys and values at the slots they lie in.
//!
//! Both are register tiles of some query vectors by some keys (scores) or some elements (sums). A score is one
//! accumulator over the head's elements, and an element of a sum one accumulator over ascending keys, whatever the
//! tile, so the tile never shows in the bits.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]
#![allow(clippy::needless_range_loop, reason = "register tiles are indexed alike in every array")]

use super::gathered::{KEYS_AT_ONCE, gathered, score_keys};
use crate::backend::cpu::simd::Simd;

/// Keys or values of one head: element `d` at slot `s` is at `base + s · row_bytes + d · size`.
#[derive(Clone, Copy)]
pub struct HeadRows<'a> {
    pub base: *const u8,
    pub row_bytes: usize,
    pub head_dim: usize,
    /// Slot of each key, in order of position.
    pub slots: &'a [u32],
}

/// Row-major f32 values: row `i` begins at `at + i · stride`.
#[derive(Clone, Copy)]
pub struct Rows {
    pub at: *mut f32,
    pub stride: usize,
    pub n: usize,
}

/// How a type is stored and read.
pub trait Element {
    type Bits: Copy;
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load<S: Simd>(from: *const Self::Bits) -> S::F;
    /// # Safety
    /// As [`Simd::load_partial`].
    unsafe fn load_partial<S: Simd>(from: *const Self::Bits, n: usize) -> S::F;
}

macro_rules! element {
    ($name:ident, $bits:ty, $load:ident, $load_partial:ident) => {
        pub struct $name;
        impl Element for $name {
            type Bits = $bits;
            #[inline(always)]
            unsafe fn load<S: Simd>(from: *const $bits) -> S::F {
                S::$load(from)
            }
            #[inline(always)]
            unsafe fn load_partial<S: Simd>(from: *const $bits, n: usize) -> S::F {
                S::$load_partial(from, n)
            }
        }
    };
}

element!(Single, f32, load, load_partial);
element!(Half, u16, load_f16, load_f16_partial);
element!(Brain, u16, load_bf16, load_bf16_partial);

/// Keys ahead whose lines are asked for: slots may lie anywhere.
const AHEAD: usize = 8;
/// Query vectors from which on these keys are brought together as f32, once for all.
const MANY: usize = 16;

/// `scores[i][j] = scale · (q[i] · key[j])`, with room for [`KEYS_AT_ONCE`] keys of f32.
///
/// # Safety
/// `q` rows hold `head_dim`, `scores` rows `slots.len()` values; every slot is one of the rows behind `base`; the
/// processor has `S`'s instruction set.
#[inline(always)]
unsafe fn scores<S: Simd, E: Element>(
    q: Rows,
    keys: HeadRows<'_>,
    scale: f32,
    scores: Rows,
    room: *mut f32,
) {
    let n_keys = keys.slots.len();
    let mut j = 0;
    while q.n >= MANY && j < n_keys {
        let n = if n_keys - j < KEYS_AT_ONCE { n_keys - j } else { KEYS_AT_ONCE };
        let to = Rows { at: scores.at.add(j), ..scores };
        score_keys::<S>(q, gathered::<S, E>(keys, j, n, room), n, scale, to);
        j += n;
    }
    while j + 2 <= n_keys {
        prefetch::<S, E>(keys, j + AHEAD, 2);
        few_scores::<S, E, 2>(q, keys, j, scale, scores);
        j += 2;
    }
    if j < n_keys {
        few_scores::<S, E, 1>(q, keys, j, scale, scores);
    }
}

/// Scores of the keys `j .. j + K` with few query vectors: each key meets all of them while it comes from memory.
#[inline(always)]
unsafe fn few_scores<S: Simd, E: Element, const K: usize>(
    q: Rows,
    keys: HeadRows<'_>,
    j: usize,
    scale: f32,
    scores: Rows,
) {
    let mut i = 0;
    while i + 4 <= q.n {
        score_tile::<S, E, 4, K>(q, keys, i, j, scale, scores);
        i += 4;
    }
    match q.n - i {
        3 => score_tile::<S, E, 3, K>(q, keys, i, j, scale, scores),
        2 => score_tile::<S, E, 2, K>(q, keys, i, j, scale, scores),
        1 => score_tile::<S, E, 1, K>(q, keys, i, j, scale, scores),
        _ => {}
    }
}

#[inline(always)]
unsafe fn score_tile<S: Simd, E: Element, const Q: usize, const K: usize>(
    q: Rows,
    keys: HeadRows<'_>,
    i: usize,
    j: usize,
    scale: f32,
    scores: Rows,
) {
    let products = products::<S, E, Q, K>(q, keys, i, j);
    for r in 0..Q {
        for k in 0..K {
            *scores.at.add((i + r) * scores.stride + j + k) = S::sum(products[r][k]) * scale;
        }
    }
}

/// The products of the query vectors `i .. i + Q` with the keys `j .. j + K`, whose sums over lanes are the scores.
#[inline(always)]
pub(super) unsafe fn products<S: Simd, E: Element, const Q: usize, const K: usize>(
    q: Rows,
    keys: HeadRows<'_>,
    i: usize,
    j: usize,
) -> [[S::F; K]; Q] {
    let mut key = [keys.base.cast::<E::Bits>(); K];
    for (k, key) in key.iter_mut().enumerate() {
        *key = row::<E>(keys, j + k);
    }
    let q_at = q.at.cast_const().add(i * q.stride);
    let mut sums = [[S::zero(); K]; Q];
    let mut d = 0;
    while d + S::LANES <= keys.head_dim {
        // Of query vectors and keys the fewer are held, so that the tile has the other registers.
        if Q < K {
            for k in 0..K {
                let k_values = E::load::<S>(key[k].add(d));
                for r in 0..Q {
                    sums[r][k] = S::fma(S::load(q_at.add(r * q.stride + d)), k_values, sums[r][k]);
                }
            }
        } else {
            let mut k_values = [S::zero(); K];
            for k in 0..K {
                k_values[k] = E::load::<S>(key[k].add(d));
            }
            for r in 0..Q {
                let q_values = S::load(q_at.add(r * q.stride + d));
                for k in 0..K {
                    sums[r][k] = S::fma(q_values, k_values[k], sums[r][k]);
                }
            }
        }
        d += S::LANES;
    }
    let rest = keys.head_dim - d;
    if rest > 0 {
        for r in 0..Q {
            let q_values = S::load_partial(q_at.add(r * q.stride + d), rest);
            for k in 0..K {
                let k_values = E::load_partial::<S>(key[k].add(d), rest);
                sums[r][k] = S::fma(q_values, k_values, sums[r][k]);
            }
        }
    }
    sums
}

/// `sums[i] += Σ weights[i][j] · value[j]` for the keys `first .. end`, ascending; room as for [`scores`].
///
/// # Safety
/// `weights` rows hold `end`, `sums` rows `head_dim` values; otherwise as [`scores`].
#[inline(always)]
unsafe fn sums<S: Simd, E: Element>(
    weights: Rows,
    values: HeadRows<'_>,
    first: usize,
    end: usize,
    sums: Rows,
    room: *mut f32,
) {
    let mut j = first;
    while j < end {
        let n = if end - j < KEYS_AT_ONCE { end - j } else { KEYS_AT_ONCE };
        if weights.n >= MANY {
            let wide = gathered::<S, E>(values, j, n, room);
            let weights = Rows { at: weights.at.add(j), ..weights };
            sum_block::<S, Single>(weights, wide, 0, n, sums);
        } else {
            prefetch::<S, E>(values, j + n, KEYS_AT_ONCE);
            sum_block::<S, E>(weights, values, j, n, sums);
        }
        j += n;
    }
}

/// Adds the keys `j .. j + n`.
#[inline(always)]
unsafe fn sum_block<S: Simd, E: Element>(
    weights: Rows,
    values: HeadRows<'_>,
    j: usize,
    n: usize,
    sums: Rows,
) {
    let mut i = 0;
    while i < weights.n {
        match weights.n - i {
            1 => sum_keys::<S, E, 1, 8>(weights, values, i, j, n, sums),
            2 => sum_keys::<S, E, 2, 4>(weights, values, i, j, n, sums),
            3 => sum_keys::<S, E, 3, 4>(weights, values, i, j, n, sums),
            4 => sum_keys::<S, E, 4, 2>(weights, values, i, j, n, sums),
            5 => sum_keys::<S, E, 5, 2>(weights, values, i, j, n, sums),
            _ => sum_keys::<S, E, 6, 2>(weights, values, i, j, n, sums),
        }
        i += if weights.n - i < 6 { weights.n - i } else { 6 };
    }
}

#[inline(always)]
unsafe fn sum_keys<S: Simd, E: Element, const Q: usize, const D: usize>(
    weights: Rows,
    values: HeadRows<'_>,
    i: usize,
    j: usize,
    n: usize,
    sums: Rows,
) {
    let mut d = 0;
    while d + D * S::LANES <= values.head_dim {
        sum_tile::<S, E, Q, D>(weights, values, i, (j, n), d, sums);
        d += D * S::LANES;
    }
    while d + S::LANES <= values.head_dim {
        sum_tile::<S, E, Q, 1>(weights, values, i, (j, n), d, sums);
        d += S::LANES;
    }
    let rest = values.head_dim - d;
    if rest == 0 {
        return;
    }
    for r in i..i + Q {
        let to = sums.at.add(r * sums.stride + d);
        let mut sum = S::load_partial(to, rest);
        for k in j..j + n {
            let weight = S::splat(*weights.at.add(r * weights.stride + k));
            let value = E::load_partial::<S>(row::<E>(values, k).add(d), rest);
            sum = S::fma(weight, value, sum);
        }
        S::store_partial(to, sum, rest);
    }
}

#[inline(always)]
unsafe fn sum_tile<S: Simd, E: Element, const Q: usize, const D: usize>(
    weights: Rows,
    values: HeadRows<'_>,
    i: usize,
    (j, n): (usize, usize),
    d: usize,
    sums: Rows,
) {
    let mut tile = [[S::zero(); D]; Q];
    for r in 0..Q {
        for c in 0..D {
            tile[r][c] = S::load(sums.at.add((i + r) * sums.stride + d + c * S::LANES));
        }
    }
    let weights_at = weights.at.cast_const().add(i * weights.stride);
    for k in j..j + n {
        let value = row::<E>(values, k).add(d);
        // As in `products`.
        if Q < D {
            let mut held = [S::zero(); Q];
            for r in 0..Q {
                held[r] = S::splat(*weights_at.add(r * weights.stride + k));
            }
            for c in 0..D {
                let value = E::load::<S>(value.add(c * S::LANES));
                for r in 0..Q {
                    tile[r][c] = S::fma(held[r], value, tile[r][c]);
                }
            }
        } else {
            let mut held = [S::zero(); D];
            for c in 0..D {
                held[c] = E::load::<S>(value.add(c * S::LANES));
            }
            for r in 0..Q {
                let weight = S::splat(*weights_at.add(r * weights.stride + k));
                for c in 0..D {
                    tile[r][c] = S::fma(weight, held[c], tile[r][c]);
                }
            }
        }
    }
    for r in 0..Q {
        for c in 0..D {
            S::store(sums.at.add((i + r) * sums.stride + d + c * S::LANES), tile[r][c]);
        }
    }
}

#[inline(always)]
pub(super) unsafe fn row<E: Element>(rows: HeadRows<'_>, i: usize) -> *const E::Bits {
    let slot = *rows.slots.get_unchecked(i) as usize;
    rows.base.add(slot * rows.row_bytes).cast()
}

/// Asks for the lines of rows `first .. first + n`, as far as there are such rows.
#[inline(always)]
pub(super) unsafe fn prefetch<S: Simd, E: Element>(rows: HeadRows<'_>, first: usize, n: usize) {
    let bytes = rows.head_dim * size_of::<E::Bits>();
    let end = if first + n < rows.slots.len() { first + n } else { rows.slots.len() };
    let mut i = first;
    while i < end {
        let at = row::<E>(rows, i).cast::<u8>();
        let mut line = 0;
        while line < bytes {
            S::prefetch(at.wrapping_add(line));
            line += 64;
        }
        i += 1;
    }
}

macro_rules! for_element {
    ($scores:ident, $sums:ident, $element:ident) => {
        /// [`scores`] of this type of keys.
        ///
        /// # Safety
        /// As there.
        #[inline(always)]
        pub unsafe fn $scores<S: Simd>(
            q: Rows,
            keys: HeadRows<'_>,
            scale: f32,
            to: Rows,
            room: *mut f32,
        ) {
            scores::<S, $element>(q, keys, scale, to, room);
        }

        /// [`sums`] of this type of values.
        ///
        /// # Safety
        /// As there.
        #[inline(always)]
        pub unsafe fn $sums<S: Simd>(
            weights: Rows,
            values: HeadRows<'_>,
            first: usize,
            end: usize,
            to: Rows,
            room: *mut f32,
        ) {
            sums::<S, $element>(weights, values, first, end, to, room);
        }
    };
}

for_element!(scores_f32, sums_f32, Single);
for_element!(scores_f16, sums_f16, Half);
for_element!(scores_bf16, sums_bf16, Brain);
