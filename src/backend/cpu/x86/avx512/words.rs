//! Words of sixteen rows in AVX-512 with VNNI, whose products are of unsigned with signed bytes and never saturate.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::Avx512;
use crate::backend::cpu::blocks::words::Words;
use std::arch::{asm, x86_64::*};

impl Words for Avx512 {
    type W = __m512i;
    type Sums = __m512i;
    const DOT_COLUMNS: usize = 12;
    const SIGNED_EXCESS: f32 = 128.0;

    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, v: __m512i) {
        _mm512_storeu_si512(to.cast(), v)
    }
    #[inline(always)]
    unsafe fn splat_word(from: *const u8) -> __m512i {
        _mm512_set1_epi32(from.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn widen_halves(from: *const u8) -> __m512i {
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn widen_bytes(from: *const u8) -> __m512i {
        _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))
    }
    #[inline(always)]
    unsafe fn bits(v: __m512i, shift: usize, mask: u8) -> __m512i {
        let shifted = _mm512_srl_epi16(v, _mm_cvtsi32_si128(shift as i32));
        _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
    }
    #[inline(always)]
    unsafe fn raise<const N: i32>(v: __m512i) -> __m512i {
        _mm512_sll_epi16(v, _mm_cvtsi32_si128(N))
    }
    #[inline(always)]
    unsafe fn merge(a: __m512i, b: __m512i) -> __m512i {
        _mm512_or_si512(a, b)
    }
    #[inline(always)]
    unsafe fn level(table: &[i8; 16], v: __m512i) -> __m512i {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
        _mm512_shuffle_epi8(table, v)
    }

    #[inline(always)]
    unsafe fn no_sums() -> __m512i {
        _mm512_setzero_si512()
    }
    #[inline(always)]
    unsafe fn add_unsigned(pairs: __m512i, w: __m512i, x: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(pairs, w, x)
    }
    #[inline(always)]
    unsafe fn add_pairs(sums: __m512i, pairs: __m512i) -> __m512i {
        _mm512_add_epi32(sums, pairs)
    }
    #[inline(always)]
    unsafe fn add_signed(sums: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // −128 … 127 become 0 … 255.
        _mm512_dpbusd_epi32(sums, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), x)
    }
    #[inline(always)]
    unsafe fn after(n: usize, sums: __m512i) -> usize {
        let (mut n, sums) = (n, _mm512_castsi512_si128(sums));
        asm!("/* {n} {sums} */", n = inout(reg) n, sums = in(xmm_reg) sums,
            options(pure, nomem, nostack, preserves_flags));
        n
    }
    #[inline(always)]
    unsafe fn sums_f32(sums: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(sums)
    }

    #[inline(always)]
    unsafe fn number(words: __m512i, shift: usize, mask: u32) -> __m512 {
        let shifted = _mm512_srl_epi32(words, _mm_cvtsi32_si128(shift as i32));
        _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(mask as i32)))
    }
    #[inline(always)]
    unsafe fn signed_number(words: __m512i, i: usize) -> __m512 {
        let top = _mm512_sll_epi32(words, _mm_cvtsi32_si128(24 - 8 * i as i32));
        _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(top))
    }
}
