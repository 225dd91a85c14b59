//! Blocks of 32 with one f16 scale, and for the `_1` types a minimum: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::bytes::{Bytes, EightLanes};
use super::{Format, Scales, f16_at};
use crate::backend::cpu::simd::Simd;

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
        #[inline(always)]
        unsafe fn octet_scales<S: Bytes>(
            rows: &[*const u8; 8],
            at: usize,
            into: &mut Scales<EightLanes<S>>,
        ) {
            into.scales[0] = S::gather_f16(rows, at);
            into.offsets[0] = S::Eight::mul(S::Eight::splat($centre), into.scales[0]);
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
        #[inline(always)]
        unsafe fn octet_scales<S: Bytes>(
            rows: &[*const u8; 8],
            at: usize,
            into: &mut Scales<EightLanes<S>>,
        ) {
            (into.scales[0], into.offsets[0]) = S::words_f16(S::gather_words(rows, at));
        }
    };
}
pub(super) use centred;

impl Format for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        S::load_nibbles(block.add(2))
    }
    centred!(-8.0);
}

impl Format for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = 20;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        S::load_nibbles(block.add(4))
    }
    with_minimum!();
}

impl Format for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = 22;
    const RUN: usize = 4;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        five_bits::<S>(block, 2)
    }
    centred!(-16.0);
}

impl Format for Q5_1 {
    const LEN: usize = 32;
    const BYTES: usize = 24;
    const RUN: usize = 4;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        five_bits::<S>(block, 4)
    }
    with_minimum!();
}

impl Format for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn chunk<S: Bytes>(block: *const u8, _i: usize) -> S::B {
        S::load_bytes(block.add(2))
    }
    centred!(0.0);
}
