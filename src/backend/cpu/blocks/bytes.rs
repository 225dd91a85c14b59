//! What the quantised kernels need from a processor beside [`Simd`]: vectors of 32 bytes.
//!
//! A **chunk** of a row is 32 bytes; the chunks of eight weight rows, an **octet**, are transposed so that
//! vector g holds bytes 4g .. 4g + 4 of each row, row r in lane r. Then one activation group of four bytes serves
//! eight rows, and eight outputs are one vector.

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
    /// Activation rows that a tile takes at once.
    const DOT_COLUMNS: usize;

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

    /// Group g of row r becomes lane r of vector g.
    unsafe fn transpose(rows: [Self::B; 8]) -> [Self::B; 8];

    /// `Σ over the N groups from FIRST on` of unsigned weights with signed activations from −127 up, exact: lane r
    /// of result c is row r's with the chunk at `x[c]`. `RUN` neighbouring products of four fit in i16:
    /// `RUN · 2 · 127 · largest weight < 2^15`.
    unsafe fn dot_unsigned<const C: usize, const FIRST: usize, const N: usize, const RUN: usize>(
        w: &[Self::B; 8],
        x: &[*const u8; C],
    ) -> [EightLanes<Self>; C];
    /// The same with signed weights of any value, over all eight groups.
    unsafe fn dot_signed<const C: usize>(
        w: &[Self::B; 8],
        x: &[*const u8; C],
    ) -> [EightLanes<Self>; C];

    unsafe fn widen_unsigned(v: Self::B) -> [EightLanes<Self>; 4];
    unsafe fn widen_signed(v: Self::B) -> [EightLanes<Self>; 4];
    /// Rounds to the nearest i8, ties to even; values lie in −127 ..= 127.
    unsafe fn narrow(v: [EightLanes<Self>; 4]) -> Self::B;
    /// One f16 number.
    unsafe fn f16(bits: u16) -> f32;
    /// The f16 numbers at byte `at` of eight rows.
    unsafe fn gather_f16(rows: &[*const u8; 8], at: usize) -> EightLanes<Self>;
    /// The 4-byte words at byte `at` of eight rows, a row in a lane.
    unsafe fn gather_words(rows: &[*const u8; 8], at: usize) -> Self::B;
    /// The four words from byte `at` on.
    unsafe fn gather_four_words(rows: &[*const u8; 8], at: usize) -> [Self::B; 4];
    /// The f16 numbers in the words' lower and upper halves.
    unsafe fn words_f16(words: Self::B) -> (EightLanes<Self>, EightLanes<Self>);
    /// `(word >> shift) & mask`, below 2^24.
    unsafe fn words_field(words: Self::B, shift: usize, mask: u32) -> EightLanes<Self>;
    /// The words' bytes `i` as signed numbers.
    unsafe fn words_signed_byte(words: Self::B, i: usize) -> EightLanes<Self>;
}

/// Eight f32 lanes of `S`.
pub type EightLanes<S> = <<S as Bytes>::Eight as Simd>::F;
