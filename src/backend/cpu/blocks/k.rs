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

/// Four numbers of eight rows, in the bytes of their words, times `factor`.
#[inline(always)]
unsafe fn four<S: Bytes>(to: &mut [EightLanes<S>], factor: EightLanes<S>, words: S::B) {
    for (i, to) in to.iter_mut().enumerate().take(4) {
        *to = S::Eight::mul(factor, S::words_field(words, 8 * i, 255));
    }
}

/// `v · −1`: exact, and −0 for 0, as a product has it.
#[inline(always)]
unsafe fn negative<S: Bytes>(v: EightLanes<S>) -> EightLanes<S> {
    S::Eight::mul(v, S::Eight::splat(-1.0))
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
        for part in 0..16 {
            let byte = *block.add(part);
            into.scales[part] = d * f32::from(byte & 15);
            into.offsets[part] = -dmin * f32::from(byte >> 4);
        }
    }

    #[inline(always)]
    unsafe fn octet_scales<S: Bytes>(
        rows: &[*const u8; 8],
        at: usize,
        into: &mut Scales<EightLanes<S>>,
    ) {
        let (d, dmin) = S::words_f16(S::gather_words(rows, at + 80));
        let dmin = negative::<S>(dmin);
        for (i, words) in S::gather_four_words(rows, at).into_iter().enumerate() {
            four::<S>(&mut into.scales[4 * i..], d, S::field(words, 0, 15));
            four::<S>(&mut into.offsets[4 * i..], dmin, S::field(words, 4, 15));
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
        let bytes = block.add(96);
        for k in 0..16 {
            let low = *bytes.add(k % 8) >> (4 * (k / 8)) & 15;
            let high = *bytes.add(8 + k % 4) >> (2 * (k / 4)) & 3;
            into.scales[k] = d * f32::from((low | high << 4) as i8 - 32);
            into.offsets[k] = -4.0 * into.scales[k];
        }
    }

    #[inline(always)]
    unsafe fn octet_scales<S: Bytes>(
        rows: &[*const u8; 8],
        at: usize,
        into: &mut Scales<EightLanes<S>>,
    ) {
        let d = S::gather_f16(rows, at + 108);
        // From four bytes earlier, so as not to read behind the block.
        let [_, a, b, high] = S::gather_four_words(rows, at + 92);
        for (i, low) in [a, b, a, b].into_iter().enumerate() {
            let high = S::shift_left::<4>(S::field(high, 2 * i, 3));
            let numbers = S::or(S::field(low, 4 * (i / 2), 15), high);
            for k in 0..4 {
                let number = S::words_field(numbers, 8 * k, 255);
                let scale = S::Eight::mul(d, S::Eight::sub(number, S::Eight::splat(32.0)));
                into.scales[4 * i + k] = scale;
                into.offsets[4 * i + k] = S::Eight::mul(scale, S::Eight::splat(-4.0));
            }
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

        #[inline(always)]
        unsafe fn octet_scales<S: Bytes>(
            rows: &[*const u8; 8],
            at: usize,
            into: &mut Scales<EightLanes<S>>,
        ) {
            let [factors, a, b, c] = S::gather_four_words(rows, at);
            let (d, dmin) = S::words_f16(factors);
            let dmin = negative::<S>(dmin);
            four::<S>(&mut into.scales, d, S::field(a, 0, 63));
            four::<S>(&mut into.offsets, dmin, S::field(b, 0, 63));
            let scales = S::or(S::field(c, 0, 15), S::field(a, 2, 0x30));
            let minima = S::or(S::field(c, 4, 15), S::field(b, 2, 0x30));
            four::<S>(&mut into.scales[4..], d, scales);
            four::<S>(&mut into.offsets[4..], dmin, minima);
        }
    };
}

impl Format for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> S::B {
        S::field(S::load_bytes(block.add(16 + 32 * (i / 2))), 4 * (i % 2), 15)
    }

    scales_and_minima!();
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

    scales_and_minima!();
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
        for part in 0..16 {
            into.scales[part] = d * f32::from(*block.add(192 + part) as i8);
            into.offsets[part] = -32.0 * into.scales[part];
        }
    }

    #[inline(always)]
    unsafe fn octet_scales<S: Bytes>(
        rows: &[*const u8; 8],
        at: usize,
        into: &mut Scales<EightLanes<S>>,
    ) {
        let d = S::gather_f16(rows, at + 208);
        for (i, words) in S::gather_four_words(rows, at + 192).into_iter().enumerate() {
            for k in 0..4 {
                let scale = S::Eight::mul(d, S::words_signed_byte(words, k));
                into.scales[4 * i + k] = scale;
                into.offsets[4 * i + k] = S::Eight::mul(scale, S::Eight::splat(-32.0));
            }
        }
    }
}
