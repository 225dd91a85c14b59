//! Requests: what a host submits, which rows of them each step computes, and the events that come of it.
//!
//! A request lives in one of `max_requests` reserved places. [`Edge`] is the side that any thread may use: it
//! checks and copies a request into a free place and keeps handles honest. [`Scheduler`] is the side of the thread
//! that steps: it says what the next forward pass computes ([`StepBatch`]), says from which logits a token is drawn,
//! and turns drawn tokens into events. Knows no tensors.
//!
//! The unit of scheduling is the answer. Higher priorities go first; inside one, who was paused before who is new,
//! then by arrival. An answer is admitted when what it and those who run are expected to hold at most is there; when
//! the guess was wrong, one is paused and goes on later. Prompts are shared through the KV repo's prefix cache.
#![forbid(unsafe_code)]

mod accept;
mod admit;
mod answer;
mod batch;
mod check;
mod edge;
#[cfg(all(test, feature = "test-loom"))]
mod edge_models;
mod events;
mod feed;
mod forecast;
mod lengths;
mod line;
mod pass;
mod pause;
mod request;
mod sampler;
mod schedule;
mod stats;
mod sync;
mod tally;
mod wait;

pub use batch::StepBatch;
pub use edge::Edge;
pub use events::{Event, EventKind, Failure, Finish};
pub use request::{Prompt, RequestInput};
pub use sampler::SAMPLE_TILE;
pub use schedule::Scheduler;
pub use stats::Stats;

use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::text::Text;

/// Stop strings of one request.
pub const MAX_STOPS: usize = 16;
/// Bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 256;
/// Logit biases of one request.
pub const MAX_BIASES: usize = 1024;
/// Log probabilities beside the chosen one's.
pub const MAX_LOGPROBS: usize = 20;

/// The sizes that everything here is reserved for. All but the last two are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that wait or run at once.
    pub max_requests: u32,
    /// Sequences of the KV repo: answers that run at once.
    pub max_sequences: u32,
    /// Tokens of a prompt and its answer together.
    pub max_sequence_tokens: u32,
    /// Rows of one step.
    pub max_batch_rows: u32,
    /// Rows of logits that exist at once.
    pub max_logits_rows: u32,
    pub vocab_size: u32,
    /// Token slots of the KV repo.
    pub total_tokens: u32,
    /// [`max_token_bytes`]; 0 without a tokenizer.
    pub max_token_bytes: u32,
    /// Tokens that end an answer.
    pub n_stop_tokens: u32,
}

impl Limits {
    /// Tokens that one sequence can have: `max_sequence_tokens`, as far as there are slots.
    fn sequence_tokens(&self) -> u32 {
        self.max_sequence_tokens.min(self.total_tokens)
    }

    /// Rows that logits are wanted of in one step, at most.
    fn max_sample_rows(&self) -> usize {
        self.max_sequences.min(self.max_batch_rows) as usize
    }
}

/// The heap bytes that [`Edge::new`], [`Scheduler::new`] and one [`StepBatch::new`] take together. They take no more
/// later.
pub fn bookkeeping_bytes(limits: &Limits) -> u64 {
    Edge::bytes(limits) + Scheduler::bytes(limits) + StepBatch::bytes(limits)
}

/// Bytes of the longest text of a token.
pub fn max_token_bytes(text: &Text) -> u32 {
    let bytes = (0..text.vocab_size()).map(|id| text.token_bytes(TokenId(id)).len());
    bytes.max().map_or(0, |n| n as u32)
}

/// An empty vector with room for exactly `n`.
fn reserved<T>(n: usize) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(n).map_err(|_| {
        Error::OutOfMemory(format!(
            "requests need {} bytes more; lower max_requests, max_sequences or max_sequence_tokens",
            n.saturating_mul(size_of::<T>())
        ))
    })?;
    Ok(vector)
}

/// An empty queue with room for exactly `n`.
fn reserved_queue<T>(n: usize) -> Result<std::collections::VecDeque<T>> {
    Ok(reserved(n)?.into())
}

/// Heap bytes of a vector with room for `n`.
fn bytes_of<T>(n: usize) -> u64 {
    n as u64 * size_of::<T>() as u64
}
