//! The C ABI, and the only `extern "C"` functions: each converts, calls, converts.
//!
//! One file per noun, and a boundary kit: `pointers` (what C hands over is checked before it is believed),
//! `boundary` (errors become codes), `panics` (stop here), `last_error` (words without allocating). The doc
//! comments of the nouns are the header's text: `make header` writes include/larder.h from them.
#![allow(dead_code, reason = "the calls on an engine come with the engine")]
#![allow(clippy::missing_safety_doc, reason = "the header's text is the contract")]

mod hooks;
mod last_error;
mod options;
mod panics;
mod pointers;
mod status;
mod version;
