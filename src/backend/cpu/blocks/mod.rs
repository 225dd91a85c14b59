//! The quantised types: how 32 weights lie in a block's bytes.
//!
//! A **chunk** is 32 consecutive weights, a **part** the weights that share a scale: a chunk or half of one. Every
//! type decodes to the same form: small integers, and for each part a scale and an offset, so that a weight is
//! `scale · q + offset`. That product and sum are exact but for the last addition of the types with a minimum, so
//! the values are those of the format's definition. The layouts are ggml's.
//!
//! A block is read in two ways: one row's, as it is in the file ([`Format`]), and those of a tile's rows, as [`pack`]
//! lays them side by side ([`Tiled`]).
#![allow(
    clippy::needless_range_loop,
    reason = "an index of lanes or rows runs over several arrays"
)]

pub mod bytes;
mod decode;
mod dequantise;
mod k;
mod nonlinear;
pub mod pack;
pub mod panel;
mod simple;
#[cfg(test)]
mod tests;
pub mod words;

use crate::backend::cpu::simd::Simd;
use bytes::Bytes;
use pack::TILE;
use words::Words;

pub use decode::decode;
pub use dequantise::dequantise;
pub use k::{Q2K, Q3K, Q4K, Q5K, Q6K};
pub use nonlinear::{Iq4Nl, Iq4Xs, Mxfp4};
pub use simple::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// Parts of the largest block.
const MAX_PARTS: usize = 16;

/// Scales and offsets of a block's parts.
#[derive(Clone, Copy)]
pub struct Scales<T> {
    pub scales: [T; MAX_PARTS],
    pub offsets: [T; MAX_PARTS],
}

impl<T: Copy> Scales<T> {
    /// All of them `zero`.
    #[inline(always)]
    pub fn new(zero: T) -> Scales<T> {
        Scales { scales: [zero; MAX_PARTS], offsets: [zero; MAX_PARTS] }
    }
}

/// How a type's blocks are read in a tile, a row in a lane.
///
/// # Safety
/// The functions need a processor with `S`'s instruction set, and a tile's block valid for 16 times
/// [`BYTES`](Self::BYTES) bytes.
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
pub trait Tiled {
    /// Weights in a block, a multiple of 32.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Whether the integers are signed; then there are no offsets.
    const SIGNED: bool = false;
    /// Whether the parts are halves of chunks.
    const HALVES: bool = false;
    /// Unsigned integers only: how many sums of four products with 8-bit activations add up in i16, two lanes
    /// each: `RUN · 2 · 127 · largest < 2^15`.
    const RUN: usize = 8;

    /// The integers 4g .. 4g + 4 of chunk `i < LEN / 32`.
    unsafe fn group<S: Words>(block: Lanes, i: usize, g: usize) -> S::W;

    /// Scales and offsets of the block's parts, from the first of `into` on.
    unsafe fn tile_scales<S: Words>(block: Lanes, into: &mut Scales<S::F>);
}

/// A quantised type.
///
/// # Safety
/// The functions need a processor with `S`'s instruction set, and blocks valid for [`BYTES`](Tiled::BYTES) bytes.
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
pub trait Format: Tiled {
    /// How [`pack`] cuts a block: bytes of a piece and how many, in order.
    const PIECES: &'static [(usize, usize)];
    /// A word of the block that holds one bit of each of 32 weights.
    const BITS_AT: Option<usize> = None;

    /// The integers of chunk `i < LEN / 32`.
    unsafe fn chunk<S: Bytes>(block: *const u8, i: usize) -> S::B;

    /// Scales and offsets of the block's parts, from the first of `into` on.
    unsafe fn scales<S: Bytes>(block: *const u8, into: &mut Scales<f32>);
}

/// Some rows of a tile's block, as many as a vector has lanes.
#[derive(Clone, Copy)]
pub struct Lanes {
    block: *const u8,
    first: usize,
}

/// # Safety
/// The tile's block holds the piece, which is one of its type's, and the processor has `S`'s instruction set.
#[allow(clippy::missing_safety_doc, reason = "said once, above")]
impl Lanes {
    /// Vector `part` of the block at `block`.
    #[inline(always)]
    pub fn of<S: Simd>(block: *const u8, part: usize) -> Lanes {
        Lanes { block, first: part * S::LANES }
    }

    /// The rows' words at byte `at` of their blocks.
    #[inline(always)]
    unsafe fn words<S: Words>(self, at: usize) -> S::W {
        // SAFETY: as above.
        unsafe { S::load_words(self.block.add(TILE * at + 4 * self.first)) }
    }

    /// The rows' f32 numbers at byte `at` of their blocks.
    #[inline(always)]
    unsafe fn f32<S: Words>(self, at: usize) -> S::F {
        // SAFETY: as above.
        unsafe { S::load(self.block.add(TILE * at + 4 * self.first).cast()) }
    }

    /// The rows' f16 numbers at byte `at` of their blocks.
    #[inline(always)]
    unsafe fn f16<S: Words>(self, at: usize) -> S::F {
        // SAFETY: as above.
        unsafe { S::load_f16(self.block.add(TILE * at + 2 * self.first).cast()) }
    }

    /// The rows' numbers of 16 bits at byte `at` of their blocks.
    #[inline(always)]
    unsafe fn halves<S: Words>(self, at: usize) -> S::W {
        // SAFETY: as above.
        unsafe { S::widen_halves(self.block.add(TILE * at + 2 * self.first)) }
    }

    /// The rows' bytes at byte `at` of their blocks.
    #[inline(always)]
    unsafe fn bytes<S: Words>(self, at: usize) -> S::W {
        // SAFETY: as above.
        unsafe { S::widen_bytes(self.block.add(TILE * at + self.first)) }
    }
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
