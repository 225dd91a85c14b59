//! Blocks of 256 with small scales inside: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::bytes::Bytes;
use super::words::Words;
use super::{Format, Lanes, Scales, Tiled, f16_at};

/// `[16 · (scale, minimum) of 4 bits][64 bytes][d f16][dmin f16]`.
pub struct Q2K;
/// `[third bits 32][64 bytes][16 scales of 6 bits: 12 bytes][d f16]`: `d · (scale − 32) · (q − 4)`.
pub struct Q3K;
/// `[d f16][dmin f16][8 · (scale, minimum) of 6 bits: 12 bytes][128 bytes]`.
pub struct Q4K;
/// As [`Q4K`], with `[fifth bits 32]` before the 128 bytes.
pub struct Q5K;
/// `[low four bits 128][high two bits 64][16 scales i8][d f16]`: `d · scale · (q − 32)`.
pub struct Q6K;

/// The four numbers in the bytes of each row's word, times `factor`.
#[inline(always)]
unsafe fn four<S: Words>(to: &mut [S::F], factor: S::F, words: S::W) {
    for (i, to) in to.iter_mut().enumerate().take(4) {
        *to = S::mul(factor, S::number(words, 8 * i, 255));
    }
}

/// `v · −1`: exact, and −0 for 0, as a product has it.
#[inline(always)]
unsafe fn negative<S: Words>(v: S::F) -> S::F {
    S::mul(v, S::splat(-1.0))
}

impl Tiled for Q2K {
    const LEN: usize = 256;
    const BYTES: usize = 84;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, i: usize, g: usize) -> S::W {
        S::bits(block.words::<S>(16 + 32 * (i / 4) + 4 * g), 2 * (i % 4), 3)
    }

    #[inline(always)]
    unsafe fn tile_scales<S: Words>(block: Lanes, into: &mut Scales<S::F>) {
        let (d, dmin) = (block.f16::<S>(80), negative::<S>(block.f16::<S>(82)));
        for i in 0..4 {
            let words = block.words::<S>(4 * i);
            four::<S>(&mut into.scales[4 * i..], d, S::bits(words, 0, 15));
            four::<S>(&mut into.offsets[4 * i..], dmin, S::bits(words, 4, 15));
        }
    }
}

impl Format for Q2K {
    const PIECES: &'static [(usize, usize)] = &[(4, 20), (2, 2)];

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> S::B {
        S::field(S::load_bytes(block.add(16 + 32 * (i / 4))), 2 * (i % 4), 3)
    }

    #[inline(always)]
    unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
        let (d, dmin) = (f16_at::<S>(block, 80), f16_at::<S>(block, 82));
        for part in 0..16 {
            let byte = *block.add(part);
            into.scales[part] = d * f32::from(byte & 15);
            into.offsets[part] = -dmin * f32::from(byte >> 4);
        }
    }
}

impl Tiled for Q3K {
    const LEN: usize = 256;
    const BYTES: usize = 110;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, i: usize, g: usize) -> S::W {
        let low = S::bits(block.words::<S>(32 + 32 * (i / 4) + 4 * g), 2 * (i % 4), 3);
        S::merge(low, S::raise::<2>(S::bits(block.words::<S>(4 * g), i, 1)))
    }

    #[inline(always)]
    unsafe fn tile_scales<S: Words>(block: Lanes, into: &mut Scales<S::F>) {
        let d = block.f16::<S>(108);
        let [a, b, high] = [block.words::<S>(96), block.words::<S>(100), block.words::<S>(104)];
        for (i, low) in [a, b, a, b].into_iter().enumerate() {
            let high = S::raise::<4>(S::bits(high, 2 * i, 3));
            let numbers = S::merge(S::bits(low, 4 * (i / 2), 15), high);
            for k in 0..4 {
                let number = S::number(numbers, 8 * k, 255);
                let scale = S::mul(d, S::sub(number, S::splat(32.0)));
                into.scales[4 * i + k] = scale;
                into.offsets[4 * i + k] = S::mul(scale, S::splat(-4.0));
            }
        }
    }
}

impl Format for Q3K {
    const PIECES: &'static [(usize, usize)] = &[(4, 27), (2, 1)];

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> S::B {
        let low = S::field(S::load_bytes(block.add(32 + 32 * (i / 4))), 2 * (i % 4), 3);
        let third = S::field(S::load_bytes(block), i, 1);
        S::or(low, S::shift_left::<2>(third))
    }

    /// Scale k has its low four bits in nibble `k / 8` of byte `k % 8`, its high two in bits `2 · (k / 4)` of byte
    /// `8 + k % 4`.
    #[inline(always)]
    unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
        let d = f16_at::<S>(block, 108);
        let bytes = block.add(96);
        for k in 0..16 {
            let low = *bytes.add(k % 8) >> (4 * (k / 8)) & 15;
            let high = *bytes.add(8 + k % 4) >> (2 * (k / 4)) & 3;
            into.scales[k] = d * f32::from((low | high << 4) as i8 - 32);
            into.offsets[k] = -4.0 * into.scales[k];
        }
    }
}

/// Scales and minima of Q4_K and Q5_K from the 12 bytes behind d and dmin: the first four of each have their six
/// bits together, the last four have their high bits above those.
macro_rules! scales_and_minima {
    () => {
        #[inline(always)]
        unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
            let (d, dmin) = (f16_at::<S>(block, 0), f16_at::<S>(block, 2));
            let bytes = block.add(4);
            for i in 0..4 {
                let (a, b, c) = (*bytes.add(i), *bytes.add(i + 4), *bytes.add(i + 8));
                into.scales[i] = d * f32::from(a & 63);
                into.offsets[i] = -dmin * f32::from(b & 63);
                into.scales[i + 4] = d * f32::from(c & 15 | a >> 6 << 4);
                into.offsets[i + 4] = -dmin * f32::from(c >> 4 | b >> 6 << 4);
            }
        }
    };
}

/// The same of a tile.
macro_rules! tile_scales_and_minima {
    () => {
        #[inline(always)]
        unsafe fn tile_scales<S: Words>(block: Lanes, into: &mut Scales<S::F>) {
            let (d, dmin) = (block.f16::<S>(0), negative::<S>(block.f16::<S>(2)));
            let [a, b, c] = [block.words::<S>(4), block.words::<S>(8), block.words::<S>(12)];
            four::<S>(&mut into.scales, d, S::bits(a, 0, 63));
            four::<S>(&mut into.offsets, dmin, S::bits(b, 0, 63));
            let scales = S::merge(S::bits(c, 0, 15), S::bits(a, 2, 0x30));
            let minima = S::merge(S::bits(c, 4, 15), S::bits(b, 2, 0x30));
            four::<S>(&mut into.scales[4..], d, scales);
            four::<S>(&mut into.offsets[4..], dmin, minima);
        }
    };
}

impl Tiled for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, i: usize, g: usize) -> S::W {
        S::bits(block.words::<S>(16 + 32 * (i / 2) + 4 * g), 4 * (i % 2), 15)
    }

    tile_scales_and_minima!();
}

impl Format for Q4K {
    const PIECES: &'static [(usize, usize)] = &[(2, 2), (4, 35)];

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> S::B {
        S::field(S::load_bytes(block.add(16 + 32 * (i / 2))), 4 * (i % 2), 15)
    }

    scales_and_minima!();
}

impl Tiled for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = 176;
    const RUN: usize = 4;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, i: usize, g: usize) -> S::W {
        let low = S::bits(block.words::<S>(48 + 32 * (i / 2) + 4 * g), 4 * (i % 2), 15);
        S::merge(low, S::raise::<4>(S::bits(block.words::<S>(16 + 4 * g), i, 1)))
    }

    tile_scales_and_minima!();
}

impl Format for Q5K {
    const PIECES: &'static [(usize, usize)] = &[(2, 2), (4, 43)];

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> S::B {
        let low = S::field(S::load_bytes(block.add(48 + 32 * (i / 2))), 4 * (i % 2), 15);
        let fifth = S::field(S::load_bytes(block.add(16)), i, 1);
        S::or(low, S::shift_left::<4>(fifth))
    }

    scales_and_minima!();
}

impl Tiled for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;
    const HALVES: bool = true;
    const RUN: usize = 2;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, i: usize, g: usize) -> S::W {
        let (half, k) = (i / 4, i % 4);
        let low = block.words::<S>(64 * half + 32 * (k % 2) + 4 * g);
        let high = S::bits(block.words::<S>(128 + 32 * half + 4 * g), 2 * k, 3);
        S::merge(S::bits(low, 4 * (k / 2), 15), S::raise::<4>(high))
    }

    #[inline(always)]
    unsafe fn tile_scales<S: Words>(block: Lanes, into: &mut Scales<S::F>) {
        let d = block.f16::<S>(208);
        for i in 0..4 {
            let words = block.words::<S>(192 + 4 * i);
            for k in 0..4 {
                let scale = S::mul(d, S::signed_number(words, k));
                into.scales[4 * i + k] = scale;
                into.offsets[4 * i + k] = S::mul(scale, S::splat(-32.0));
            }
        }
    }
}

impl Format for Q6K {
    const PIECES: &'static [(usize, usize)] = &[(4, 52), (2, 1)];

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> S::B {
        let (half, k) = (i / 4, i % 4);
        let low = S::load_bytes(block.add(64 * half + 32 * (k % 2)));
        let high = S::load_bytes(block.add(128 + 32 * half));
        S::or(S::field(low, 4 * (k / 2), 15), S::shift_left::<4>(S::field(high, 2 * k, 3)))
    }

    #[inline(always)]
    unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
        let d = f16_at::<S>(block, 208);
        for part in 0..16 {
            into.scales[part] = d * f32::from(*block.add(192 + part) as i8);
            into.offsets[part] = -32.0 * into.scales[part];
        }
    }
}
