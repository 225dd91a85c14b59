//! engine:.
pub mod text_source;
