//! Blocks of 32 with one f16 scale, and for the `_1` types a minimum: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::bytes::Bytes;
use super::words::Words;
use super::{Format, Lanes, Scales, Tiled, f16_at};

/// `[scale f16][16 bytes]`: `d · (q − 8)`.
pub struct Q4_0;
/// `[scale f16][minimum f16][16 bytes]`: `d · q + m`.
pub struct Q4_1;
/// `[scale f16][fifth bits u32][16 bytes]`: `d · (q − 16)`.
pub struct Q5_0;
/// `[scale f16][minimum f16][fifth bits u32][16 bytes]`: `d · q + m`.
pub struct Q5_1;
/// `[scale f16][32 bytes]`: `d · q`.
pub struct Q8_0;

/// Five bits: the fifth at `block + at`, the others behind them.
#[inline(always)]
unsafe fn five_bits<S: Bytes>(block: *const u8, at: usize) -> S::B {
    let fifth = block.add(at).cast::<u32>().read_unaligned();
    S::or(S::load_nibbles(block.add(at + 4)), S::spread_bits(fifth, 16))
}

/// Scales of the types whose offset is `centre` times the scale.
macro_rules! centred {
    ($centre:literal) => {
        #[inline(always)]
        unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
            into.scales[0] = f16_at::<S>(block, 0);
            into.offsets[0] = $centre * into.scales[0];
        }
    };
}

/// The same of a tile.
macro_rules! tile_centred {
    ($centre:literal) => {
        #[inline(always)]
        unsafe fn tile_scales<S: Words>(block: Lanes, into: &mut Scales<S::F>) {
            into.scales[0] = block.f16::<S>(0);
            into.offsets[0] = S::mul(S::splat($centre), into.scales[0]);
        }
    };
}

/// Scales of the types that store a minimum behind the scale.
macro_rules! with_minimum {
    () => {
        #[inline(always)]
        unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
            into.scales[0] = f16_at::<S>(block, 0);
            into.offsets[0] = f16_at::<S>(block, 2);
        }
    };
}

/// The same of a tile.
macro_rules! tile_with_minimum {
    () => {
        #[inline(always)]
        unsafe fn tile_scales<S: Words>(block: Lanes, into: &mut Scales<S::F>) {
            into.scales[0] = block.f16::<S>(0);
            into.offsets[0] = block.f16::<S>(2);
        }
    };
}
pub(super) use {centred, tile_centred};

/// Four bits: group g in the low halves of word g % 4 of those at byte `at`, or in the high halves.
#[inline(always)]
pub(super) unsafe fn nibbles<S: Words>(block: Lanes, at: usize, g: usize) -> S::W {
    S::bits(block.words::<S>(at + 4 * (g % 4)), 4 * (g / 4), 15)
}

/// Five bits of a tile: the fifth at byte `at`, the others behind them.
#[inline(always)]
unsafe fn five_bit_group<S: Words>(block: Lanes, at: usize, g: usize) -> S::W {
    let fifth = S::bits(block.words::<S>(at), g, 1);
    S::merge(nibbles::<S>(block, at + 4, g), S::raise::<4>(fifth))
}

impl Tiled for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, _i: usize, g: usize) -> S::W {
        nibbles::<S>(block, 2, g)
    }

    tile_centred!(-8.0);
}

impl Format for Q4_0 {
    const PIECES: &'static [(usize, usize)] = &[(2, 1), (4, 4)];

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        S::load_nibbles(block.add(2))
    }

    centred!(-8.0);
}

impl Tiled for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = 20;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, _i: usize, g: usize) -> S::W {
        nibbles::<S>(block, 4, g)
    }

    tile_with_minimum!();
}

impl Format for Q4_1 {
    const PIECES: &'static [(usize, usize)] = &[(2, 2), (4, 4)];

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        S::load_nibbles(block.add(4))
    }

    with_minimum!();
}

impl Tiled for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = 22;
    const RUN: usize = 4;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, _i: usize, g: usize) -> S::W {
        five_bit_group::<S>(block, 2, g)
    }

    tile_centred!(-16.0);
}

impl Format for Q5_0 {
    const PIECES: &'static [(usize, usize)] = &[(2, 1), (4, 5)];
    const BITS_AT: Option<usize> = Some(2);

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        five_bits::<S>(block, 2)
    }

    centred!(-16.0);
}

impl Tiled for Q5_1 {
    const LEN: usize = 32;
    const BYTES: usize = 24;
    const RUN: usize = 4;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, _i: usize, g: usize) -> S::W {
        five_bit_group::<S>(block, 4, g)
    }

    tile_with_minimum!();
}

impl Format for Q5_1 {
    const PIECES: &'static [(usize, usize)] = &[(2, 2), (4, 5)];
    const BITS_AT: Option<usize> = Some(4);

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        five_bits::<S>(block, 4)
    }

    with_minimum!();
}

impl Tiled for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, _i: usize, g: usize) -> S::W {
        block.words::<S>(2 + 4 * g)
    }

    tile_centred!(0.0);
}

impl Format for Q8_0 {
    const PIECES: &'static [(usize, usize)] = &[(2, 1), (4, 8)];

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        S::load_bytes(block.add(2))
    }

    centred!(0.0);
}
