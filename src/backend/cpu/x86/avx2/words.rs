//! Words of eight rows in AVX2.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::Avx2;
use crate::backend::cpu::blocks::words::Words;
use std::arch::{asm, x86_64::*};

impl Words for Avx2 {
    type W = __m256i;
    type Sums = __m256i;
    const DOT_COLUMNS: usize = 4;
    const SIGNED_EXCESS: f32 = 0.0;

    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> __m256i {
        _mm256_loadu_si256(from.cast())
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, v: __m256i) {
        _mm256_storeu_si256(to.cast(), v)
    }
    #[inline(always)]
    unsafe fn splat_word(from: *const u8) -> __m256i {
        _mm256_set1_epi32(from.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn widen_halves(from: *const u8) -> __m256i {
        _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()))
    }
    #[inline(always)]
    unsafe fn widen_bytes(from: *const u8) -> __m256i {
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))
    }
    #[inline(always)]
    unsafe fn bits(v: __m256i, shift: usize, mask: u8) -> __m256i {
        let shifted = _mm256_srl_epi16(v, _mm_cvtsi32_si128(shift as i32));
        _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
    }
    #[inline(always)]
    unsafe fn raise<const N: i32>(v: __m256i) -> __m256i {
        _mm256_slli_epi16::<N>(v)
    }
    #[inline(always)]
    unsafe fn merge(a: __m256i, b: __m256i) -> __m256i {
        _mm256_or_si256(a, b)
    }
    #[inline(always)]
    unsafe fn level(table: &[i8; 16], v: __m256i) -> __m256i {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        _mm256_shuffle_epi8(table, v)
    }

    #[inline(always)]
    unsafe fn no_sums() -> __m256i {
        _mm256_setzero_si256()
    }
    #[inline(always)]
    unsafe fn add_unsigned(pairs: __m256i, w: __m256i, x: __m256i) -> __m256i {
        _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w, x))
    }
    #[inline(always)]
    unsafe fn add_pairs(sums: __m256i, pairs: __m256i) -> __m256i {
        _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
    #[inline(always)]
    unsafe fn add_signed(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // w · x = |w| · (sign of w applied to x); a pair is at most 2 · 128 · 127 = 32,512.
        let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
        _mm256_add_epi32(sums, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
    }
    #[inline(always)]
    unsafe fn after(n: usize, sums: __m256i) -> usize {
        let (mut n, sums) = (n, _mm256_castsi256_si128(sums));
        asm!("/* {n} {sums} */", n = inout(reg) n, sums = in(xmm_reg) sums,
            options(pure, nomem, nostack, preserves_flags));
        n
    }
    #[inline(always)]
    unsafe fn sums_f32(sums: __m256i) -> __m256 {
        _mm256_cvtepi32_ps(sums)
    }

    #[inline(always)]
    unsafe fn number(words: __m256i, shift: usize, mask: u32) -> __m256 {
        let shifted = _mm256_srl_epi32(words, _mm_cvtsi32_si128(shift as i32));
        _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(mask as i32)))
    }
    #[inline(always)]
    unsafe fn signed_number(words: __m256i, i: usize) -> __m256 {
        let top = _mm256_sll_epi32(words, _mm_cvtsi32_si128(24 - 8 * i as i32));
        _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(top))
    }
}
