//! The backend for the host's processor.

mod float_mode;
pub mod threads;
