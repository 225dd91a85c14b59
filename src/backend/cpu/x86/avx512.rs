//! AVX-512 F, BW, VL and VNNI: sixteen lanes.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

mod bytes;
mod words;

use super::avx2::four_sums;
use crate::backend::cpu::simd::Simd;
use std::arch::{asm, x86_64::*};

/// Processors with avx512f, avx512bw, avx512vl and avx512vnni, beside what [`Avx2`](super::avx2::Avx2) needs.
#[derive(Clone, Copy)]
pub struct Avx512;

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

#[inline(always)]
unsafe fn widen_bf16(bits: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

/// Round to nearest even by adding 0x7fff and the lowest kept bit; a NaN keeps its top bits and becomes quiet.
#[inline(always)]
unsafe fn narrow_bf16(v: __m512) -> __m256i {
    let bits = _mm512_castps_si512(v);
    let high = _mm512_srli_epi32::<16>(bits);
    let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    let rounding = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, rounding));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
    let halves = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
    _mm512_cvtepi32_epi16(halves)
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
const TO_F16: i32 = _MM_FROUND_TO_NEAREST_INT;

impl Simd for Avx512 {
    const LANES: usize = 16;
    const TILE_COLUMNS: usize = 12;
    const TILES: usize = 2;
    /// Further than a page, where the guess of Intel's processors ends.
    const AHEAD: usize = 4096;
    type F = __m512;
    type M = __mmask16;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        _mm512_setzero_ps()
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        _mm512_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        _mm512_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        _mm512_storeu_ps(to, v)
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> __m512 {
        _mm512_maskz_loadu_ps(first(n), from)
    }
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: __m512, n: usize) {
        _mm512_mask_storeu_ps(to, first(n), v)
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        widen_bf16(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16_partial(from: *const u16, n: usize) -> __m512 {
        widen_bf16(_mm256_maskz_loadu_epi16(first(n), from.cast()))
    }
    #[inline(always)]
    unsafe fn load_even_bf16(from: *const u16) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_odd_bf16(from: *const u16) -> __m512 {
        let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from.cast()), upper))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_f16_partial(from: *const u16, n: usize) -> __m512 {
        _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), from.cast()))
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: __m512) {
        _mm256_storeu_si256(to.cast(), narrow_bf16(v))
    }
    #[inline(always)]
    unsafe fn store_bf16_partial(to: *mut u16, v: __m512, n: usize) {
        _mm256_mask_storeu_epi16(to.cast(), first(n), narrow_bf16(v))
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, v: __m512) {
        _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<TO_F16>(v))
    }
    #[inline(always)]
    unsafe fn store_f16_partial(to: *mut u16, v: __m512, n: usize) {
        _mm256_mask_storeu_epi16(to.cast(), first(n), _mm512_cvtps_ph::<TO_F16>(v))
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        _mm512_abs_ps(a)
    }
    #[inline(always)]
    unsafe fn copysign(a: __m512, sign: __m512) -> __m512 {
        let bit = _mm512_set1_epi32(i32::MIN);
        let (a, sign) = (_mm512_castps_si512(a), _mm512_castps_si512(sign));
        // Ternary logic 0xca: bit ? sign : a.
        _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0xca>(bit, sign, a))
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        _mm512_roundscale_ps::<NEAREST>(a)
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_2(a: __m512, n: __m512) -> __m512 {
        _mm512_scalef_ps(a, n)
    }
    #[inline(always)]
    unsafe fn swap_pairs(a: __m512) -> __m512 {
        _mm512_permute_ps::<0b10_11_00_01>(a)
    }
    #[inline(always)]
    unsafe fn less(a: __m512, b: __m512) -> __mmask16 {
        _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b)
    }
    #[inline(always)]
    unsafe fn select(mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
        _mm512_mask_blend_ps(mask, no, yes)
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        let eight = _mm256_add_ps(low(a), high(a));
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    unsafe fn store_sums(to: *mut f32, [a, b, c, d]: [__m512; 4], factor: f32) {
        let eights = [
            _mm256_add_ps(low(a), high(a)),
            _mm256_add_ps(low(b), high(b)),
            _mm256_add_ps(low(c), high(c)),
            _mm256_add_ps(low(d), high(d)),
        ];
        _mm_storeu_ps(to, _mm_mul_ps(four_sums(eights), _mm_set1_ps(factor)));
    }
    #[inline(always)]
    unsafe fn max_lane(a: __m512) -> f32 {
        let eight = _mm256_max_ps(low(a), high(a));
        let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block, reason = "an empty block reads nothing")]
    unsafe fn same_address(at: *const u8) -> *const u8 {
        let mut at = at;
        asm!("/* {at} */", at = inout(reg) at, options(pure, nomem, nostack, preserves_flags));
        at
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(at.cast())
    }
}

#[inline(always)]
unsafe fn low(a: __m512) -> __m256 {
    _mm512_castps512_ps256(a)
}

#[inline(always)]
unsafe fn high(a: __m512) -> __m256 {
    _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a)))
}
