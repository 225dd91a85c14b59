//! Options with every default filled in.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::options::Options;

/// Sequences where the host names no number.
const DEFAULT_SEQUENCES: u32 = 4;
/// Tokens of a sequence where the host gives neither tokens nor bytes: a model's own limit may mean tens of GiB.
const DEFAULT_SEQUENCE_TOKENS: u32 = 4096;
const DEFAULT_REQUESTS: u32 = 64;
const DEFAULT_LOGITS_ROWS: u32 = 16;
/// Most token slots: one is kept for padding rows, and the largest number means "none" in tables.
pub(super) const MAX_TOTAL_TOKENS: u64 = u32::MAX as u64 - 2;
/// Most sequences, requests and rows of a step; their tables are reserved at create.
const MAX_COUNT: u32 = 1 << 20;

/// The sizes that an engine is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) total_tokens: u32,
    pub(super) max_sequence_tokens: u32,
    pub(super) max_sequences: u32,
    pub(super) max_requests: u32,
    pub(super) max_batch_rows: u32,
    pub(super) max_logits_rows: u32,
}

impl Numbers {
    /// Everything but `total_tokens`, which may have to be derived from the memory limit: see
    /// [`with_total`](Self::with_total). `default_rows` is what the area mode wants.
    ///
    /// # Errors
    /// `InvalidArgument`, with the option's name and both numbers.
    pub(super) fn new(
        options: &Options,
        context_length: u32,
        default_rows: u32,
    ) -> Result<Numbers> {
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        let numbers = Numbers {
            total_tokens: 0,
            max_sequence_tokens: sequence_tokens(options, context_length)?,
            max_sequences: or(options.max_sequences, DEFAULT_SEQUENCES),
            max_requests: or(options.max_requests, DEFAULT_REQUESTS),
            max_batch_rows: or(options.max_batch_rows, default_rows),
            max_logits_rows: or(options.max_logits_rows, DEFAULT_LOGITS_ROWS),
        };
        for (name, value) in [
            ("max_sequences", numbers.max_sequences),
            ("max_requests", numbers.max_requests),
            ("max_batch_rows", numbers.max_batch_rows),
            ("max_logits_rows", numbers.max_logits_rows),
        ] {
            if value > MAX_COUNT {
                return Err(Error::InvalidArgument(format!(
                    "options.{name} is {value}, at most {MAX_COUNT} is possible"
                )));
            }
        }
        Ok(numbers)
    }

    /// The same with this many token slots; a sequence cannot be longer than the repo.
    pub(super) fn with_total(self, total_tokens: u64) -> Numbers {
        let total_tokens = total_tokens.min(MAX_TOTAL_TOKENS) as u32;
        let max_sequence_tokens = self.max_sequence_tokens.min(total_tokens);
        Numbers { total_tokens, max_sequence_tokens, ..self }
    }

    /// `total_tokens` where neither it nor a memory limit is given.
    pub(super) fn default_total(&self) -> u64 {
        u64::from(self.max_sequences) * u64::from(self.max_sequence_tokens)
    }
}

/// Tokens of one sequence: the option, within the model's context; or a default.
fn sequence_tokens(options: &Options, context_length: u32) -> Result<u32> {
    let asked = options.max_sequence_tokens;
    if asked > context_length {
        return Err(Error::InvalidArgument(format!(
            "options.max_sequence_tokens is {asked}, the model's context is {context_length} tokens"
        )));
    }
    if options.total_tokens > MAX_TOTAL_TOKENS {
        return Err(Error::InvalidArgument(format!(
            "options.total_tokens is {}, at most {MAX_TOTAL_TOKENS} is possible",
            options.total_tokens
        )));
    }
    let is_bounded = options.total_tokens > 0 || options.memory_limit_bytes > 0;
    Ok(match (asked, is_bounded) {
        (0, true) => context_length,
        (0, false) => context_length.min(DEFAULT_SEQUENCE_TOKENS),
        (asked, _) => asked,
    })
}
