//! The quantised kernels' vectors in AVX2.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::Avx2;
use crate::backend::cpu::blocks::bytes::Bytes;
use std::arch::x86_64::*;

#[inline(always)]
unsafe fn quarters(v: __m256i) -> [__m128i; 4] {
    let (low, high) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    [low, _mm_srli_si128::<8>(low), high, _mm_srli_si128::<8>(high)]
}

impl Bytes for Avx2 {
    type Eight = Avx2;
    type B = __m256i;

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m256i {
        _mm256_loadu_si256(from.cast())
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, v: __m256i) {
        _mm256_storeu_si256(to.cast(), v)
    }
    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> __m256i {
        let packed = _mm_loadu_si128(from.cast());
        let both = _mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed);
        _mm256_and_si256(both, _mm256_set1_epi8(15))
    }
    #[inline(always)]
    unsafe fn spread_bits(bits: u32, value: u8) -> __m256i {
        // Byte i gets bits' byte i / 8, then everything but bit i % 8 becomes ones: −1 where it was set.
        let source = _mm256_setr_epi64x(
            0,
            0x0101_0101_0101_0101,
            0x0202_0202_0202_0202,
            0x0303_0303_0303_0303,
        );
        let others = _mm256_set1_epi64x(0x7fbf_dfef_f7fb_fdfe);
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), source);
        let ones = _mm256_cmpeq_epi8(_mm256_or_si256(bytes, others), _mm256_set1_epi8(-1));
        _mm256_and_si256(ones, _mm256_set1_epi8(value as i8))
    }
    #[inline(always)]
    unsafe fn field(v: __m256i, shift: usize, mask: u8) -> __m256i {
        let shifted = _mm256_srl_epi16(v, _mm_cvtsi32_si128(shift as i32));
        _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
    }
    #[inline(always)]
    unsafe fn shift_left<const N: i32>(v: __m256i) -> __m256i {
        _mm256_slli_epi16::<N>(v)
    }
    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        _mm256_or_si256(a, b)
    }
    #[inline(always)]
    unsafe fn lookup(table: &[i8; 16], v: __m256i) -> __m256i {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        _mm256_shuffle_epi8(table, v)
    }

    #[inline(always)]
    unsafe fn widen_unsigned(v: __m256i) -> [__m256; 4] {
        let [a, b, c, d] = quarters(v);
        [
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(a)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(c)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(d)),
        ]
    }
    #[inline(always)]
    unsafe fn widen_signed(v: __m256i) -> [__m256; 4] {
        let [a, b, c, d] = quarters(v);
        [
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(a)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(c)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(d)),
        ]
    }
    #[inline(always)]
    unsafe fn narrow(v: [__m256; 4]) -> __m256i {
        // The packs work within 128-bit halves; the last permutation restores the order.
        let ab = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
        let cd = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2]), _mm256_cvtps_epi32(v[3]));
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, cd), order)
    }
    #[inline(always)]
    unsafe fn f16(bits: u16) -> f32 {
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
    }
}
