//! Bytes by class: the same struct before (plan) and after (memory).
#![forbid(unsafe_code)]

use crate::options::AreaMode;

/// What an engine takes, by class. Computed once, before anything is loaded; create takes exactly these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// What `auto` chose, or what was asked for.
    pub area_mode: AreaMode,
    /// Why, in a few words.
    pub area_reason: &'static str,
    /// Block of weights.
    pub weights_bytes: u64,
    /// Block of K and V, with the extra slot.
    pub kv_repo_bytes: u64,
    /// Block of activations.
    pub compute_area_bytes: u64,
    /// Sequences, requests, batch tables, tokenizer tables: many small host allocations.
    pub bookkeeping_bytes: u64,
    /// Of the above, on the host.
    pub host_bytes: u64,
    /// Of the above, on another device.
    pub device_bytes: u64,
    /// Highest use while create runs.
    pub load_peak_bytes: u64,
    /// Token slots.
    pub total_tokens: u64,
    /// K and V of one token, all layers.
    pub token_slot_bytes: u64,
    /// Tokens that one sequence may have.
    pub max_sequence_tokens: u32,
    /// Sequences that may be open at once.
    pub max_sequences: u32,
    /// Requests that may wait or run at once.
    pub max_requests: u32,
    /// Rows of one step.
    pub max_batch_rows: u32,
    /// Rows of logits that exist at once.
    pub max_logits_rows: u32,
}

impl Memory {
    /// All classes together.
    pub fn total_bytes(&self) -> u64 {
        self.host_bytes + self.device_bytes
    }
}
