//! text:.
