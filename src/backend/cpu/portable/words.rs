//! Words of eight rows, readable.

use super::Portable;
use crate::backend::cpu::blocks::words::Words;

type W = [[u8; 4]; 8];

/// What `value` gives of each word and activation word.
#[inline(always)]
fn dot(sums: [i32; 8], w: W, x: W, weight: impl Fn(u8) -> i32) -> [i32; 8] {
    let mut sums = sums;
    for r in 0..8 {
        for b in 0..4 {
            sums[r] += weight(w[r][b]) * i32::from(x[r][b] as i8);
        }
    }
    sums
}

impl Words for Portable {
    type W = W;
    type Sums = [i32; 8];
    const DOT_COLUMNS: usize = 2;
    const SIGNED_EXCESS: f32 = 0.0;

    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> W {
        // SAFETY: the caller's pointer is valid for eight words.
        unsafe { from.cast::<W>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, v: W) {
        // SAFETY: the caller's pointer is valid for eight words.
        unsafe { to.cast::<W>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat_word(from: *const u8) -> W {
        // SAFETY: the caller's pointer is valid for a word.
        [unsafe { from.cast::<[u8; 4]>().read_unaligned() }; 8]
    }
    #[inline(always)]
    unsafe fn widen_halves(from: *const u8) -> W {
        // SAFETY: the caller's pointer is valid for eight numbers.
        let halves = unsafe { from.cast::<[[u8; 2]; 8]>().read_unaligned() };
        halves.map(|[low, high]| [low, high, 0, 0])
    }
    #[inline(always)]
    unsafe fn widen_bytes(from: *const u8) -> W {
        // SAFETY: the caller's pointer is valid for eight bytes.
        unsafe { from.cast::<[u8; 8]>().read_unaligned() }.map(|byte| [byte, 0, 0, 0])
    }
    #[inline(always)]
    unsafe fn bits(v: W, shift: usize, mask: u8) -> W {
        v.map(|word| word.map(|byte| (byte >> shift) & mask))
    }
    #[inline(always)]
    unsafe fn raise<const N: i32>(v: W) -> W {
        v.map(|word| word.map(|byte| byte << N))
    }
    #[inline(always)]
    unsafe fn merge(a: W, b: W) -> W {
        let mut v = a;
        for r in 0..8 {
            for i in 0..4 {
                v[r][i] |= b[r][i];
            }
        }
        v
    }
    #[inline(always)]
    unsafe fn level(table: &[i8; 16], v: W) -> W {
        v.map(|word| word.map(|byte| table[usize::from(byte & 15)] as u8))
    }

    #[inline(always)]
    unsafe fn no_sums() -> [i32; 8] {
        [0; 8]
    }
    #[inline(always)]
    unsafe fn add_unsigned(pairs: [i32; 8], w: W, x: W) -> [i32; 8] {
        dot(pairs, w, x, i32::from)
    }
    #[inline(always)]
    unsafe fn add_pairs(sums: [i32; 8], pairs: [i32; 8]) -> [i32; 8] {
        let mut sums = sums;
        for r in 0..8 {
            sums[r] += pairs[r];
        }
        sums
    }
    #[inline(always)]
    unsafe fn add_signed(sums: [i32; 8], w: W, x: W) -> [i32; 8] {
        dot(sums, w, x, |weight| i32::from(weight as i8))
    }
    #[inline(always)]
    unsafe fn after(n: usize, _sums: [i32; 8]) -> usize {
        n
    }
    #[inline(always)]
    unsafe fn sums_f32(sums: [i32; 8]) -> [f32; 8] {
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    unsafe fn number(words: W, shift: usize, mask: u32) -> [f32; 8] {
        words.map(|word| ((u32::from_le_bytes(word) >> shift) & mask) as f32)
    }
    #[inline(always)]
    unsafe fn signed_number(words: W, i: usize) -> [f32; 8] {
        words.map(|word| f32::from(word[i] as i8))
    }
}
