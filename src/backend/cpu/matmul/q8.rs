//! Activations in 8 bits: the layout of a row, and quantising it.
//!
//! Chunks of 32 share a scale `d = max |x| / 127`, and `x ≈ d · q` with q rounded to the nearest. A chunk is
//! `[q i8: 32][d f32][d · Σq f32][d · Σq of the second half f32]`; the sums meet the weights' offsets. A chunk with a
//! NaN or an infinity has d = NaN, which shows in every output.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use crate::backend::cpu::blocks::bytes::Bytes;
use crate::backend::cpu::simd::Simd;

/// Values that share a scale.
pub const CHUNK: usize = 32;

/// Bytes of a quantised chunk.
pub(super) const CHUNK_BYTES: usize = CHUNK + 3 * 4;

/// Bytes of a row of `n_in` activations, a multiple of [`CHUNK`].
pub const fn row_bytes(n_in: usize) -> usize {
    n_in / CHUNK * CHUNK_BYTES
}

/// Chunks whose largest value is smaller count as zeros: its inverse would not be finite.
const TINY: f32 = 1e-30;

/// Number `i` behind a chunk's bytes: its scale, its sum, the sum of its second half.
#[inline(always)]
pub(super) unsafe fn number(chunk: *const u8, i: usize) -> f32 {
    chunk.add(CHUNK).cast::<f32>().add(i).read_unaligned()
}

/// Quantises `x` to `row`.
///
/// # Safety
/// The processor has `S`'s instruction set; `x.len()` is a multiple of [`CHUNK`], and `row` has
/// `row_bytes(x.len())` bytes.
#[inline(always)]
pub unsafe fn quantise_row<S: Bytes>(x: &[f32], row: &mut [u8]) {
    debug_assert!(x.len().is_multiple_of(CHUNK) && row.len() >= row_bytes(x.len()));
    for chunk in 0..x.len() / CHUNK {
        let to = row.as_mut_ptr().add(chunk * CHUNK_BYTES);
        let from = x.as_ptr().add(chunk * CHUNK);
        let mut values = [S::Eight::zero(); 4];
        let mut largest = S::Eight::zero();
        // 0 for finite values, else NaN, which a maximum would lose.
        let mut zero = S::Eight::zero();
        for i in 0..4 {
            values[i] = S::Eight::load(from.add(8 * i));
            largest = S::Eight::max(S::Eight::abs(values[i]), largest);
            zero = S::Eight::fma(values[i], S::Eight::zero(), zero);
        }
        let largest = S::Eight::max_lane(largest);
        let zero = S::Eight::sum(zero);
        let usable = zero == 0.0 && largest > TINY;
        let inverse = S::Eight::splat(if usable { 127.0 / largest } else { 0.0 });
        let scale = if usable { largest / 127.0 } else { zero };
        for value in &mut values {
            *value = S::Eight::mul(*value, inverse);
        }
        let bytes = S::narrow(values);
        S::store_bytes(to, bytes);
        let numbers = to.add(CHUNK).cast::<f32>();
        numbers.write_unaligned(scale);
        let [a, b, c, d] = S::widen_signed(bytes);
        let second = S::Eight::add(c, d);
        let both = S::Eight::add(S::Eight::add(a, b), second);
        numbers.add(1).write_unaligned(scale * S::Eight::sum(both));
        numbers.add(2).write_unaligned(scale * S::Eight::sum(second));
    }
}
