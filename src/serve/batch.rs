//! What one step computes: rows of tokens, grouped by sequence.
#![forbid(unsafe_code)]

use super::{Limits, bytes_of, reserved};
use crate::backend::ops::{BatchSequence, BatchView, RowInput};
use crate::error::Result;
use crate::ids::{SequenceHandle, Slot, TokenId};
use crate::kv::KvRepo;

/// The rows of one step. All arrays are reserved once.
#[derive(Debug)]
pub struct StepBatch {
    /// `[n_rows]`
    pub tokens: Vec<TokenId>,
    /// `[n_rows]`
    pub positions: Vec<u32>,
    /// `[n_rows]` where each row's K and V go.
    pub slots: Vec<Slot>,
    /// `[n_rows]` row numbers, grouped by sequence.
    pub rows: Vec<u32>,
    pub sequences: Vec<BatchSequence>,
    /// Rows whose logits are wanted, ascending.
    pub logits_rows: Vec<u32>,
    /// Whose rows `sequences` are.
    handles: Vec<SequenceHandle>,
}

impl StepBatch {
    /// Room for `max_batch_rows` rows of `max_sequences` sequences.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(limits: &Limits) -> Result<StepBatch> {
        let n_rows = limits.max_batch_rows as usize;
        let n_sequences = limits.max_sample_rows();
        Ok(StepBatch {
            tokens: reserved(n_rows)?,
            positions: reserved(n_rows)?,
            slots: reserved(n_rows)?,
            rows: reserved(n_rows)?,
            sequences: reserved(n_sequences)?,
            logits_rows: reserved(n_sequences)?,
            handles: reserved(n_sequences)?,
        })
    }

    /// Heap bytes of `new(limits)`.
    pub fn bytes(limits: &Limits) -> u64 {
        let n_rows = limits.max_batch_rows as usize;
        let n_sequences = limits.max_sample_rows();
        bytes_of::<TokenId>(n_rows)
            + bytes_of::<Slot>(n_rows)
            + 2 * bytes_of::<u32>(n_rows)
            + bytes_of::<BatchSequence>(n_sequences)
            + bytes_of::<u32>(n_sequences)
            + bytes_of::<SequenceHandle>(n_sequences)
    }

    /// Number of rows; 0 when there is nothing to compute.
    pub fn n_rows(&self) -> usize {
        self.tokens.len()
    }

    /// The batch as the decoder wants it. `kv` as `Scheduler::schedule` left it.
    pub fn view<'a>(&'a self, kv: &'a KvRepo) -> BatchView<'a> {
        BatchView {
            n_rows: self.n_rows(),
            input: RowInput::Tokens(&self.tokens),
            positions: &self.positions,
            slots: &self.slots,
            rows: &self.rows,
            sequences: &self.sequences,
            segments: kv.segments(),
        }
    }

    /// Empties the batch.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.rows.clear();
        self.sequences.clear();
        self.logits_rows.clear();
        self.handles.clear();
    }

    /// Appends `tokens` to a sequence that has `n_before`, and their rows to the batch.
    ///
    /// # Errors
    /// Those of [`KvRepo::append_tokens`]; the batch is unchanged then.
    pub(super) fn append(
        &mut self,
        kv: &mut KvRepo,
        sequence: SequenceHandle,
        n_before: u32,
        tokens: impl ExactSizeIterator<Item = TokenId>,
    ) -> Result<()> {
        let first = self.n_rows();
        let n = tokens.len();
        self.slots.resize(first + n, Slot::default());
        self.tokens.extend(tokens);
        let (tokens, slots) = (&self.tokens[first..], &mut self.slots[first..]);
        if let Err(error) = kv.append_tokens(sequence, tokens, slots) {
            self.tokens.truncate(first);
            self.slots.truncate(first);
            return Err(error);
        }
        self.positions.extend(n_before..n_before + n as u32);
        self.rows.extend(first as u32..(first + n) as u32);
        self.sequences.push(BatchSequence {
            first: first as u32,
            n: n as u32,
            n_tokens: n_before + n as u32,
            last_segment: 0,
        });
        self.handles.push(sequence);
        Ok(())
    }

    /// Looks up where the sequences' chains begin, once nothing changes the repo any more.
    ///
    /// # Errors
    /// Those of [`KvRepo::last_segment`].
    pub(super) fn close(&mut self, kv: &KvRepo) -> Result<()> {
        for (sequence, &handle) in self.sequences.iter_mut().zip(&self.handles) {
            sequence.last_segment = kv.last_segment(handle)?;
        }
        Ok(())
    }
}
