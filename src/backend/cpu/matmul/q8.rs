//! Activations in 8 bits: the layout of a row, and quantising it.
//!
//! Chunks of 32 share a scale `d = max |x| / 127`, and `x ≈ d · q` with q rounded to the nearest. A row is
//! `[q i8: n_in][d f32: n_in / 32][d · Σq of each 16, f32: n_in / 16]`; the sums meet the weights' offsets. A
//! chunk with a NaN or an infinity has d = NaN, which shows in every output.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use crate::backend::cpu::blocks::bytes::Bytes;
use crate::backend::cpu::simd::Simd;

/// Values that share a scale.
pub const CHUNK: usize = 32;

/// Bytes of a row of `n_in` activations, a multiple of [`CHUNK`].
pub const fn row_bytes(n_in: usize) -> usize {
    n_in + n_in / CHUNK * 4 + n_in / 16 * 4
}

/// Chunks whose largest value is smaller count as zeros: its inverse would not be finite.
const TINY: f32 = 1e-30;

/// A row's parts. The pointers need no alignment.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) q: *const u8,
    pub(super) scales: *const f32,
    pub(super) sums: *const f32,
}

impl Row {
    /// The parts of the row at `from`.
    #[inline(always)]
    pub(super) unsafe fn new(from: *const u8, n_in: usize) -> Row {
        let scales = from.add(n_in).cast::<f32>();
        Row { q: from, scales, sums: scales.add(n_in / CHUNK) }
    }
}

/// Quantises `x` to `row`.
///
/// # Safety
/// The processor has `S`'s instruction set; `x.len()` is a multiple of [`CHUNK`], and `row` has
/// `row_bytes(x.len())` bytes.
#[inline(always)]
pub unsafe fn quantise_row<S: Bytes>(x: &[f32], row: &mut [u8]) {
    debug_assert!(x.len() % CHUNK == 0 && row.len() >= row_bytes(x.len()));
    let n = x.len();
    let q = row.as_mut_ptr();
    let scales = q.add(n).cast::<f32>();
    let sums = scales.add(n / CHUNK);
    for chunk in 0..n / CHUNK {
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
        S::store_bytes(q.add(chunk * CHUNK), bytes);
        scales.add(chunk).write_unaligned(scale);
        // Lanes 0 to 3 hold the first half's sums.
        let mut lanes = [0.0; 8];
        S::Eight::store(lanes.as_mut_ptr(), S::dot_unsigned(S::spread_bits(u32::MAX, 1), bytes));
        for half in 0..2 {
            let l = &lanes[4 * half..];
            sums.add(2 * chunk + half).write_unaligned(scale * ((l[0] + l[1]) + (l[2] + l[3])));
        }
    }
}
