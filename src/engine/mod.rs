//! engine:.
