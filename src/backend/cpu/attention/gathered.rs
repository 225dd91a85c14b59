//! Keys and values brought together as f32, where many query vectors meet them, and scores of such keys.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is in `kernel`"
)]
#![allow(clippy::needless_range_loop, reason = "register tiles are indexed alike in every array")]

use super::kernel::{Element, HeadRows, Rows, Single, prefetch, products, row};
use crate::backend::cpu::simd::Simd;
use std::mem::MaybeUninit;

/// Keys that stay in the first cache while all query vectors and elements pass over them.
pub const KEYS_AT_ONCE: usize = 32;
/// Gathered rows lie one behind the other.
static IN_ORDER: [u32; KEYS_AT_ONCE] = {
    let mut slots = [0; KEYS_AT_ONCE];
    let mut i = 0;
    while i < KEYS_AT_ONCE {
        slots[i] = i as u32;
        i += 1;
    }
    slots
};

/// Scores of the first `n` keys, at most [`KEYS_AT_ONCE`], which are f32.
#[inline(always)]
pub(super) unsafe fn score_keys<S: Simd>(
    q: Rows,
    keys: HeadRows<'_>,
    n: usize,
    scale: f32,
    scores: Rows,
) {
    let mut i = 0;
    while i < q.n {
        let vectors = match q.n - i {
            6.. if S::TILE_COLUMNS >= 12 => 6,
            4 => 2,
            3.. => 3,
            few => few,
        };
        match vectors {
            1 => score_vectors::<S, 1>(q, keys, i, n, scale, scores),
            2 => score_vectors::<S, 2>(q, keys, i, n, scale, scores),
            3 => score_vectors::<S, 3>(q, keys, i, n, scale, scores),
            _ if S::TILE_COLUMNS >= 12 => {
                score_vectors::<S, 6>(q, keys, i, n, scale, scores);
            }
            _ => unreachable!(),
        }
        i += vectors;
    }
}

/// A query vector's products with each key, lane by lane.
type Products<S> = [MaybeUninit<<S as Simd>::F>; KEYS_AT_ONCE];

/// Of the query vectors `i .. i + Q`. Lanes are added up after all products: a processor that waits for a sum has no
/// room left to begin the next products.
#[inline(always)]
unsafe fn score_vectors<S: Simd, const Q: usize>(
    q: Rows,
    keys: HeadRows<'_>,
    i: usize,
    n: usize,
    scale: f32,
    scores: Rows,
) {
    let mut all: [Products<S>; Q] = [[MaybeUninit::uninit(); KEYS_AT_ONCE]; Q];
    let mut j = 0;
    while j + 4 <= n {
        let products = products::<S, Single, Q, 4>(q, keys, i, j);
        for r in 0..Q {
            for k in 0..4 {
                all[r][j + k].write(products[r][k]);
            }
        }
        j += 4;
    }
    while j < n {
        let products = products::<S, Single, Q, 1>(q, keys, i, j);
        for r in 0..Q {
            all[r][j].write(products[r][0]);
        }
        j += 1;
    }
    for r in 0..Q {
        let (to, products) = (scores.at.add((i + r) * scores.stride), &all[r]);
        let mut j = 0;
        while j + 4 <= n {
            let mut four = [S::zero(); 4];
            for k in 0..4 {
                four[k] = products[j + k].assume_init();
            }
            S::store_sums(to.add(j), four, scale);
            j += 4;
        }
        while j < n {
            *to.add(j) = S::sum(products[j].assume_init()) * scale;
            j += 1;
        }
    }
}

/// Rows `first .. first + n` as f32, in `room` for so many.
#[inline(always)]
pub(super) unsafe fn gathered<'a, S: Simd, E: Element>(
    rows: HeadRows<'_>,
    first: usize,
    n: usize,
    room: *mut f32,
) -> HeadRows<'a> {
    let head_dim = rows.head_dim;
    for i in 0..n {
        prefetch::<S, E>(rows, first + n + i, 1);
        let (from, to) = (row::<E>(rows, first + i), room.add(i * head_dim));
        let mut d = 0;
        while d + S::LANES <= head_dim {
            S::store(to.add(d), E::load::<S>(from.add(d)));
            d += S::LANES;
        }
        if d < head_dim {
            let rest = head_dim - d;
            S::store_partial(to.add(d), E::load_partial::<S>(from.add(d), rest), rest);
        }
    }
    let base = room.cast_const().cast();
    HeadRows { base, row_bytes: head_dim * size_of::<f32>(), head_dim, slots: &IN_ORDER }
}
