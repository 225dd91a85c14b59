//! The compute area: one block that holds every activation, and the plan of who lies where in it.
//!
//! The forward pass is run once in **tracing**: the same decoder and the same backend ask for every temporary, no
//! kernel is launched, and the area records when each request begins and ends. The planner packs those lifetimes
//! into offsets. At run time the n-th request gets the n-th offset, so the plan cannot drift from the code.
//! Knows sizes, not models; holds no memory itself.
#![forbid(unsafe_code)]

mod arena;
mod draw;
mod plan;
#[cfg(test)]
mod tests;

pub use arena::{Area, Mark, Region};
pub use plan::{Entry, Phase, Plan};
