//! larder: an LLM inference engine that programs link.
//!
//! Three lifetimes: **weights** (read at create), the **KV repo** (token slots for all layers, reserved once)
//! and the **compute area** (every activation, planned before anything is loaded). After create nothing is
//! allocated. ARCHITECTURE.md is the map; the layers below call downwards only.

pub mod dtype;
pub mod error;
pub mod ids;
pub mod options;

pub mod area;
pub mod backend;
pub mod engine;
pub mod ffi;
pub mod format;
pub mod kv;
pub mod model;
pub mod serve;
pub mod text;
