//! The quantised kernels' vectors in AVX2.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::Avx2;
use crate::backend::cpu::blocks::bytes::Bytes;
use std::arch::x86_64::*;

/// Adds the neighbours of i16 pairs.
#[inline(always)]
unsafe fn add_pairs(pairs: __m256i) -> __m256i {
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// Group `g` of the chunk at `x`, in every lane.
#[inline(always)]
pub(in crate::backend::cpu::x86) unsafe fn group(x: *const u8, g: usize) -> __m256i {
    _mm256_set1_epi32(x.add(4 * g).cast::<i32>().read_unaligned())
}

/// 32-bit elements of an 8 × 8 square change rows with columns.
#[inline(always)]
unsafe fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let low = square(a, b, c, d);
    let high = square(e, f, g, h);
    [
        _mm256_permute2x128_si256::<0x20>(low[0], high[0]),
        _mm256_permute2x128_si256::<0x20>(low[1], high[1]),
        _mm256_permute2x128_si256::<0x20>(low[2], high[2]),
        _mm256_permute2x128_si256::<0x20>(low[3], high[3]),
        _mm256_permute2x128_si256::<0x31>(low[0], high[0]),
        _mm256_permute2x128_si256::<0x31>(low[1], high[1]),
        _mm256_permute2x128_si256::<0x31>(low[2], high[2]),
        _mm256_permute2x128_si256::<0x31>(low[3], high[3]),
    ]
}

/// The same for 4 × 4 squares in both halves.
#[inline(always)]
unsafe fn square(a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> [__m256i; 4] {
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

#[inline(always)]
unsafe fn u16_at(row: *const u8, at: usize) -> i32 {
    i32::from(row.add(at).cast::<u16>().read_unaligned())
}

#[inline(always)]
unsafe fn i32_at(row: *const u8, at: usize) -> i32 {
    row.add(at).cast::<i32>().read_unaligned()
}

#[inline(always)]
unsafe fn quarters(v: __m256i) -> [__m128i; 4] {
    let (low, high) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    [low, _mm_srli_si128::<8>(low), high, _mm_srli_si128::<8>(high)]
}

impl Bytes for Avx2 {
    type Eight = Avx2;
    type B = __m256i;
    const DOT_COLUMNS: usize = 4;

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
    unsafe fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
        transpose(rows)
    }

    #[inline(always)]
    unsafe fn dot_unsigned<const C: usize, const FIRST: usize, const N: usize, const RUN: usize>(
        w: &[__m256i; 8],
        x: &[*const u8; C],
    ) -> [__m256; C] {
        let mut sums = [_mm256_setzero_si256(); C];
        let mut run = FIRST;
        while run < FIRST + N {
            // i16 sums of a run of products; RUN is such that they do not saturate.
            let mut pairs = [_mm256_setzero_si256(); C];
            let mut g = run;
            while g < FIRST + N && g < run + RUN {
                for c in 0..C {
                    let products = _mm256_maddubs_epi16(w[g], group(x[c], g));
                    pairs[c] = _mm256_add_epi16(pairs[c], products);
                }
                g += 1;
            }
            for c in 0..C {
                sums[c] = _mm256_add_epi32(sums[c], add_pairs(pairs[c]));
            }
            run += RUN;
        }
        let mut lanes = [_mm256_setzero_ps(); C];
        for c in 0..C {
            lanes[c] = _mm256_cvtepi32_ps(sums[c]);
        }
        lanes
    }
    #[inline(always)]
    unsafe fn dot_signed<const C: usize>(w: &[__m256i; 8], x: &[*const u8; C]) -> [__m256; C] {
        let mut sums = [_mm256_setzero_si256(); C];
        for g in 0..8 {
            // w · x = |w| · (sign of w applied to x); a pair is at most 2 · 128 · 127 = 32,512.
            let magnitude = _mm256_abs_epi8(w[g]);
            for c in 0..C {
                let signed = _mm256_sign_epi8(group(x[c], g), w[g]);
                let pairs = _mm256_maddubs_epi16(magnitude, signed);
                sums[c] = _mm256_add_epi32(sums[c], add_pairs(pairs));
            }
        }
        let mut lanes = [_mm256_setzero_ps(); C];
        for c in 0..C {
            lanes[c] = _mm256_cvtepi32_ps(sums[c]);
        }
        lanes
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
    #[inline(always)]
    unsafe fn gather_f16(rows: &[*const u8; 8], at: usize) -> __m256 {
        let mut bits = _mm_cvtsi32_si128(u16_at(rows[0], at));
        bits = _mm_insert_epi16::<1>(bits, u16_at(rows[1], at));
        bits = _mm_insert_epi16::<2>(bits, u16_at(rows[2], at));
        bits = _mm_insert_epi16::<3>(bits, u16_at(rows[3], at));
        bits = _mm_insert_epi16::<4>(bits, u16_at(rows[4], at));
        bits = _mm_insert_epi16::<5>(bits, u16_at(rows[5], at));
        bits = _mm_insert_epi16::<6>(bits, u16_at(rows[6], at));
        bits = _mm_insert_epi16::<7>(bits, u16_at(rows[7], at));
        _mm256_cvtph_ps(bits)
    }
    #[inline(always)]
    unsafe fn gather_words(rows: &[*const u8; 8], at: usize) -> __m256i {
        let mut halves = [_mm_setzero_si128(); 2];
        for half in 0..2 {
            let mut words = _mm_cvtsi32_si128(i32_at(rows[4 * half], at));
            words = _mm_insert_epi32::<1>(words, i32_at(rows[4 * half + 1], at));
            words = _mm_insert_epi32::<2>(words, i32_at(rows[4 * half + 2], at));
            halves[half] = _mm_insert_epi32::<3>(words, i32_at(rows[4 * half + 3], at));
        }
        _mm256_set_m128i(halves[1], halves[0])
    }
    #[inline(always)]
    unsafe fn gather_four_words(rows: &[*const u8; 8], at: usize) -> [__m256i; 4] {
        // Rows r and r + 4 lie in the halves of a vector.
        let mut pairs = [_mm256_setzero_si256(); 4];
        for r in 0..4 {
            let low = _mm_loadu_si128(rows[r].add(at).cast());
            pairs[r] = _mm256_set_m128i(_mm_loadu_si128(rows[r + 4].add(at).cast()), low);
        }
        square(pairs[0], pairs[1], pairs[2], pairs[3])
    }
    #[inline(always)]
    unsafe fn words_f16(words: __m256i) -> (__m256, __m256) {
        let low = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
        let packed = _mm256_packus_epi32(low, _mm256_srli_epi32::<16>(words));
        // The pack left low 0–3, high 0–3, low 4–7, high 4–7.
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
        let (low, high) = (_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
        (_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
    }
    #[inline(always)]
    unsafe fn words_field(words: __m256i, shift: usize, mask: u32) -> __m256 {
        let shifted = _mm256_srl_epi32(words, _mm_cvtsi32_si128(shift as i32));
        _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(mask as i32)))
    }
    #[inline(always)]
    unsafe fn words_signed_byte(words: __m256i, i: usize) -> __m256 {
        let top = _mm256_sll_epi32(words, _mm_cvtsi32_si128(24 - 8 * i as i32));
        _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(top))
    }
}
