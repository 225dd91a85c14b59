//! serve:.
