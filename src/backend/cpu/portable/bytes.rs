//! The readable variant of the chunks of single rows.

use super::Portable;
use crate::backend::cpu::blocks::bytes::Bytes;
use half::f16;

type B = [u8; 32];

#[inline(always)]
fn widen(value: impl Fn(usize) -> f32) -> [[f32; 8]; 4] {
    let mut vectors = [[0.0; 8]; 4];
    for i in 0..32 {
        vectors[i / 8][i % 8] = value(i);
    }
    vectors
}

impl Bytes for Portable {
    type Eight = Portable;
    type B = B;

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
}
