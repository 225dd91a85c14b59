//! Words of eight rows in NEON. Unsigned weights lie below 128, so that they are signed bytes as well.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::bytes::field;
use super::{F, Neon, both};
use crate::backend::cpu::blocks::words::Words;
use std::arch::{aarch64::*, asm};

/// Eight words.
type W = [uint8x16_t; 2];

/// Sums of i32 in the first two; or, without dotprod, pairs: products of each byte of two rows' words in each, in i16.
#[derive(Clone, Copy)]
pub struct Sums([int32x4_t; 4]);

#[inline(always)]
unsafe fn dot(sums: int32x4_t, w: uint8x16_t, x: uint8x16_t) -> int32x4_t {
    let mut sums = sums;
    asm!("sdot {sums:v}.4s, {w:v}.16b, {x:v}.16b",
        sums = inout(vreg) sums, w = in(vreg) w, x = in(vreg) x,
        options(pure, nomem, nostack, preserves_flags));
    sums
}

/// The numbers in the two registers of words, from whose bits `shift` on `mask` keeps some.
#[inline(always)]
unsafe fn part(words: W, shift: usize, mask: u32) -> [uint32x4_t; 2] {
    let words = both!(vreinterpretq_u32_u8(words));
    let right = [vdupq_n_s32(-(shift as i32)); 2];
    let shifted = both!(vshlq_u32(words, right));
    both!(vandq_u32(shifted, [vdupq_n_u32(mask); 2]))
}

/// `sums` and the four products of each word of a register, in two steps: two products of 128 · 127 fit in i16.
#[inline(always)]
unsafe fn add_products(sums: int32x4_t, w: uint8x16_t, x: uint8x16_t) -> int32x4_t {
    let (w, x) = (vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(x));
    let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
    vpadalq_s16(sums, vpaddq_s16(low, vmull_high_s8(w, x)))
}

/// Adds the products of a register of words to two registers of pairs.
#[inline(always)]
unsafe fn add_to_pairs(pairs: [int32x4_t; 2], w: uint8x16_t, x: uint8x16_t) -> [int32x4_t; 2] {
    let (w, x) = (vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(x));
    let pairs = both!(vreinterpretq_s16_s32(pairs));
    let low = vmlal_s8(pairs[0], vget_low_s8(w), vget_low_s8(x));
    let sums = [low, vmlal_high_s8(pairs[1], w, x)];
    both!(vreinterpretq_s32_s16(sums))
}

impl<const DOT: bool> Words for Neon<DOT> {
    type W = W;
    type Sums = Sums;
    const DOT_COLUMNS: usize = 2;
    const SIGNED_EXCESS: f32 = 0.0;

    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> W {
        [vld1q_u8(from), vld1q_u8(from.add(16))]
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, v: W) {
        vst1q_u8(to, v[0]);
        vst1q_u8(to.add(16), v[1]);
    }
    #[inline(always)]
    unsafe fn splat_word(from: *const u8) -> W {
        [vreinterpretq_u8_u32(vdupq_n_u32(from.cast::<u32>().read_unaligned())); 2]
    }
    #[inline(always)]
    unsafe fn widen_halves(from: *const u8) -> W {
        let numbers = vreinterpretq_u16_u8(vld1q_u8(from));
        let words = [vmovl_u16(vget_low_u16(numbers)), vmovl_high_u16(numbers)];
        both!(vreinterpretq_u8_u32(words))
    }
    #[inline(always)]
    unsafe fn widen_bytes(from: *const u8) -> W {
        let numbers = vmovl_u8(vld1_u8(from));
        let words = [vmovl_u16(vget_low_u16(numbers)), vmovl_high_u16(numbers)];
        both!(vreinterpretq_u8_u32(words))
    }
    #[inline(always)]
    unsafe fn bits(v: W, shift: usize, mask: u8) -> W {
        field(v, shift, mask)
    }
    #[inline(always)]
    unsafe fn raise<const N: i32>(v: W) -> W {
        both!(vshlq_u8(v, [vdupq_n_s8(N as i8); 2]))
    }
    #[inline(always)]
    unsafe fn merge(a: W, b: W) -> W {
        both!(vorrq_u8(a, b))
    }
    #[inline(always)]
    unsafe fn level(table: &[i8; 16], v: W) -> W {
        let table = [vld1q_u8(table.as_ptr().cast()); 2];
        both!(vqtbl1q_u8(table, v))
    }

    #[inline(always)]
    unsafe fn no_sums() -> Sums {
        Sums([vdupq_n_s32(0); 4])
    }
    #[inline(always)]
    unsafe fn add_unsigned(pairs: Sums, w: W, x: W) -> Sums {
        if DOT {
            return Self::add_signed(pairs, w, x);
        }
        let Sums([a, b, c, d]) = pairs;
        let [a, b] = add_to_pairs([a, b], w[0], x[0]);
        let [c, d] = add_to_pairs([c, d], w[1], x[1]);
        Sums([a, b, c, d])
    }
    #[inline(always)]
    unsafe fn add_pairs(sums: Sums, pairs: Sums) -> Sums {
        let mut sums = sums;
        for i in 0..2 {
            sums.0[i] = if DOT {
                vaddq_s32(sums.0[i], pairs.0[i])
            } else {
                let two = [pairs.0[2 * i], pairs.0[2 * i + 1]];
                let two = both!(vreinterpretq_s16_s32(two));
                vpadalq_s16(sums.0[i], vpaddq_s16(two[0], two[1]))
            };
        }
        sums
    }
    #[inline(always)]
    unsafe fn add_signed(sums: Sums, w: W, x: W) -> Sums {
        let mut sums = sums;
        for i in 0..2 {
            sums.0[i] =
                if DOT { dot(sums.0[i], w[i], x[i]) } else { add_products(sums.0[i], w[i], x[i]) };
        }
        sums
    }
    #[inline(always)]
    unsafe fn after(n: usize, _sums: Sums) -> usize {
        n
    }
    #[inline(always)]
    unsafe fn sums_f32(sums: Sums) -> F {
        both!(vcvtq_f32_s32(sums.0))
    }

    #[inline(always)]
    unsafe fn number(words: W, shift: usize, mask: u32) -> F {
        let numbers = part(words, shift, mask);
        both!(vcvtq_f32_u32(numbers))
    }
    #[inline(always)]
    unsafe fn signed_number(words: W, i: usize) -> F {
        let left = [vdupq_n_s32(24 - 8 * i as i32); 2];
        let words = both!(vreinterpretq_s32_u8(words));
        let top = both!(vshlq_s32(words, left));
        let numbers = both!(vshrq_n_s32::<24>(top));
        both!(vcvtq_f32_s32(numbers))
    }
}
