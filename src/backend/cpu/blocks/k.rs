//! Blocks of 256 with small scales inside: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::bytes::{Bytes, EightLanes};
use super::{Format, Scales, f16_at};
use crate::backend::cpu::simd::Simd;

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

/// The low four bits of each of eight bytes.
const FOUR_BITS: u64 = 0x0f0f_0f0f_0f0f_0f0f;

#[inline(always)]
unsafe fn u64_at(block: *const u8, at: usize) -> u64 {
    block.add(at).cast::<u64>().read_unaligned()
}

#[inline(always)]
unsafe fn u32_at(block: *const u8, at: usize) -> u32 {
    block.add(at).cast::<u32>().read_unaligned()
}

/// Stores `factor · numbers` at `to`.
#[inline(always)]
unsafe fn store<S: Bytes>(to: &mut [f32], factor: f32, numbers: EightLanes<S>) {
    debug_assert!(to.len() >= 8);
    S::Eight::store(to.as_mut_ptr(), S::Eight::mul(S::Eight::splat(factor), numbers));
}

impl Format for Q2K {
    const LEN: usize = 256;
    const BYTES: usize = 84;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> S::B {
        S::field(S::load_bytes(block.add(16 + 32 * (i / 4))), 2 * (i % 4), 3)
    }

    #[inline(always)]
    unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
        let (d, dmin) = (f16_at::<S>(block, 80), f16_at::<S>(block, 82));
        for part in [0, 8] {
            let bytes = u64_at(block, part);
            let minima = S::widen_unsigned_8(bytes >> 4 & FOUR_BITS);
            store::<S>(&mut into.scales[part..], d, S::widen_unsigned_8(bytes & FOUR_BITS));
            store::<S>(&mut into.offsets[part..], -dmin, minima);
        }
    }
}

impl Format for Q3K {
    const LEN: usize = 256;
    const BYTES: usize = 110;
    const HALVES: bool = true;

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
        let (low, high) = (u64_at(block, 96), u64::from(u32_at(block, 104)));
        // The first four numbers' bits in the lower half, the next four's in the upper.
        let high = high | high << 30;
        for part in [0, 8] {
            let low = low >> (part / 2) & FOUR_BITS;
            let high = (high >> (part / 2) & 0x0303_0303_0303_0303) << 4;
            let numbers = S::Eight::sub(S::widen_unsigned_8(low | high), S::Eight::splat(32.0));
            store::<S>(&mut into.scales[part..], d, numbers);
            store::<S>(&mut into.offsets[part..], -4.0 * d, numbers);
        }
    }
}

/// Scales and minima of Q4_K and Q5_K from 12 bytes: the first four of each have their six bits together, the
/// last four have their high bits above those.
#[inline(always)]
unsafe fn scales_and_minima<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
    const SIX_BITS: u32 = 0x3f3f_3f3f;
    const TWO_BITS: u32 = 0x0303_0303;
    let (d, dmin) = (f16_at::<S>(block, 0), f16_at::<S>(block, 2));
    let (a, b, c) = (u32_at(block, 4), u32_at(block, 8), u32_at(block, 12));
    let scales = c & 0x0f0f_0f0f | (a >> 6 & TWO_BITS) << 4;
    let minima = c >> 4 & 0x0f0f_0f0f | (b >> 6 & TWO_BITS) << 4;
    let scales = u64::from(a & SIX_BITS) | u64::from(scales) << 32;
    let minima = u64::from(b & SIX_BITS) | u64::from(minima) << 32;
    store::<S>(&mut into.scales, d, S::widen_unsigned_8(scales));
    store::<S>(&mut into.offsets, -dmin, S::widen_unsigned_8(minima));
}

impl Format for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> S::B {
        S::field(S::load_bytes(block.add(16 + 32 * (i / 2))), 4 * (i % 2), 15)
    }

    #[inline(always)]
    unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
        scales_and_minima::<S>(block, into);
    }
}

impl Format for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = 176;
    const RUN: usize = 4;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> S::B {
        let low = S::field(S::load_bytes(block.add(48 + 32 * (i / 2))), 4 * (i % 2), 15);
        let fifth = S::field(S::load_bytes(block.add(16)), i, 1);
        S::or(low, S::shift_left::<4>(fifth))
    }

    #[inline(always)]
    unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>) {
        scales_and_minima::<S>(block, into);
    }
}

impl Format for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;
    const HALVES: bool = true;
    const RUN: usize = 2;

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
        for part in [0, 8] {
            let numbers = S::widen_signed_8(u64_at(block, 192 + part));
            store::<S>(&mut into.scales[part..], d, numbers);
            store::<S>(&mut into.offsets[part..], -32.0 * d, numbers);
        }
    }
}
