//! NEON, which every AArch64 processor has: eight lanes, in two registers. What is in Rust's unstable part is in
//! assembler.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

mod bytes;
mod words;

use crate::backend::cpu::simd::Simd;
use std::arch::{aarch64::*, asm};

/// AArch64 processors; `DOT`: those with dotprod, too.
#[derive(Clone, Copy)]
pub struct Neon<const DOT: bool>;

/// What every AArch64 processor has.
pub type Baseline = Neon<false>;
/// With products of bytes that add up in 32 bits.
pub type DotProduct = Neon<true>;

/// Eight f32 lanes.
type F = [float32x4_t; 2];

/// An instruction's results for both registers of its operands.
macro_rules! both {
    ($name:ident$(::<$n:literal>)?($($operand:expr),*)) => {{
        [$name$(::<$n>)?($($operand[0]),*), $name$(::<$n>)?($($operand[1]),*)]
    }};
}
use both;

#[inline(always)]
unsafe fn load_halves(from: *const u16) -> uint16x8_t {
    vreinterpretq_u16_u8(vld1q_u8(from.cast()))
}

/// `n < 8` half-words, with zeros behind them.
#[inline(always)]
unsafe fn load_some_halves(from: *const u16, n: usize) -> uint16x8_t {
    let mut bits = [0u16; 8];
    std::ptr::copy_nonoverlapping(from.cast::<u8>(), bits.as_mut_ptr().cast(), 2 * n);
    vld1q_u16(bits.as_ptr())
}

#[inline(always)]
unsafe fn store_some_halves(to: *mut u16, v: uint16x8_t, n: usize) {
    let mut bits = [0u16; 8];
    vst1q_u16(bits.as_mut_ptr(), v);
    std::ptr::copy_nonoverlapping(bits.as_ptr().cast::<u8>(), to.cast(), 2 * n);
}

#[inline(always)]
unsafe fn widen_bf16(bits: uint16x8_t) -> F {
    let (low, high) = (vget_low_u16(bits), vget_high_u16(bits));
    let words = [low, high];
    let words = both!(vshll_n_u16::<16>(words));
    both!(vreinterpretq_f32_u32(words))
}

/// Round to nearest even by adding 0x7fff and the lowest kept bit; a NaN keeps its top bits and becomes quiet.
#[inline(always)]
unsafe fn narrow_bf16(v: F) -> uint16x8_t {
    let bits = both!(vreinterpretq_u32_f32(v));
    let (one, half) = ([vdupq_n_u32(1); 2], [vdupq_n_u32(0x7fff); 2]);
    let high = both!(vshrq_n_u32::<16>(bits));
    let odd = both!(vandq_u32(high, one));
    let rounding = both!(vaddq_u32(odd, half));
    let rounded = both!(vaddq_u32(bits, rounding));
    let quiet = both!(vorrq_u32(bits, [vdupq_n_u32(0x40_0000); 2]));
    let number = both!(vceqq_f32(v, v));
    let words = both!(vbslq_u32(number, rounded, quiet));
    let halves = both!(vshrn_n_u32::<16>(words));
    vcombine_u16(halves[0], halves[1])
}

#[inline(always)]
unsafe fn widen_f16(bits: uint16x8_t) -> F {
    let (low, high): (float32x4_t, float32x4_t);
    asm!("fcvtl {low:v}.4s, {bits:v}.4h", low = out(vreg) low, bits = in(vreg) bits,
        options(pure, nomem, nostack, preserves_flags));
    asm!("fcvtl2 {high:v}.4s, {bits:v}.8h", high = out(vreg) high, bits = in(vreg) bits,
        options(pure, nomem, nostack, preserves_flags));
    [low, high]
}

#[inline(always)]
unsafe fn narrow_f16(v: F) -> uint16x8_t {
    let mut bits: uint16x8_t;
    asm!("fcvtn {bits:v}.4h, {low:v}.4s", "fcvtn2 {bits:v}.8h, {high:v}.4s",
        bits = out(vreg) bits, low = in(vreg) v[0], high = in(vreg) v[1],
        options(pure, nomem, nostack, preserves_flags));
    bits
}

impl<const DOT: bool> Simd for Neon<DOT> {
    const LANES: usize = 8;
    const TILE_COLUMNS: usize = 4;
    const TILES: usize = 1;
    const AHEAD: usize = 0;
    type F = F;
    type M = [uint32x4_t; 2];

    #[inline(always)]
    unsafe fn zero() -> F {
        [vdupq_n_f32(0.0); 2]
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> F {
        [vdupq_n_f32(value); 2]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> F {
        [vld1q_f32(from), vld1q_f32(from.add(4))]
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: F) {
        vst1q_f32(to, v[0]);
        vst1q_f32(to.add(4), v[1]);
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> F {
        let mut lanes = [0.0f32; 8];
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), lanes.as_mut_ptr().cast(), 4 * n);
        Self::load(lanes.as_ptr())
    }
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: F, n: usize) {
        let mut lanes = [0.0f32; 8];
        Self::store(lanes.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(lanes.as_ptr().cast::<u8>(), to.cast(), 4 * n);
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> F {
        widen_bf16(load_halves(from))
    }
    #[inline(always)]
    unsafe fn load_bf16_partial(from: *const u16, n: usize) -> F {
        widen_bf16(load_some_halves(from, n))
    }
    #[inline(always)]
    unsafe fn load_even_bf16(from: *const u16) -> F {
        let pairs = load_words(from.cast());
        let low = both!(vshlq_n_u32::<16>(pairs));
        both!(vreinterpretq_f32_u32(low))
    }
    #[inline(always)]
    unsafe fn load_odd_bf16(from: *const u16) -> F {
        let pairs = load_words(from.cast());
        let upper = [vdupq_n_u32(0xffff_0000); 2];
        let high = both!(vandq_u32(pairs, upper));
        both!(vreinterpretq_f32_u32(high))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> F {
        widen_f16(load_halves(from))
    }
    #[inline(always)]
    unsafe fn load_f16_partial(from: *const u16, n: usize) -> F {
        widen_f16(load_some_halves(from, n))
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: F) {
        vst1q_u8(to.cast(), vreinterpretq_u8_u16(narrow_bf16(v)))
    }
    #[inline(always)]
    unsafe fn store_bf16_partial(to: *mut u16, v: F, n: usize) {
        store_some_halves(to, narrow_bf16(v), n)
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, v: F) {
        vst1q_u8(to.cast(), vreinterpretq_u8_u16(narrow_f16(v)))
    }
    #[inline(always)]
    unsafe fn store_f16_partial(to: *mut u16, v: F, n: usize) {
        store_some_halves(to, narrow_f16(v), n)
    }

    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        both!(vaddq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        both!(vsubq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        both!(vmulq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        both!(vdivq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        both!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        both!(larger(a, b))
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        Self::select(Self::less(a, b), a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        both!(vabsq_f32(a))
    }
    #[inline(always)]
    unsafe fn copysign(a: F, sign: F) -> F {
        let bit = [vdupq_n_u32(1 << 31); 2];
        both!(vbslq_f32(bit, sign, a))
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        both!(vrndnq_f32(a))
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_2(a: F, n: F) -> F {
        both!(scaled(a, n))
    }
    #[inline(always)]
    unsafe fn swap_pairs(a: F) -> F {
        both!(vrev64q_f32(a))
    }
    #[inline(always)]
    unsafe fn less(a: F, b: F) -> [uint32x4_t; 2] {
        both!(vcltq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn select(mask: [uint32x4_t; 2], yes: F, no: F) -> F {
        both!(vbslq_f32(mask, yes, no))
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        let four = vaddq_f32(a[0], a[1]);
        let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
    }
    #[inline(always)]
    unsafe fn max_lane(a: F) -> f32 {
        let four = larger(a[0], a[1]);
        let two = larger(four, vextq_f32::<2>(four, four));
        vgetq_lane_f32::<0>(larger(two, vdupq_laneq_f32::<1>(two)))
    }
    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block, reason = "an empty block reads nothing")]
    unsafe fn same_address(at: *const u8) -> *const u8 {
        let mut at = at;
        asm!("/* {at} */", at = inout(reg) at, options(pure, nomem, nostack, preserves_flags));
        at
    }
    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block, reason = "no value depends on it")]
    unsafe fn prefetch(at: *const u8) {
        asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nomem, nostack, preserves_flags));
    }
}

#[inline(always)]
unsafe fn load_words(from: *const u8) -> [uint32x4_t; 2] {
    let bytes = [vld1q_u8(from), vld1q_u8(from.add(16))];
    both!(vreinterpretq_u32_u8(bytes))
}

/// `a > b ? a : b`, unlike the processor's own maxima of NaN.
#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcgtq_f32(a, b), a, b)
}

/// `a · 2^n` in two steps, since 2^n alone may be no normal number.
#[inline(always)]
unsafe fn scaled(a: float32x4_t, n: float32x4_t) -> float32x4_t {
    let n = vcvtq_s32_f32(n);
    let first = vshrq_n_s32::<1>(n);
    vmulq_f32(vmulq_f32(a, power_of_2(first)), power_of_2(vsubq_s32(n, first)))
}

#[inline(always)]
unsafe fn power_of_2(n: int32x4_t) -> float32x4_t {
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))))
}
