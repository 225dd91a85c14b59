//! The readable variant of the quantised kernels' vectors.

use super::Portable;
use crate::backend::cpu::blocks::bytes::Bytes;
use half::f16;

type B = [u8; 32];

/// Row r in lane r; exact, since 32 · 255 · 128 is below 2^24.
#[inline(always)]
unsafe fn dot<const C: usize>(
    groups: std::ops::Range<usize>,
    weight: impl Fn(usize, usize) -> i32,
    x: &[*const u8; C],
) -> [[f32; 8]; C] {
    let mut sums = [[0i32; 8]; C];
    for g in groups {
        for (sums, x) in sums.iter_mut().zip(x) {
            // SAFETY: the caller's pointers are valid for 32 bytes.
            let x = unsafe { x.add(4 * g).cast::<[i8; 4]>().read_unaligned() };
            for (r, sum) in sums.iter_mut().enumerate() {
                for (b, &x) in x.iter().enumerate() {
                    *sum += weight(g, 4 * r + b) * i32::from(x);
                }
            }
        }
    }
    sums.map(|lanes| lanes.map(|lane| lane as f32))
}

#[inline(always)]
fn widen(value: impl Fn(usize) -> f32) -> [[f32; 8]; 4] {
    let mut vectors = [[0.0; 8]; 4];
    for i in 0..32 {
        vectors[i / 8][i % 8] = value(i);
    }
    vectors
}

#[inline(always)]
unsafe fn f16_at(row: *const u8, at: usize) -> f32 {
    // SAFETY: the caller's row holds two bytes there.
    f16::from_bits(unsafe { row.add(at).cast::<u16>().read_unaligned() }).to_f32()
}

impl Bytes for Portable {
    type Eight = Portable;
    type B = B;
    const DOT_COLUMNS: usize = 4;

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> B {
        // SAFETY: the caller's pointer is valid for 32 bytes.
        unsafe { from.cast::<B>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, v: B) {
        // SAFETY: the caller's pointer is valid for 32 bytes.
        unsafe { to.cast::<B>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> B {
        // SAFETY: the caller's pointer is valid for 16 bytes.
        let packed = unsafe { from.cast::<[u8; 16]>().read_unaligned() };
        let mut v = [0; 32];
        for i in 0..16 {
            v[i] = packed[i] & 15;
            v[i + 16] = packed[i] >> 4;
        }
        v
    }
    #[inline(always)]
    unsafe fn spread_bits(bits: u32, value: u8) -> B {
        let mut v = [0; 32];
        for (i, byte) in v.iter_mut().enumerate() {
            *byte = if (bits >> i) & 1 == 1 { value } else { 0 };
        }
        v
    }
    #[inline(always)]
    unsafe fn field(v: B, shift: usize, mask: u8) -> B {
        v.map(|byte| (byte >> shift) & mask)
    }
    #[inline(always)]
    unsafe fn shift_left<const N: i32>(v: B) -> B {
        v.map(|byte| byte << N)
    }
    #[inline(always)]
    unsafe fn or(a: B, b: B) -> B {
        let mut v = a;
        for i in 0..32 {
            v[i] |= b[i];
        }
        v
    }
    #[inline(always)]
    unsafe fn lookup(table: &[i8; 16], v: B) -> B {
        v.map(|byte| table[usize::from(byte & 15)] as u8)
    }

    #[inline(always)]
    unsafe fn transpose(rows: [B; 8]) -> [B; 8] {
        let mut groups = [[0; 32]; 8];
        for (r, row) in rows.iter().enumerate() {
            for (g, bytes) in row.chunks_exact(4).enumerate() {
                groups[g][4 * r..4 * r + 4].copy_from_slice(bytes);
            }
        }
        groups
    }

    #[inline(always)]
    unsafe fn dot_unsigned<const C: usize, const FIRST: usize, const N: usize, const RUN: usize>(
        w: &[B; 8],
        x: &[*const u8; C],
    ) -> [[f32; 8]; C] {
        // SAFETY: the caller's contract.
        unsafe { dot(FIRST..FIRST + N, |g, i| i32::from(w[g][i]), x) }
    }
    #[inline(always)]
    unsafe fn dot_signed<const C: usize>(w: &[B; 8], x: &[*const u8; C]) -> [[f32; 8]; C] {
        // SAFETY: the caller's contract.
        unsafe { dot(0..8, |g, i| i32::from(w[g][i] as i8), x) }
    }

    #[inline(always)]
    unsafe fn widen_unsigned(v: B) -> [[f32; 8]; 4] {
        widen(|i| f32::from(v[i]))
    }
    #[inline(always)]
    unsafe fn widen_signed(v: B) -> [[f32; 8]; 4] {
        widen(|i| f32::from(v[i] as i8))
    }
    #[inline(always)]
    unsafe fn narrow(v: [[f32; 8]; 4]) -> B {
        let mut bytes = [0; 32];
        for i in 0..32 {
            bytes[i] = v[i / 8][i % 8].round_ties_even() as i8 as u8;
        }
        bytes
    }
    #[inline(always)]
    unsafe fn f16(bits: u16) -> f32 {
        f16::from_bits(bits).to_f32()
    }
    #[inline(always)]
    unsafe fn gather_f16(rows: &[*const u8; 8], at: usize) -> [f32; 8] {
        // SAFETY: the caller's contract.
        rows.map(|row| unsafe { f16_at(row, at) })
    }
    #[inline(always)]
    unsafe fn gather_words(rows: &[*const u8; 8], at: usize) -> B {
        let mut words = [0; 32];
        for (word, row) in words.chunks_exact_mut(4).zip(rows) {
            // SAFETY: the caller's rows hold four bytes there.
            word.copy_from_slice(&unsafe { row.add(at).cast::<[u8; 4]>().read_unaligned() });
        }
        words
    }
    #[inline(always)]
    unsafe fn gather_four_words(rows: &[*const u8; 8], at: usize) -> [B; 4] {
        // SAFETY: the caller's contract.
        [0, 4, 8, 12].map(|i| unsafe { Self::gather_words(rows, at + i) })
    }
    #[inline(always)]
    unsafe fn words_f16(words: B) -> ([f32; 8], [f32; 8]) {
        let number = |at: usize| f16::from_le_bytes([words[at], words[at + 1]]).to_f32();
        let lanes = [0, 1, 2, 3, 4, 5, 6, 7];
        (lanes.map(|r| number(4 * r)), lanes.map(|r| number(4 * r + 2)))
    }
    #[inline(always)]
    unsafe fn words_field(words: B, shift: usize, mask: u32) -> [f32; 8] {
        let mut lanes = [0.0; 8];
        for (lane, word) in lanes.iter_mut().zip(words.chunks_exact(4)) {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            *lane = ((word >> shift) & mask) as f32;
        }
        lanes
    }
    #[inline(always)]
    unsafe fn words_signed_byte(words: B, i: usize) -> [f32; 8] {
        [0, 1, 2, 3, 4, 5, 6, 7].map(|r| f32::from(words[4 * r + i] as i8))
    }
}
