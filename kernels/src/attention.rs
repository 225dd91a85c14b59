//! Attention over the KV repo, with the output in q's place.
//!
//! A [`Planner`] turns a ragged batch into tables of work that are uploaded once per step and read by all layers; the
//! kernels' grids depend on the device only, so that a decode step can be captured. The work is cut over K and V
//! where that balances the grid, and what is cut is merged afterwards; the room for that depends on the number of
//! multiprocessors only. Prefixes that several sequences share are read once where that pays.

mod batch;
mod geometry;
mod launch;
mod plan;
mod schedule;
mod tables;
mod tiles;
mod tree;

pub use batch::{Batch, Limits, NO_SEGMENT, Segment, SequenceRows, Shape};
pub use launch::{Attend, attend};
pub use plan::{Planned, Planner, partial_bytes};
pub use tables::PlanError;
pub use tiles::Sharing;
