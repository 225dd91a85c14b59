//! The C ABI, and the only `extern "C"` functions: each converts, calls, converts.
//!
//! One file per noun, and a boundary kit: `pointers` (what C hands over is checked before it is believed),
//! `boundary` (errors become codes), `panics` (stop here), `last_error` (words without allocating). The doc
//! comments of the nouns are the header's text: `make header` writes include/larder.h from them.
#![allow(clippy::missing_safety_doc, reason = "the header's text is the contract")]

mod boundary;
pub mod cache;
pub mod engine;
pub mod forward;
pub mod hooks;
mod last_error;
pub mod memory;
pub mod options;
mod panics;
mod pointers;
pub mod request;
pub mod sequence;
pub mod stats;
pub mod status;
pub mod step;
pub mod tensors;
#[cfg(feature = "test-panic")]
mod test_panic;
pub mod text;
pub mod version;
pub mod wait;
