//! Rows of any weight type to f32: the embedding's gather and the exact path of the matrix product.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "a kernel is unsafe as a whole; its contract is at its head"
)]

use super::bytes::Bytes;
use super::{Format, Scales, with_format};
use crate::backend::cpu::simd::Simd;
use crate::dtype::DType;

/// `out.len()` weights of `dtype` at `row` to f32.
///
/// # Safety
/// The processor has `S`'s instruction set, and `row` is valid for `dtype.row_bytes(out.len())` bytes (which
/// exists).
#[inline(always)]
pub unsafe fn dequantise<S: Bytes>(dtype: DType, row: *const u8, out: &mut [f32]) {
    with_format!(dtype, F => blocks::<S, F>(row, out), else plain::<S>(dtype, row, out))
}

#[inline(always)]
unsafe fn blocks<S: Bytes, F: Format>(row: *const u8, out: &mut [f32]) {
    debug_assert!(out.len().is_multiple_of(F::LEN));
    let mut to = out.as_mut_ptr();
    let mut scales = Scales::new(0.0);
    for block in 0..out.len() / F::LEN {
        let block = row.add(block * F::BYTES);
        F::scales::<S>(block, &mut scales);
        for i in 0..F::LEN / 32 {
            let q = F::chunk::<S>(block, i);
            let q = if F::SIGNED { S::widen_signed(q) } else { S::widen_unsigned(q) };
            for (quarter, &q) in q.iter().enumerate() {
                let part = if F::HALVES { 2 * i + quarter / 2 } else { i };
                let scale = S::Eight::splat(scales.scales[part]);
                let offset = if F::SIGNED { 0.0 } else { scales.offsets[part] };
                S::Eight::store(to, S::Eight::fma(q, scale, S::Eight::splat(offset)));
                to = to.add(8);
            }
        }
    }
}

#[inline(always)]
unsafe fn plain<S: Simd>(dtype: DType, row: *const u8, out: &mut [f32]) {
    let n = out.len();
    match dtype {
        DType::F16 => {
            for (i, out) in out.chunks_mut(S::LANES).enumerate() {
                let from = row.cast::<u16>().add(i * S::LANES);
                if out.len() == S::LANES {
                    S::store(out.as_mut_ptr(), S::load_f16(from));
                } else {
                    let v = S::load_f16_partial(from, out.len());
                    S::store_partial(out.as_mut_ptr(), v, out.len());
                }
            }
        }
        DType::BF16 => {
            for (i, out) in out.iter_mut().enumerate() {
                let bits = row.cast::<u16>().add(i).read_unaligned();
                *out = f32::from_bits(u32::from(bits) << 16);
            }
        }
        _ => std::ptr::copy_nonoverlapping(row, out.as_mut_ptr().cast(), 4 * n),
    }
}
