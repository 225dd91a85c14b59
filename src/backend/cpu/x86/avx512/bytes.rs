//! The chunks of single rows: AVX2's vectors.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::Avx512;
use crate::backend::cpu::blocks::bytes::Bytes;
use crate::backend::cpu::x86::avx2::Avx2;
use std::arch::x86_64::*;

impl Bytes for Avx512 {
    type Eight = Avx2;
    type B = __m256i;

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
}
