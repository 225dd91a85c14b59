//! ffi:.
