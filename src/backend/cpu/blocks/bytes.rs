//! What the quantised kernels need from a processor beside [`Simd`]: vectors of 32 bytes, one chunk of weights.

use crate::backend::cpu::simd::Simd;

/// Vectors of 32 bytes and their dot products, which come as eight f32 lanes: lane i is exact and covers bytes
/// 4i .. 4i + 4.
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

    /// Unsigned weights below 128 with signed activations.
    unsafe fn dot_unsigned(w: Self::B, x: Self::B) -> EightLanes<Self>;
    /// Signed weights with signed activations from −127 up.
    unsafe fn dot_signed(w: Self::B, x: Self::B) -> EightLanes<Self>;
    /// Four lanes of `values[0]`, four of `values[1]`.
    unsafe fn halves(values: *const f32) -> EightLanes<Self>;

    unsafe fn widen_unsigned(v: Self::B) -> [EightLanes<Self>; 4];
    unsafe fn widen_signed(v: Self::B) -> [EightLanes<Self>; 4];
    /// Rounds to the nearest i8, ties to even; values lie in −127 ..= 127.
    unsafe fn narrow(v: [EightLanes<Self>; 4]) -> Self::B;
    /// One f16 number.
    unsafe fn f16(bits: u16) -> f32;
}

/// Eight f32 lanes of `S`.
pub type EightLanes<S> = <<S as Bytes>::Eight as Simd>::F;
