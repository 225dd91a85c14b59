//! What reading and writing chunks of single rows needs from a processor beside [`Simd`]: vectors of 32 bytes.

use crate::backend::cpu::simd::Simd;

/// Vectors of 32 bytes.
///
/// # Safety
/// As for [`Simd`].
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
pub trait Bytes: Simd {
    /// The same processor with eight lanes.
    type Eight: Simd;
    /// 32 bytes.
    type B: Copy;

    unsafe fn load_bytes(from: *const u8) -> Self::B;
    unsafe fn store_bytes(to: *mut u8, v: Self::B);
    /// 16 bytes: first their low halves, then their high halves.
    unsafe fn load_nibbles(from: *const u8) -> Self::B;
    /// Byte i is `value` where bit i of `bits` is set, else 0.
    unsafe fn spread_bits(bits: u32, value: u8) -> Self::B;
    /// `(byte >> shift) & mask`, for masks that hold no bit from the neighbour: `mask <= 255 >> shift`.
    unsafe fn field(v: Self::B, shift: usize, mask: u8) -> Self::B;
    /// `byte << N`, for bytes that stay below 256.
    unsafe fn shift_left<const N: i32>(v: Self::B) -> Self::B;
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B;
    /// `table[byte]`, for bytes below 16.
    unsafe fn lookup(table: &[i8; 16], v: Self::B) -> Self::B;

    unsafe fn widen_unsigned(v: Self::B) -> [EightLanes<Self>; 4];
    unsafe fn widen_signed(v: Self::B) -> [EightLanes<Self>; 4];
    /// Rounds to the nearest i8, ties to even; values lie in −127 ..= 127.
    unsafe fn narrow(v: [EightLanes<Self>; 4]) -> Self::B;
    /// One f16 number.
    unsafe fn f16(bits: u16) -> f32;
}

/// Eight f32 lanes of `S`.
pub type EightLanes<S> = <<S as Bytes>::Eight as Simd>::F;
