//! Blocks of 256 with small scales inside: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::bytes::Bytes;
use super::{Chunk, Format, f16_at};

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

impl Format for Q2K {
    const LEN: usize = 256;
    const BYTES: usize = 84;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> Chunk<S> {
        let (d, dmin) = (f16_at::<S>(block, 80), f16_at::<S>(block, 82));
        let (a, b) = (*block.add(2 * i), *block.add(2 * i + 1));
        let q = S::load_bytes(block.add(16 + 32 * (i / 4)));
        Chunk {
            q: S::field(q, 2 * (i % 4), 3),
            scales: [d * f32::from(a & 15), d * f32::from(b & 15)],
            offsets: [-dmin * f32::from(a >> 4), -dmin * f32::from(b >> 4)],
        }
    }
}

/// Scale `k` of a Q3_K block's 12 bytes: four low bits in the first eight, two high bits in the last four.
#[inline(always)]
unsafe fn q3_scale(scales: *const u8, k: usize) -> f32 {
    let low = *scales.add(k % 8) >> (4 * (k / 8)) & 15;
    let high = *scales.add(8 + k % 4) >> (2 * (k / 4)) & 3;
    f32::from((low | high << 4) as i8 - 32)
}

impl Format for Q3K {
    const LEN: usize = 256;
    const BYTES: usize = 110;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> Chunk<S> {
        let d = f16_at::<S>(block, 108);
        let scales = block.add(96);
        let (a, b) = (d * q3_scale(scales, 2 * i), d * q3_scale(scales, 2 * i + 1));
        let low = S::field(S::load_bytes(block.add(32 + 32 * (i / 4))), 2 * (i % 4), 3);
        let third = S::field(S::load_bytes(block), i, 1);
        Chunk {
            q: S::or(low, S::shift_left::<2>(third)),
            scales: [a, b],
            offsets: [-4.0 * a, -4.0 * b],
        }
    }
}

/// Scale and minimum `i` of the 12 bytes of Q4_K and Q5_K: the first four have their six bits together, the last
/// four have their high bits above those.
#[inline(always)]
unsafe fn scale_and_minimum(scales: *const u8, i: usize) -> (f32, f32) {
    let (scale, minimum) = if i < 4 {
        (*scales.add(i) & 63, *scales.add(i + 4) & 63)
    } else {
        let low = *scales.add(i + 4);
        (low & 15 | (*scales.add(i - 4) >> 6) << 4, low >> 4 | (*scales.add(i) >> 6) << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

impl Format for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> Chunk<S> {
        let (d, dmin) = (f16_at::<S>(block, 0), f16_at::<S>(block, 2));
        let (scale, minimum) = scale_and_minimum(block.add(4), i);
        let q = S::load_bytes(block.add(16 + 32 * (i / 2)));
        Chunk {
            q: S::field(q, 4 * (i % 2), 15),
            scales: [d * scale; 2],
            offsets: [-dmin * minimum; 2],
        }
    }
}

impl Format for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = 176;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> Chunk<S> {
        let (d, dmin) = (f16_at::<S>(block, 0), f16_at::<S>(block, 2));
        let (scale, minimum) = scale_and_minimum(block.add(4), i);
        let low = S::field(S::load_bytes(block.add(48 + 32 * (i / 2))), 4 * (i % 2), 15);
        let fifth = S::field(S::load_bytes(block.add(16)), i, 1);
        Chunk {
            q: S::or(low, S::shift_left::<4>(fifth)),
            scales: [d * scale; 2],
            offsets: [-dmin * minimum; 2],
        }
    }
}

impl Format for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> Chunk<S> {
        let d = f16_at::<S>(block, 208);
        let scales = block.add(192).cast::<i8>();
        let (a, b) = (d * f32::from(*scales.add(2 * i)), d * f32::from(*scales.add(2 * i + 1)));
        let (half, k) = (i / 4, i % 4);
        let low = S::load_bytes(block.add(64 * half + 32 * (k % 2)));
        let high = S::load_bytes(block.add(128 + 32 * half));
        let q = S::or(S::field(low, 4 * (k / 2), 15), S::shift_left::<4>(S::field(high, 2 * k, 3)));
        Chunk { q, scales: [a, b], offsets: [-32.0 * a, -32.0 * b] }
    }
}
