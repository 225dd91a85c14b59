//! The AArch64 variants.

pub mod neon;
