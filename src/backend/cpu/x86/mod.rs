//! The x86-64 variants.

pub mod avx2;
pub mod avx512;
