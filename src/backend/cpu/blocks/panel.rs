//! Unpacked tiles: what many activation rows meet, so that a tile's integers and scales are unpacked once.
//!
//! Whatever the type, a tile's chunk becomes a block of this form, one row in a lane:
//! `[8 words][1 or 2 scales f32][1 or 2 offsets f32]`.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use super::pack::TILE;
use super::words::Words;
use super::{Lanes, Scales, Tiled};

/// Unpacked blocks of the types that are signed or not, with halves or not, and with this run.
pub struct Unpacked<const SIGNED: bool, const HALVES: bool, const RUN: usize>;

const fn parts(halves: bool) -> usize {
    if halves { 2 } else { 1 }
}

/// Bytes of a row's unpacked chunk.
const fn chunk_bytes(halves: bool) -> usize {
    32 + 2 * 4 * parts(halves)
}

/// Bytes of an unpacked tile of rows of `n_in` weights of type `F`.
pub const fn panel_bytes<F: Tiled>(n_in: usize) -> usize {
    n_in / 32 * TILE * chunk_bytes(F::HALVES)
}

impl<const SIGNED: bool, const HALVES: bool, const RUN: usize> Tiled
    for Unpacked<SIGNED, HALVES, RUN>
{
    const LEN: usize = 32;
    const BYTES: usize = chunk_bytes(HALVES);
    const SIGNED: bool = SIGNED;
    const HALVES: bool = HALVES;
    const RUN: usize = RUN;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, _i: usize, g: usize) -> S::W {
        block.words::<S>(4 * g)
    }

    #[inline(always)]
    unsafe fn tile_scales<S: Words>(block: Lanes, into: &mut Scales<S::F>) {
        for part in 0..parts(HALVES) {
            into.scales[part] = block.f32::<S>(32 + 4 * part);
            into.offsets[part] = block.f32::<S>(32 + 4 * (parts(HALVES) + part));
        }
    }
}

/// Unpacks a tile of rows of `n_in` weights.
///
/// # Safety
/// The processor has `S`'s instruction set; `tile` is valid for the tile and `to` for [`panel_bytes`].
#[inline(always)]
pub unsafe fn unpack_tile<S: Words, F: Tiled>(tile: *const u8, n_in: usize, to: *mut u8) {
    let n_parts = parts(F::HALVES);
    let chunks = F::LEN / 32;
    for part in 0..TILE / S::LANES {
        let mut scales = Scales::new(S::zero());
        for block in 0..n_in / F::LEN {
            let lanes = Lanes::of::<S>(tile.add(block * TILE * F::BYTES), part);
            F::tile_scales::<S>(lanes, &mut scales);
            for i in 0..chunks {
                let to = to.add((block * chunks + i) * TILE * chunk_bytes(F::HALVES));
                let to = to.add(4 * part * S::LANES);
                for g in 0..8 {
                    S::store_words(to.add(4 * TILE * g), F::group::<S>(lanes, i, g));
                }
                let numbers = to.add(32 * TILE).cast::<f32>();
                for p in 0..n_parts {
                    S::store(numbers.add(TILE * p), scales.scales[n_parts * i + p]);
                    S::store(numbers.add(TILE * (n_parts + p)), scales.offsets[n_parts * i + p]);
                }
            }
        }
    }
}
