//! Blocks of 32 with one f16 scale, and for the `_1` types a minimum: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::bytes::Bytes;
use super::{Chunk, Format, f16_at};

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

#[inline(always)]
fn whole<S: Bytes>(q: S::B, scale: f32, offset: f32) -> Chunk<S> {
    Chunk { q, scales: [scale; 2], offsets: [offset; 2] }
}

/// Five bits: the fifth at `block + at`, the others behind them.
#[inline(always)]
unsafe fn five_bits<S: Bytes>(block: *const u8, at: usize) -> S::B {
    let fifth = block.add(at).cast::<u32>().read_unaligned();
    S::or(S::load_nibbles(block.add(at + 4)), S::spread_bits(fifth, 16))
}

impl Format for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> Chunk<S> {
        let d = f16_at::<S>(block, 0);
        whole(S::load_nibbles(block.add(2)), d, -8.0 * d)
    }
}

impl Format for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = 20;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> Chunk<S> {
        whole(S::load_nibbles(block.add(4)), f16_at::<S>(block, 0), f16_at::<S>(block, 2))
    }
}

impl Format for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = 22;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> Chunk<S> {
        let d = f16_at::<S>(block, 0);
        whole(five_bits::<S>(block, 2), d, -16.0 * d)
    }
}

impl Format for Q5_1 {
    const LEN: usize = 32;
    const BYTES: usize = 24;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> Chunk<S> {
        whole(five_bits::<S>(block, 4), f16_at::<S>(block, 0), f16_at::<S>(block, 2))
    }
}

impl Format for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> Chunk<S> {
        whole(S::load_bytes(block.add(2)), f16_at::<S>(block, 0), 0.0)
    }
}
