//! The x86-64 variants.
#![allow(
    clippy::needless_range_loop,
    reason = "an index of lanes or rows runs over several arrays"
)]

pub mod avx2;
pub mod avx512;
