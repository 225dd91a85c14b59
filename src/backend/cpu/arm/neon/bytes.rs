//! The quantised kernels' vectors in NEON.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::{F, Neon, both, widen_f16};
use crate::backend::cpu::blocks::bytes::Bytes;
use std::arch::aarch64::*;

/// 32 bytes.
type B = [uint8x16_t; 2];

/// `(byte >> shift) & mask`, for `mask <= 255 >> shift`.
#[inline(always)]
pub(super) unsafe fn field(v: B, shift: usize, mask: u8) -> B {
    let right = [vdupq_n_s8(-(shift as i8)); 2];
    let shifted = both!(vshlq_u8(v, right));
    both!(vandq_u8(shifted, [vdupq_n_u8(mask); 2]))
}

#[inline(always)]
unsafe fn f32_of_unsigned(v: uint16x8_t) -> F {
    let halves = [vget_low_u16(v), vget_high_u16(v)];
    let words = both!(vmovl_u16(halves));
    both!(vcvtq_f32_u32(words))
}

#[inline(always)]
unsafe fn f32_of_signed(v: int16x8_t) -> F {
    let halves = [vget_low_s16(v), vget_high_s16(v)];
    let words = both!(vmovl_s16(halves));
    both!(vcvtq_f32_s32(words))
}

/// The nearest integers, ties to even.
#[inline(always)]
unsafe fn nearest(v: F) -> int16x8_t {
    let words = both!(vcvtnq_s32_f32(v));
    vcombine_s16(vmovn_s32(words[0]), vmovn_s32(words[1]))
}

impl<const DOT: bool> Bytes for Neon<DOT> {
    type Eight = Neon<DOT>;
    type B = B;

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> B {
        [vld1q_u8(from), vld1q_u8(from.add(16))]
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, v: B) {
        vst1q_u8(to, v[0]);
        vst1q_u8(to.add(16), v[1]);
    }
    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> B {
        let packed = vld1q_u8(from);
        [vandq_u8(packed, vdupq_n_u8(15)), vshrq_n_u8::<4>(packed)]
    }
    #[inline(always)]
    unsafe fn spread_bits(bits: u32, value: u8) -> B {
        // Byte i gets bits' byte i / 8, of which bit i % 8 is tested.
        let bytes = [vreinterpretq_u8_u32(vdupq_n_u32(bits)); 2];
        let low = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
        let source = [low, vaddq_u8(low, vdupq_n_u8(2))];
        let spread = both!(vqtbl1q_u8(bytes, source));
        let bit = [vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201)); 2];
        let set = both!(vtstq_u8(spread, bit));
        both!(vandq_u8(set, [vdupq_n_u8(value); 2]))
    }
    #[inline(always)]
    unsafe fn field(v: B, shift: usize, mask: u8) -> B {
        field(v, shift, mask)
    }
    #[inline(always)]
    unsafe fn shift_left<const N: i32>(v: B) -> B {
        both!(vshlq_u8(v, [vdupq_n_s8(N as i8); 2]))
    }
    #[inline(always)]
    unsafe fn or(a: B, b: B) -> B {
        both!(vorrq_u8(a, b))
    }
    #[inline(always)]
    unsafe fn lookup(table: &[i8; 16], v: B) -> B {
        let table = [vld1q_u8(table.as_ptr().cast()); 2];
        both!(vqtbl1q_u8(table, v))
    }

    #[inline(always)]
    unsafe fn widen_unsigned(v: B) -> [F; 4] {
        [
            f32_of_unsigned(vmovl_u8(vget_low_u8(v[0]))),
            f32_of_unsigned(vmovl_high_u8(v[0])),
            f32_of_unsigned(vmovl_u8(vget_low_u8(v[1]))),
            f32_of_unsigned(vmovl_high_u8(v[1])),
        ]
    }
    #[inline(always)]
    unsafe fn widen_signed(v: B) -> [F; 4] {
        let v = both!(vreinterpretq_s8_u8(v));
        [
            f32_of_signed(vmovl_s8(vget_low_s8(v[0]))),
            f32_of_signed(vmovl_high_s8(v[0])),
            f32_of_signed(vmovl_s8(vget_low_s8(v[1]))),
            f32_of_signed(vmovl_high_s8(v[1])),
        ]
    }
    #[inline(always)]
    unsafe fn narrow(v: [F; 4]) -> B {
        let first = vcombine_s8(vmovn_s16(nearest(v[0])), vmovn_s16(nearest(v[1])));
        let second = vcombine_s8(vmovn_s16(nearest(v[2])), vmovn_s16(nearest(v[3])));
        [vreinterpretq_u8_s8(first), vreinterpretq_u8_s8(second)]
    }
    #[inline(always)]
    unsafe fn f16(bits: u16) -> f32 {
        vgetq_lane_f32::<0>(widen_f16(vdupq_n_u16(bits))[0])
    }
}
