//! The quantised types: how 32 weights lie in a block's bytes.
//!
//! A **chunk** is 32 consecutive weights. Every type decodes one to the same form, [`Chunk`]: small integers, and
//! for each half of 16 a scale and an offset, so that weight j is `scales[j / 16] · q[j] + offsets[j / 16]`. That
//! product and sum are exact but for the last addition of the types with a minimum, so the values are those of
//! the format's definition. The layouts are ggml's.

pub mod bytes;
mod dequantise;
mod k;
mod nonlinear;
mod simple;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use dequantise::dequantise;
pub use k::{Q2K, Q3K, Q4K, Q5K, Q6K};
pub use nonlinear::{Iq4Nl, Iq4Xs, Mxfp4};
pub use simple::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// 32 weights: `scales[j / 16] · q[j] + offsets[j / 16]`.
pub struct Chunk<S: Bytes> {
    /// Unsigned below 128, or signed where the format says so.
    pub q: S::B,
    pub scales: [f32; 2],
    pub offsets: [f32; 2],
}

/// A quantised type.
pub trait Format {
    /// Weights in a block, a multiple of 32.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Whether `q` is signed; then there are no offsets.
    const SIGNED: bool = false;
    /// Whether the two halves of a chunk have their own scale and offset.
    const HALVES: bool = false;

    /// Chunk `i` of the block at `block`.
    ///
    /// # Safety
    /// The processor has `S`'s instruction set, `block` is valid for [`BYTES`](Self::BYTES) bytes, and
    /// `i < LEN / 32`.
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> Chunk<S>;
}

/// Runs `$body` with `$format` naming the [`Format`] of a quantised `$dtype`; the plain types give `$plain`.
macro_rules! with_format {
    ($dtype:expr, $format:ident => $body:expr, else $plain:expr) => {{
        use crate::backend::cpu::blocks::*;
        use crate::dtype::DType;
        macro_rules! arm {
            ($type:ty) => {{
                type $format = $type;
                $body
            }};
        }
        match $dtype {
            DType::Q4_0 => arm!(Q4_0),
            DType::Q4_1 => arm!(Q4_1),
            DType::Q5_0 => arm!(Q5_0),
            DType::Q5_1 => arm!(Q5_1),
            DType::Q8_0 => arm!(Q8_0),
            DType::Q2_K => arm!(Q2K),
            DType::Q3_K => arm!(Q3K),
            DType::Q4_K => arm!(Q4K),
            DType::Q5_K => arm!(Q5K),
            DType::Q6_K => arm!(Q6K),
            DType::IQ4_NL => arm!(Iq4Nl),
            DType::IQ4_XS => arm!(Iq4Xs),
            DType::MXFP4 => arm!(Mxfp4),
            DType::F32 | DType::F16 | DType::BF16 => $plain,
        }
    }};
}
pub(in crate::backend::cpu) use with_format;

/// The f16 number at byte `at` of a block.
///
/// # Safety
/// `block` is valid for `at + 2` bytes; the processor has `S`'s instruction set.
#[inline(always)]
unsafe fn f16_at<S: Bytes>(block: *const u8, at: usize) -> f32 {
    // SAFETY: as above.
    unsafe { S::f16(block.add(at).cast::<u16>().read_unaligned()) }
}
