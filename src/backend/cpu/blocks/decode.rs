//! A tile's blocks to f32, for the exact path of the matrix product.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use super::pack::TILE;
use super::words::Words;
use super::{Lanes, Scales, Tiled};

/// `n` weights of each row of a tile, whole blocks, to f32: `to [n][16 rows]`.
///
/// # Safety
/// The processor has `S`'s instruction set; `blocks` is valid for the blocks and `to` for the values.
#[inline(always)]
pub unsafe fn decode<S: Words, F: Tiled>(blocks: *const u8, n: usize, to: *mut f32) {
    for part in 0..TILE / S::LANES {
        let mut scales = Scales::new(S::zero());
        for block in 0..n / F::LEN {
            let lanes = Lanes::of::<S>(blocks.add(block * TILE * F::BYTES), part);
            F::tile_scales::<S>(lanes, &mut scales);
            let to = to.add(block * F::LEN * TILE + part * S::LANES);
            for i in 0..F::LEN / 32 {
                for g in 0..8 {
                    let part = if F::HALVES { 2 * i + g / 4 } else { i };
                    let (scale, offset) = (scales.scales[part], scales.offsets[part]);
                    let offset = if F::SIGNED { S::zero() } else { offset };
                    let words = F::group::<S>(lanes, i, g);
                    for j in 0..4 {
                        let q = match F::SIGNED {
                            true => S::signed_number(words, j),
                            false => S::number(words, 8 * j, 255),
                        };
                        let row = to.add((32 * i + 4 * g + j) * TILE);
                        S::store(row, S::fma(q, scale, offset));
                    }
                }
            }
        }
    }
}
