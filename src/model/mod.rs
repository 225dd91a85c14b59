//! From a checkpoint to a decoder that runs: what it is made of ([`spec`]), read from config.json or GGUF metadata by
//! its family ([`families`]); its weights, found, checked and loaded ([`weights`], [`load`]); and the one forward
//! pass ([`decoder`]). Knows no sequences and no sampling.
#![forbid(unsafe_code)]

mod config;
mod config_rope;
pub mod decoder;
pub mod families;
mod gguf;
mod keys;
pub mod load;
pub mod names;
pub mod rope;
pub mod spec;
mod style;
pub mod weights;

pub use decoder::Decoder;
pub use families::{Description, describe};
pub use spec::DecoderSpec;
pub use weights::Model;
