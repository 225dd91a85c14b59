//! The host's rows of one forward pass: checked, grouped by sequence, with their slots.
#![forbid(unsafe_code)]

use super::{ForwardBatch, Numbers, WANT_HIDDEN, WANT_LOGITS};
use crate::backend::ops::{BatchSequence, BatchView, RowInput};
use crate::error::{Error, Result};
use crate::ids::{SequenceHandle, Slot};
use crate::kv::KvRepo;

const NO_GROUP: u32 = u32::MAX;

/// Tables of one forward pass, reserved once for `max_batch_rows` rows of `max_sequences` sequences.
#[derive(Debug)]
pub(super) struct HostBatch {
    /// `[n_rows]`
    positions: Vec<u32>,
    /// `[n_rows]`
    slots: Vec<Slot>,
    /// `[n_rows]` row numbers, grouped by sequence.
    rows: Vec<u32>,
    /// `[n_rows]` slots in the order of `rows`.
    grouped_slots: Vec<Slot>,
    /// `[n_rows]` each row's group.
    group_of_row: Vec<u32>,
    /// `[max_sequences]` the group of each open sequence, [`NO_GROUP`] between calls.
    group_of_sequence: Vec<u32>,
    /// `[n_groups]`
    sequences: Vec<BatchSequence>,
    /// `[n_groups]`
    handles: Vec<SequenceHandle>,
    /// `[n_wanted]` rows of which logits or hidden states are wanted, ascending.
    pub(super) wanted: Vec<u32>,
    /// Places in `wanted` of the rows with logits.
    pub(super) logits: Vec<u32>,
    /// Places in `wanted` of the rows with hidden states.
    pub(super) hidden: Vec<u32>,
}

impl HostBatch {
    pub(super) fn new(numbers: &Numbers) -> HostBatch {
        let n_rows = numbers.max_batch_rows as usize;
        let n_sequences = numbers.max_sequences as usize;
        HostBatch {
            positions: Vec::with_capacity(n_rows),
            slots: Vec::with_capacity(n_rows),
            rows: Vec::with_capacity(n_rows),
            grouped_slots: Vec::with_capacity(n_rows),
            group_of_row: Vec::with_capacity(n_rows),
            group_of_sequence: vec![NO_GROUP; n_sequences],
            sequences: Vec::with_capacity(n_sequences),
            handles: Vec::with_capacity(n_sequences),
            wanted: Vec::with_capacity(n_rows),
            logits: Vec::with_capacity(n_rows),
            hidden: Vec::with_capacity(n_rows),
        }
    }

    /// Heap bytes of `new(numbers)`.
    pub(super) fn bytes(numbers: &Numbers) -> u64 {
        let of_rows = 8 * size_of::<u32>() as u64;
        let of_sequences =
            size_of::<u32>() + size_of::<BatchSequence>() + size_of::<SequenceHandle>();
        u64::from(numbers.max_batch_rows) * of_rows
            + u64::from(numbers.max_sequences) * of_sequences as u64
    }

    /// The batch as the decoder wants it.
    pub(super) fn view<'a>(&'a self, batch: &ForwardBatch<'a>, kv: &'a KvRepo) -> BatchView<'a> {
        BatchView {
            n_rows: self.positions.len(),
            input: match (batch.tokens, batch.embeddings) {
                (Some(tokens), _) => RowInput::Tokens(tokens),
                (None, embeddings) => RowInput::Embeddings(embeddings.unwrap_or(&[])),
            },
            positions: &self.positions,
            slots: &self.slots,
            rows: &self.rows,
            sequences: &self.sequences,
            segments: kv.segments(),
        }
    }

    /// Groups the rows and appends them to their sequences. On an error nothing is changed.
    pub(super) fn fill(&mut self, batch: &ForwardBatch<'_>, kv: &mut KvRepo) -> Result<()> {
        self.clear();
        let grouped = self.group(batch, kv);
        for handle in &self.handles {
            self.group_of_sequence[handle.0 as u32 as usize] = NO_GROUP;
        }
        grouped?;
        self.choose(batch)?;
        self.append(kv)
    }

    /// Takes the rows out of their sequences again.
    pub(super) fn undo(&mut self, kv: &mut KvRepo) {
        for (sequence, handle) in self.sequences.iter().zip(&self.handles) {
            // A sequence that was just appended to is open and at least this long.
            let _ = kv.truncate(*handle, sequence.n_tokens - sequence.n);
        }
    }

    fn clear(&mut self) {
        self.positions.clear();
        self.slots.clear();
        self.rows.clear();
        self.grouped_slots.clear();
        self.group_of_row.clear();
        self.sequences.clear();
        self.handles.clear();
        self.wanted.clear();
        self.logits.clear();
        self.hidden.clear();
    }

    /// Finds each row's group and position.
    fn group(&mut self, batch: &ForwardBatch<'_>, kv: &KvRepo) -> Result<()> {
        for (row, &handle) in batch.sequences.iter().enumerate() {
            let length = kv.length(handle).map_err(|error| name_row(error, row))?;
            let group_of = &mut self.group_of_sequence[handle.0 as u32 as usize];
            if *group_of == NO_GROUP {
                *group_of = self.handles.len() as u32;
                self.handles.push(handle);
                self.sequences.push(BatchSequence { n_tokens: length, ..Default::default() });
            }
            let sequence = &mut self.sequences[*group_of as usize];
            self.positions.push(sequence.n_tokens);
            sequence.n += 1;
            sequence.n_tokens += 1;
            self.group_of_row.push(*group_of);
        }
        let mut first = 0;
        for sequence in &mut self.sequences {
            sequence.first = first;
            first += sequence.n;
            sequence.n = 0;
        }
        self.rows.resize(self.group_of_row.len(), 0);
        for (row, &group) in self.group_of_row.iter().enumerate() {
            let sequence = &mut self.sequences[group as usize];
            self.rows[(sequence.first + sequence.n) as usize] = row as u32;
            sequence.n += 1;
        }
        Ok(())
    }

    /// Lists the rows that something is wanted of.
    fn choose(&mut self, batch: &ForwardBatch<'_>) -> Result<()> {
        for row in 0..self.positions.len() {
            let wants = match batch.wants {
                Some(wants) => wants[row],
                None => self.is_last_of_sequence(row) * WANT_LOGITS,
            };
            if wants & !(WANT_LOGITS | WANT_HIDDEN) != 0 {
                return Err(Error::InvalidArgument(format!(
                    "batch.wants[{row}] is {wants}, expected LARDER_WANT_ bits"
                )));
            }
            if wants & WANT_LOGITS != 0 {
                self.logits.push(self.wanted.len() as u32);
            }
            if wants & WANT_HIDDEN != 0 {
                self.hidden.push(self.wanted.len() as u32);
            }
            if wants != 0 {
                self.wanted.push(row as u32);
            }
        }
        Ok(())
    }

    /// The group of the row at this place of `wanted`.
    pub(super) fn group_of_wanted(&self, place: u32) -> u32 {
        self.group_of_row[self.wanted[place as usize] as usize]
    }

    fn is_last_of_sequence(&self, row: usize) -> u8 {
        let sequence = &self.sequences[self.group_of_row[row] as usize];
        u8::from(self.positions[row] + 1 == sequence.n_tokens)
    }

    /// Takes the slots, of all sequences or of none.
    fn append(&mut self, kv: &mut KvRepo) -> Result<()> {
        let needed = self.rows.len() as u64;
        let free = u64::from(kv.free_slots());
        if needed > free {
            return Err(Error::OutOfSlots { needed, free });
        }
        self.grouped_slots.resize(self.rows.len(), Slot::default());
        for group in 0..self.handles.len() {
            let sequence = self.sequences[group];
            let range = sequence.first as usize..(sequence.first + sequence.n) as usize;
            if let Err(error) = kv.append(self.handles[group], &mut self.grouped_slots[range]) {
                self.sequences.truncate(group);
                self.undo(kv);
                return Err(error);
            }
        }
        self.slots.resize(self.rows.len(), Slot::default());
        for (&row, &slot) in self.rows.iter().zip(&self.grouped_slots) {
            self.slots[row as usize] = slot;
        }
        for (sequence, &handle) in self.sequences.iter_mut().zip(&self.handles) {
            sequence.last_segment = kv.last_segment(handle)?;
        }
        Ok(())
    }
}

/// Says which row a stale handle stands in.
fn name_row(error: Error, row: usize) -> Error {
    match error {
        Error::StaleHandle(text) => Error::StaleHandle(format!("batch.sequences[{row}]: {text}")),
        other => other,
    }
}
