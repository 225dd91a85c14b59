//! The tables of a pass on the device: token ids, positions, slots and wanted rows, and attention's work list. They
//! are built in pinned memory and go over in one copy. Their addresses never change, so captured passes read them.

use super::fault::{Fault, Result};
use super::memory::{ALIGNMENT, Memory};
use crate::backend::PassLimits;
use crate::backend::ops::{BatchView, RowInput};
use crate::error::Error;
use crate::ids::{NO_SEGMENT, Slot};
use larder_kernels::attention::{Batch, Limits, Planner, Segment, SequenceRows, Shape};
use larder_kernels::driver::{Context, DevicePtr, Event, Stream};

/// Tables with one number a row.
#[derive(Debug, Clone, Copy)]
pub enum RowTable {
    Tokens = 0,
    Positions = 1,
    Slots = 2,
    /// Rows for the final norm.
    Wanted = 3,
    /// Rows for the head, where they do not lie one behind the other.
    Chosen = 4,
}
const N_ROW_TABLES: usize = 5;

/// Where the tables lie, and what builds them.
pub struct Tables {
    planner: Planner,
    /// Rows that a table has room for.
    n_rows: usize,
    vocab_size: u32,
    /// Where padding rows write.
    extra_slot: u32,
    /// Recorded behind the last copy out of the pinned block.
    copied: Event,
}

impl Tables {
    /// Reserves all that building takes.
    pub fn new(
        context: &Context,
        shapes: &[Shape],
        n_sms: u32,
        limits: &PassLimits,
    ) -> Result<Tables> {
        Ok(Tables {
            planner: Planner::new(shapes, &attention_limits(n_sms, limits)),
            n_rows: limits.n_rows as usize,
            vocab_size: limits.vocab_size,
            extra_slot: limits.total_tokens,
            copied: Event::new(context)?,
        })
    }

    /// Bytes on the device, and of their image in pinned memory.
    pub fn bytes(shapes: &[Shape], n_sms: u32, limits: &PassLimits) -> u64 {
        let attention = Planner::table_bytes(shapes, &attention_limits(n_sms, limits));
        (attention_offset(limits.n_rows as usize) as u64 + attention).next_multiple_of(ALIGNMENT)
    }

    /// A row table's address on the device.
    pub fn rows(&self, memory: &Memory, table: RowTable) -> Result<DevicePtr> {
        let bytes = (self.n_rows * 4) as u64;
        memory.table(table as u64 * bytes, bytes)
    }

    /// The address of attention's work list.
    pub fn attention(&self, memory: &Memory) -> Result<DevicePtr> {
        memory.table(attention_offset(self.n_rows) as u64, 0)
    }

    /// Waits until the pinned block may be written again.
    pub fn wait(&self) -> Result<()> {
        Ok(self.copied.synchronize()?)
    }

    /// To be called behind every copy out of the pinned block.
    pub fn mark_copied(&self, stream: &Stream) -> Result<()> {
        Ok(self.copied.record(stream)?)
    }

    /// Builds the tables of a pass of `n_launched` rows, those behind the batch's being padding, and uploads them.
    pub fn upload(
        &mut self,
        memory: &mut Memory,
        stream: &Stream,
        batch: &BatchView<'_>,
        wanted: &[u32],
        n_launched: usize,
    ) -> Result<()> {
        self.check(batch, wanted, n_launched)?;
        self.wait()?;
        let offset = attention_offset(self.n_rows);
        let (rows, attention) = memory.tables_image().split_at_mut(offset);
        let mut fill = |table: RowTable, values: &mut dyn Iterator<Item = u32>, padding: u32| {
            let padded = values.chain(std::iter::repeat(padding)).take(n_launched);
            let at = table as usize * self.n_rows * 4;
            for (to, value) in rows[at..at + n_launched * 4].chunks_exact_mut(4).zip(padded) {
                to.copy_from_slice(&value.to_ne_bytes());
            }
        };
        if let RowInput::Tokens(tokens) = batch.input {
            fill(RowTable::Tokens, &mut tokens.iter().map(|token| token.0), 0);
        }
        fill(RowTable::Positions, &mut batch.positions.iter().copied(), 0);
        fill(RowTable::Slots, &mut batch.slots.iter().map(|slot| slot.0), self.extra_slot);
        fill(RowTable::Wanted, &mut wanted.iter().copied(), 0);
        let view = View { batch, n_launched: n_launched as u32 };
        let planned = self.planner.plan(&view, attention);
        let planned = planned.map_err(|error| Fault::defect(error.to_string()))?;
        let bytes = offset as u64 + planned.bytes;
        let to = memory.table(0, bytes)?;
        // SAFETY: the image stays as it is until `wait`, and the tables have its size.
        unsafe { stream.copy_to_device(to, memory.tables_image().as_ptr(), bytes) }?;
        self.mark_copied(stream)
    }

    /// Uploads the rows of one operation; where they lie.
    pub fn choose(
        &mut self,
        memory: &mut Memory,
        stream: &Stream,
        rows: &[u32],
    ) -> Result<DevicePtr> {
        self.wait()?;
        if rows.len() > self.n_rows {
            return Err(Fault::defect(format!("{} rows are chosen", rows.len())));
        }
        let to = self.rows(memory, RowTable::Chosen)?;
        let at = RowTable::Chosen as usize * self.n_rows * 4;
        let image = &mut memory.tables_image()[at..at + 4 * rows.len()];
        for (to, row) in image.chunks_exact_mut(4).zip(rows) {
            to.copy_from_slice(&row.to_ne_bytes());
        }
        // SAFETY: the image stays as it is until `wait`, and the table has room for all rows of a pass.
        unsafe { stream.copy_to_device(to, image.as_ptr(), image.len() as u64) }?;
        self.mark_copied(stream)?;
        Ok(to)
    }

    /// What the kernels could not bear.
    fn check(&self, batch: &BatchView<'_>, wanted: &[u32], n_launched: usize) -> Result<()> {
        let n = batch.n_rows;
        if n > n_launched || n_launched > self.n_rows || wanted.len() > n {
            return Err(Fault::defect(format!("a pass of {n} rows in {n_launched}")));
        }
        if batch.positions.len() != n || batch.slots.len() != n || batch.rows.len() != n {
            return Err(Fault::defect(format!("a batch of {n} rows with shorter tables")));
        }
        let is_slot = |slot: &Slot| slot.0 <= self.extra_slot;
        if !batch.slots.iter().all(is_slot) || wanted.iter().any(|&row| row as usize >= n) {
            return Err(Fault::defect("a batch of slots or rows that do not exist".into()));
        }
        if let RowInput::Tokens(tokens) = batch.input
            && let Some(token) = tokens.iter().find(|token| token.0 >= self.vocab_size)
        {
            return Err(Fault::Larder(Error::InvalidArgument(format!(
                "token {} is not in the vocabulary of {}",
                token.0, self.vocab_size
            ))));
        }
        Ok(())
    }
}

/// Bytes before attention's tables.
fn attention_offset(n_rows: usize) -> usize {
    (N_ROW_TABLES * n_rows * 4).next_multiple_of(ALIGNMENT as usize)
}

/// The most that attention is planned for.
pub fn attention_limits(n_multiprocessors: u32, limits: &PassLimits) -> Limits {
    Limits {
        n_multiprocessors,
        max_rows: limits.n_rows,
        max_sequences: limits.n_sequences,
        total_tokens: limits.total_tokens,
        max_sequence_tokens: limits.sequence_tokens,
    }
}

/// A batch as attention's planner sees it.
struct View<'a> {
    batch: &'a BatchView<'a>,
    n_launched: u32,
}

impl Batch for View<'_> {
    fn n_rows(&self) -> u32 {
        self.n_launched
    }

    fn n_sequences(&self) -> usize {
        self.batch.sequences.len()
    }

    fn sequence(&self, index: usize) -> SequenceRows {
        let sequence = &self.batch.sequences[index];
        SequenceRows {
            first: sequence.first,
            n: sequence.n,
            n_tokens: sequence.n_tokens,
            last_segment: sequence.last_segment,
        }
    }

    fn row(&self, index: u32) -> u32 {
        self.batch.rows[index as usize]
    }

    fn segment(&self, index: u32) -> Segment {
        const { assert!(NO_SEGMENT == u32::MAX) };
        let segment = &self.batch.segments[index as usize];
        Segment {
            start: segment.start.0,
            len: segment.len,
            first_position: segment.first_position,
            parent: segment.parent,
        }
    }
}
