//! The quantised kernels' vectors with VNNI: AVX2's, but for the dot products.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::Avx512;
use crate::backend::cpu::blocks::bytes::Bytes;
use crate::backend::cpu::x86::avx2::{Avx2, bytes::group};
use std::arch::x86_64::*;

#[inline(always)]
unsafe fn to_f32<const C: usize>(sums: [__m256i; C]) -> [__m256; C] {
    let mut lanes = [_mm256_setzero_ps(); C];
    for c in 0..C {
        lanes[c] = _mm256_cvtepi32_ps(sums[c]);
    }
    lanes
}

impl Bytes for Avx512 {
    type Eight = Avx2;
    type B = __m256i;
    const DOT_COLUMNS: usize = 6;

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m256i {
        Avx2::load_bytes(from)
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, v: __m256i) {
        Avx2::store_bytes(to, v)
    }
    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> __m256i {
        Avx2::load_nibbles(from)
    }
    #[inline(always)]
    unsafe fn spread_bits(bits: u32, value: u8) -> __m256i {
        _mm256_maskz_set1_epi8(bits, value as i8)
    }
    #[inline(always)]
    unsafe fn field(v: __m256i, shift: usize, mask: u8) -> __m256i {
        Avx2::field(v, shift, mask)
    }
    #[inline(always)]
    unsafe fn shift_left<const N: i32>(v: __m256i) -> __m256i {
        Avx2::shift_left::<N>(v)
    }
    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        Avx2::or(a, b)
    }
    #[inline(always)]
    unsafe fn lookup(table: &[i8; 16], v: __m256i) -> __m256i {
        Avx2::lookup(table, v)
    }

    #[inline(always)]
    unsafe fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
        Avx2::transpose(rows)
    }

    #[inline(always)]
    unsafe fn dot_unsigned<const C: usize, const FIRST: usize, const N: usize, const RUN: usize>(
        w: &[__m256i; 8],
        x: &[*const u8; C],
    ) -> [__m256; C] {
        let mut sums = [_mm256_setzero_si256(); C];
        for g in FIRST..FIRST + N {
            for c in 0..C {
                sums[c] = _mm256_dpbusd_epi32(sums[c], w[g], group(x[c], g));
            }
        }
        to_f32(sums)
    }
    #[inline(always)]
    unsafe fn dot_signed<const C: usize>(w: &[__m256i; 8], x: &[*const u8; C]) -> [__m256; C] {
        let mut sums = [_mm256_setzero_si256(); C];
        for g in 0..8 {
            // w · x = |w| · (sign of w applied to x).
            let magnitude = _mm256_abs_epi8(w[g]);
            for c in 0..C {
                let signed = _mm256_sign_epi8(group(x[c], g), w[g]);
                sums[c] = _mm256_dpbusd_epi32(sums[c], magnitude, signed);
            }
        }
        to_f32(sums)
    }

    #[inline(always)]
    unsafe fn widen_unsigned(v: __m256i) -> [__m256; 4] {
        Avx2::widen_unsigned(v)
    }
    #[inline(always)]
    unsafe fn widen_signed(v: __m256i) -> [__m256; 4] {
        Avx2::widen_signed(v)
    }
    #[inline(always)]
    unsafe fn narrow(v: [__m256; 4]) -> __m256i {
        Avx2::narrow(v)
    }
    #[inline(always)]
    unsafe fn f16(bits: u16) -> f32 {
        Avx2::f16(bits)
    }
    #[inline(always)]
    unsafe fn gather_f16(rows: &[*const u8; 8], at: usize) -> __m256 {
        Avx2::gather_f16(rows, at)
    }
    #[inline(always)]
    unsafe fn gather_words(rows: &[*const u8; 8], at: usize) -> __m256i {
        Avx2::gather_words(rows, at)
    }
    #[inline(always)]
    unsafe fn gather_four_words(rows: &[*const u8; 8], at: usize) -> [__m256i; 4] {
        Avx2::gather_four_words(rows, at)
    }
    #[inline(always)]
    unsafe fn words_f16(words: __m256i) -> (__m256, __m256) {
        Avx2::words_f16(words)
    }
    #[inline(always)]
    unsafe fn words_field(words: __m256i, shift: usize, mask: u32) -> __m256 {
        Avx2::words_field(words, shift, mask)
    }
    #[inline(always)]
    unsafe fn words_signed_byte(words: __m256i, i: usize) -> __m256 {
        Avx2::words_signed_byte(words, i)
    }
}
