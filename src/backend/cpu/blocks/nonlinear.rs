//! Four bits through a table: IQ4_NL, IQ4_XS and MXFP4.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::bytes::Bytes;
use super::{Chunk, Format, f16_at};

/// `[scale f16][16 bytes]`: `d · LEVELS[q]`.
pub struct Iq4Nl;
/// Blocks of 256: `[scale f16][high bits of 8 scales u16][low bits 4 bytes][128 bytes]`.
pub struct Iq4Xs;
/// `[exponent][16 bytes]`: `2^(e − 128) · TWICE_E2M1[q]` (OCP Microscaling, with the values doubled).
pub struct Mxfp4;

/// The non-linear levels of the IQ4 types.
static LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of a sign, two bits of exponent and one of mantissa.
static TWICE_E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

#[inline(always)]
unsafe fn from_table<S: Bytes>(table: &[i8; 16], from: *const u8, scale: f32) -> Chunk<S> {
    let q = S::lookup(table, S::load_nibbles(from));
    Chunk { q, scales: [scale; 2], offsets: [0.0; 2] }
}

impl Format for Iq4Nl {
    const LEN: usize = 32;
    const BYTES: usize = 18;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> Chunk<S> {
        from_table(&LEVELS, block.add(2), f16_at::<S>(block, 0))
    }
}

impl Format for Iq4Xs {
    const LEN: usize = 256;
    const BYTES: usize = 136;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> Chunk<S> {
        let high = u32::from(block.add(2).cast::<u16>().read_unaligned());
        let low = u32::from(*block.add(4 + i / 2));
        let scale = (low >> (4 * (i % 2)) & 15) | (high >> (2 * i) & 3) << 4;
        let d = f16_at::<S>(block, 0) * (scale as i32 - 32) as f32;
        from_table(&LEVELS, block.add(8 + 16 * i), d)
    }
}

impl Format for Mxfp4 {
    const LEN: usize = 32;
    const BYTES: usize = 17;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> Chunk<S> {
        let exponent = u32::from(*block);
        // 2^(e − 128); the two smallest are denormal.
        let bits = if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 };
        from_table(&TWICE_E2M1, block.add(1), f32::from_bits(bits))
    }
}
