//! model:.
