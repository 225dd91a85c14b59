//! The backend for the host's processor.

pub mod blocks;
pub mod dispatch;
mod float_mode;
pub mod matmul;
pub mod portable;
pub mod simd;
pub mod threads;
#[cfg(target_arch = "x86_64")]
pub mod x86;
