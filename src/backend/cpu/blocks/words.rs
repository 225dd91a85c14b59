//! What the kernels over tiles need from a processor: vectors of words.
//!
//! A **word** is four bytes of one weight row; in a tile the same word of all rows lies side by side. A vector of
//! words has [`LANES`](crate::backend::cpu::simd::Simd::LANES) of them, a row in a lane, so that one group of four
//! activations in every lane gives products of as many rows, and no sum across lanes is ever needed.

use super::bytes::Bytes;

/// Vectors of words.
///
/// # Safety
/// As for [`Simd`](crate::backend::cpu::simd::Simd).
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
pub trait Words: Bytes {
    /// A word in each lane.
    type W: Copy;
    /// Sums of products: an i32 in each lane, or **pairs**, in which [`Tiled::RUN`](super::Tiled::RUN) groups fit.
    type Sums: Copy;
    /// Activation rows that a tile of 8-bit products takes at once.
    const DOT_COLUMNS: usize;
    /// What [`add_signed`](Self::add_signed) takes each weight to be more than it is.
    const SIGNED_EXCESS: f32;

    unsafe fn load_words(from: *const u8) -> Self::W;
    unsafe fn store_words(to: *mut u8, v: Self::W);
    /// The word at `from` in every lane.
    unsafe fn splat_word(from: *const u8) -> Self::W;
    /// LANES numbers of 16 bits as words.
    unsafe fn widen_halves(from: *const u8) -> Self::W;
    /// LANES bytes as words.
    unsafe fn widen_bytes(from: *const u8) -> Self::W;
    /// `(byte >> shift) & mask` of each byte, for masks that hold no bit from the neighbour: `mask <= 255 >> shift`.
    unsafe fn bits(v: Self::W, shift: usize, mask: u8) -> Self::W;
    /// `byte << N` of each byte, for bytes that stay below 256.
    unsafe fn raise<const N: i32>(v: Self::W) -> Self::W;
    unsafe fn merge(a: Self::W, b: Self::W) -> Self::W;
    /// `table[byte]` of each byte, all below 16.
    unsafe fn level(table: &[i8; 16], v: Self::W) -> Self::W;

    unsafe fn no_sums() -> Self::Sums;
    /// Adds the products of unsigned weights with activations from −127 up.
    unsafe fn add_unsigned(pairs: Self::Sums, w: Self::W, x: Self::W) -> Self::Sums;
    unsafe fn add_pairs(sums: Self::Sums, pairs: Self::Sums) -> Self::Sums;
    /// Adds the products of signed weights, each [`SIGNED_EXCESS`](Self::SIGNED_EXCESS) more than it is.
    unsafe fn add_signed(sums: Self::Sums, w: Self::W, x: Self::W) -> Self::Sums;
    /// `n`, which the compiler cannot know before it knows `sums`.
    unsafe fn after(n: usize, sums: Self::Sums) -> usize;
    /// Exact: sums lie below 2^24.
    unsafe fn sums_f32(sums: Self::Sums) -> Self::F;

    /// `(word >> shift) & mask`, below 2^24.
    unsafe fn number(words: Self::W, shift: usize, mask: u32) -> Self::F;
    /// The words' bytes `i` as signed numbers.
    unsafe fn signed_number(words: Self::W, i: usize) -> Self::F;
}
