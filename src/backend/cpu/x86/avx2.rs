//! AVX2, FMA and F16C: eight lanes.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

mod bytes;
mod words;

use crate::backend::cpu::simd::Simd;
use std::arch::{asm, x86_64::*};

/// Processors with avx2, fma and f16c.
#[derive(Clone, Copy)]
pub struct Avx2;

/// Sixteen words of which a window of eight, from `8 − n`, has ones in its first `n`.
static PARTIAL: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn first(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    _mm256_loadu_si256(PARTIAL.as_ptr().add(8 - n).cast())
}

/// `n < 8` half-words, with zeros behind them.
#[inline(always)]
unsafe fn load_halves(from: *const u16, n: usize) -> __m128i {
    let mut bits = [0u16; 8];
    std::ptr::copy_nonoverlapping(from.cast::<u8>(), bits.as_mut_ptr().cast(), 2 * n);
    _mm_loadu_si128(bits.as_ptr().cast())
}

#[inline(always)]
unsafe fn store_halves(to: *mut u16, v: __m128i, n: usize) {
    let mut bits = [0u16; 8];
    _mm_storeu_si128(bits.as_mut_ptr().cast(), v);
    std::ptr::copy_nonoverlapping(bits.as_ptr().cast::<u8>(), to.cast(), 2 * n);
}

#[inline(always)]
unsafe fn widen_bf16(bits: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
}

/// Round to nearest even by adding 0x7fff and the lowest kept bit; a NaN keeps its top bits and becomes quiet.
#[inline(always)]
unsafe fn narrow_bf16(v: __m256) -> __m128i {
    let bits = _mm256_castps_si256(v);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounding = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, rounding));
    let quiet = _mm256_or_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(0x40));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
    let halves = _mm256_blendv_epi8(rounded, quiet, nan);
    _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves))
}

/// `low half + high half` of two vectors.
#[inline(always)]
unsafe fn add_halves(a: __m256, b: __m256) -> __m256 {
    let (low, high) = (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
    _mm256_add_ps(low, high)
}

/// The sums of four vectors, halves added until one is left.
#[inline(always)]
pub(super) unsafe fn four_sums([a, b, c, d]: [__m256; 4]) -> __m128 {
    let ab = _mm256_castps_pd(add_halves(a, b));
    let cd = _mm256_castps_pd(add_halves(c, d));
    let low = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
    let high = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
    let quarters = _mm256_add_ps(low, high);
    // By a shift: the compiler would make a horizontal addition of a shuffle, which takes several steps.
    let odd = _mm256_srli_epi64::<32>(_mm256_castps_si256(quarters));
    let sums = _mm256_add_ps(quarters, _mm256_castsi256_ps(odd));
    // In lanes 0 and 2: a and c, b and d.
    let (ac, bd) = (_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
    _mm_blend_ps::<0b1010>(ac, _mm_moveldup_ps(bd))
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl Simd for Avx2 {
    const LANES: usize = 8;
    const TILE_COLUMNS: usize = 6;
    const TILES: usize = 1;
    const AHEAD: usize = 0;
    type F = __m256;
    type M = __m256;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        _mm256_setzero_ps()
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        _mm256_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        _mm256_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m256) {
        _mm256_storeu_ps(to, v)
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> __m256 {
        _mm256_maskload_ps(from, first(n))
    }
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: __m256, n: usize) {
        _mm256_maskstore_ps(to, first(n), v)
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m256 {
        widen_bf16(_mm_loadu_si128(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16_partial(from: *const u16, n: usize) -> __m256 {
        widen_bf16(load_halves(from, n))
    }
    #[inline(always)]
    unsafe fn load_even_bf16(from: *const u16) -> __m256 {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_loadu_si256(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_odd_bf16(from: *const u16) -> __m256 {
        let mut upper = 0xffff_0000_u32;
        // Were the mask known, the compiler would blend, which on some processors takes the multipliers' place.
        asm!("/* {upper:e} */", upper = inout(reg) upper,
            options(pure, nomem, nostack, preserves_flags));
        let upper = _mm256_set1_epi32(upper as i32);
        _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(from.cast()), upper))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m256 {
        _mm256_cvtph_ps(_mm_loadu_si128(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_f16_partial(from: *const u16, n: usize) -> __m256 {
        _mm256_cvtph_ps(load_halves(from, n))
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: __m256) {
        _mm_storeu_si128(to.cast(), narrow_bf16(v))
    }
    #[inline(always)]
    unsafe fn store_bf16_partial(to: *mut u16, v: __m256, n: usize) {
        store_halves(to, narrow_bf16(v), n)
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, v: __m256) {
        _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
    }
    #[inline(always)]
    unsafe fn store_f16_partial(to: *mut u16, v: __m256, n: usize) {
        store_halves(to, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v), n)
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        _mm256_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        _mm256_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        _mm256_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        _mm256_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        _mm256_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn abs(a: __m256) -> __m256 {
        _mm256_andnot_ps(_mm256_set1_ps(-0.0), a)
    }
    #[inline(always)]
    unsafe fn copysign(a: __m256, sign: __m256) -> __m256 {
        let bit = _mm256_set1_ps(-0.0);
        _mm256_or_ps(_mm256_andnot_ps(bit, a), _mm256_and_ps(bit, sign))
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        _mm256_round_ps::<NEAREST>(a)
    }
    #[inline(always)]
    unsafe fn scale_by_power_of_2(a: __m256, n: __m256) -> __m256 {
        let n = _mm256_cvtps_epi32(n);
        let low = _mm256_srai_epi32::<1>(n);
        let bias = _mm256_set1_epi32(127);
        let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(low, bias));
        let second = _mm256_sub_epi32(n, low);
        let second = _mm256_slli_epi32::<23>(_mm256_add_epi32(second, bias));
        _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))
    }
    #[inline(always)]
    unsafe fn swap_pairs(a: __m256) -> __m256 {
        _mm256_permute_ps::<0b10_11_00_01>(a)
    }
    #[inline(always)]
    unsafe fn less(a: __m256, b: __m256) -> __m256 {
        _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)
    }
    #[inline(always)]
    unsafe fn select(mask: __m256, yes: __m256, no: __m256) -> __m256 {
        _mm256_blendv_ps(no, yes, mask)
    }
    #[inline(always)]
    unsafe fn sum(a: __m256) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    unsafe fn store_sums(to: *mut f32, vectors: [__m256; 4], factor: f32) {
        _mm_storeu_ps(to, _mm_mul_ps(four_sums(vectors), _mm_set1_ps(factor)));
    }
    #[inline(always)]
    unsafe fn max_lane(a: __m256) -> f32 {
        let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
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
