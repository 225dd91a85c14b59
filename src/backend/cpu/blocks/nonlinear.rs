//! Four bits through a table: IQ4_NL, IQ4_XS and MXFP4.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::bytes::Bytes;
use super::simple::{centred, nibbles, tile_centred};
use super::words::Words;
use super::{Format, Lanes, Scales, Tiled, f16_at};

/// `[scale f16][16 bytes]`: `d · LEVELS[q]`.
pub struct Iq4Nl;
/// Blocks of 256: `[scale f16][high bits of 8 scales u16][low bits 4 bytes][128 bytes]`.
pub struct Iq4Xs;
/// `[exponent][16 bytes]`: `2^(e − 128) · (LEVELS_E2M1[q] − 12)` (OCP Microscaling, with the values doubled).
pub struct Mxfp4;

/// The non-linear levels of the IQ4 types.
static LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of a sign, two bits of exponent and one of mantissa, and 12 to make them unsigned.
static LEVELS_E2M1: [i8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

impl Tiled for Iq4Nl {
    const LEN: usize = 32;
    const BYTES: usize = 18;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, _i: usize, g: usize) -> S::W {
        S::level(&LEVELS, nibbles::<S>(block, 2, g))
    }

    tile_centred!(0.0);
}

impl Format for Iq4Nl {
    const PIECES: &'static [(usize, usize)] = &[(2, 1), (4, 4)];

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        S::lookup(&LEVELS, S::load_nibbles(block.add(2)))
    }

    centred!(0.0);
}

impl Tiled for Iq4Xs {
    const LEN: usize = 256;
    const BYTES: usize = 136;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, i: usize, g: usize) -> S::W {
        S::level(&LEVELS, nibbles::<S>(block, 8 + 16 * i, g))
    }

    #[inline(always)]
    unsafe fn tile_scales<S: Words>(block: Lanes, into: &mut Scales<S::F>) {
        let (d, high, low) = (block.f16::<S>(0), block.halves::<S>(2), block.words::<S>(4));
        for i in 0..8 {
            let high = S::number(high, 2 * i, 3);
            let low = S::sub(S::number(low, 4 * i, 15), S::splat(32.0));
            let scale = S::fma(high, S::splat(16.0), low);
            into.scales[i] = S::mul(d, scale);
        }
    }
}

impl Format for Iq4Xs {
    const PIECES: &'static [(usize, usize)] = &[(2, 2), (4, 33)];

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> S::B {
        S::lookup(&LEVELS, S::load_nibbles(block.add(8 + 16 * i)))
    }

    #[inline(always)]
    unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
        let d = f16_at::<S>(block, 0);
        let high = block.add(2).cast::<u16>().read_unaligned();
        let low = block.add(4).cast::<u32>().read_unaligned();
        for i in 0..8 {
            let scale = (low >> (4 * i) & 15) as i32 | i32::from(high >> (2 * i) & 3) << 4;
            into.scales[i] = d * (scale - 32) as f32;
        }
    }
}

/// 2^(e − 128); the two smallest are denormal.
#[inline(always)]
fn power(exponent: u8) -> f32 {
    let exponent = u32::from(exponent);
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 })
}

impl Tiled for Mxfp4 {
    const LEN: usize = 32;
    const BYTES: usize = 17;
    const RUN: usize = 4;

    #[inline(always)]
    unsafe fn group<S: Words>(block: Lanes, _i: usize, g: usize) -> S::W {
        S::level(&LEVELS_E2M1, nibbles::<S>(block, 1, g))
    }

    #[inline(always)]
    unsafe fn tile_scales<S: Words>(block: Lanes, into: &mut Scales<S::F>) {
        let exponents = S::sub(S::number(block.bytes::<S>(0), 0, 255), S::splat(128.0));
        into.scales[0] = S::scale_by_power_of_2(S::splat(1.0), exponents);
        into.offsets[0] = S::mul(S::splat(-12.0), into.scales[0]);
    }
}

impl Format for Mxfp4 {
    const PIECES: &'static [(usize, usize)] = &[(1, 1), (4, 4)];

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        S::lookup(&LEVELS_E2M1, S::load_nibbles(block.add(1)))
    }

    #[inline(always)]
    unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
        into.scales[0] = power(*block);
        into.offsets[0] = -12.0 * into.scales[0];
    }
}
