//! Bookkeeping of the KV repo: which token slot belongs to which sequence. Touches no K or V and needs no device.
//!
//! A sequence is a chain of segments (runs of slots) that it may share with its forks, and a slot is free again as
//! soon as its last reader has let go of it. Every call costs O(segments of the sequence), not O(tokens), but for
//! those that compare tokens.
//!
//! The prefix cache is a radix tree whose nodes are segments: a sequence that is given to it leaves its segments
//! behind, and another that begins with the same tokens reads them. Slots that only the tree holds count as free:
//! [`KvRepo::append`] evicts what it needs, the least recently used first. There is at most one node per slot, so all
//! of the tree lies in arrays reserved by [`KvRepo::new`]; only of namespaces there can be too many
//! ([`MAX_NAME_SPACES`]), and then nothing of a further one is cached.
#![forbid(unsafe_code)]

mod blocks;
mod chains;
mod idle;
mod prefix;
mod radix;
mod segments;
mod sequences;
mod slots;
mod spaces;
mod tree;

pub use idle::Evict;
pub use prefix::{Cached, OnEvicted};
pub use spaces::{MAX_NAME_SPACES, NameSpaceSettings};

use crate::error::{Error, Result};
use crate::ids::{Segment, SequenceHandle, Slot};
use segments::Segments;
use sequences::{Sequence, Sequences};
use slots::FreeRuns;

/// Who owns which of the slots `0 .. total_tokens`. Allocates in [`new`](Self::new) only.
#[derive(Debug)]
pub struct KvRepo {
    total_tokens: u32,
    max_sequence_tokens: u32,
    runs: FreeRuns,
    segments: Segments,
    sequences: Sequences,
    /// Slots that may be empty so that sequences find free blocks.
    spare: u32,
    on_evicted: OnEvicted,
    /// Slots evicted so far.
    n_evicted: u64,
}

/// The share of all slots that may be empty so that sequences find free blocks. In a small repo it does not matter how
/// slots lie.
const SPARE_SHARE: u32 = 8;
const MIN_SPARE: u32 = 512;
/// A free run that is so much longer than needed has room for sequences on both sides.
const ROOMY: u32 = 4 * blocks::BLOCK;

impl KvRepo {
    /// The most slots: the index behind the last is the padding slot, and `u32::MAX` is no segment.
    pub const MAX_TOTAL_TOKENS: u32 = u32::MAX - 2;

    /// A repo of `total_tokens` free slots, for at most `max_sequences` sequences of `max_sequence_tokens`.
    ///
    /// # Errors
    /// `InvalidArgument` above [`MAX_TOTAL_TOKENS`](Self::MAX_TOTAL_TOKENS), `OutOfMemory` when the system refuses.
    pub fn new(total_tokens: u32, max_sequences: u32, max_sequence_tokens: u32) -> Result<KvRepo> {
        if total_tokens > Self::MAX_TOTAL_TOKENS {
            return Err(Error::InvalidArgument(format!(
                "total_tokens is {total_tokens}, at most {} are possible",
                Self::MAX_TOTAL_TOKENS
            )));
        }
        Ok(KvRepo {
            total_tokens,
            max_sequence_tokens,
            runs: FreeRuns::new(total_tokens)?,
            segments: Segments::new(total_tokens)?,
            sequences: Sequences::new(max_sequences)?,
            spare: Some(total_tokens / SPARE_SHARE).filter(|&n| n >= MIN_SPARE).unwrap_or(0),
            on_evicted: OnEvicted::default(),
            n_evicted: 0,
        })
    }

    /// The heap bytes that [`new`](Self::new) takes.
    pub fn bookkeeping_bytes(total_tokens: u32, max_sequences: u32) -> u64 {
        FreeRuns::bytes(total_tokens)
            + Segments::bytes(total_tokens)
            + Sequences::bytes(max_sequences)
    }

    /// Opens an empty sequence.
    ///
    /// # Errors
    /// `LimitReached` names max_sequences.
    pub fn open(&mut self) -> Result<SequenceHandle> {
        self.sequences.open(Sequence::EMPTY)
    }

    /// Opens a sequence that shares the first `n_tokens` tokens of `parent`.
    ///
    /// # Errors
    /// `StaleHandle`; `InvalidArgument` when the parent is shorter; `LimitReached` names max_sequences.
    pub fn fork(&mut self, parent: SequenceHandle, n_tokens: u32) -> Result<SequenceHandle> {
        let Sequence { last_segment, .. } = self.get_with(parent, n_tokens)?;
        self.sequences.check_room()?;
        let last_segment = self.segments.share(last_segment, n_tokens);
        self.sequences.open(Sequence { last_segment, n_tokens })
    }

    /// Appends `slots.len()` tokens to a sequence and fills in their slots: first those right behind its last one, then
    /// those of the longest free runs or, where these are short, of free blocks. What the tree holds is evicted as far
    /// as needed, and a little more where the tokens would lie scattered.
    ///
    /// # Errors
    /// `StaleHandle`; `LimitReached` names max_sequence_tokens; `OutOfSlots`, only when fewer slots are free than
    /// needed. An error changes nothing.
    pub fn append(&mut self, handle: SequenceHandle, slots: &mut [Slot]) -> Result<()> {
        let sequence = self.sequences.get(handle)?;
        let n_tokens = sequence.n_tokens as u64 + slots.len() as u64;
        if n_tokens > u64::from(self.max_sequence_tokens) {
            return Err(Error::LimitReached(format!(
                "the sequence would have {n_tokens} tokens, max_sequence_tokens is {}",
                self.max_sequence_tokens
            )));
        }
        let last_segment = sequence.last_segment;
        if slots.len() as u64 > u64::from(self.free_slots()) {
            let (needed, free) = (slots.len() as u64, u64::from(self.free_slots()));
            return Err(Error::OutOfSlots { needed, free });
        }
        self.make_room(last_segment, slots.len() as u32);
        self.segments.join(last_segment);
        let sequence = self.sequences.get_mut(handle)?;
        let mut rest = slots;
        while !rest.is_empty() {
            let wanted = rest.len() as u32;
            let (start, taken) = next_run(&mut self.runs, &self.segments, *sequence, wanted)?;
            let (filled, behind) = rest.split_at_mut(taken as usize);
            filled.iter_mut().zip(start..).for_each(|(slot, index)| *slot = Slot(index));
            sequence.last_segment = self.segments.push(sequence.last_segment, start, taken);
            sequence.n_tokens += taken;
            rest = behind;
        }
        Ok(())
    }

    /// Drops all tokens behind the first `n_tokens`. Slots that no other sequence reads are free at once.
    ///
    /// # Errors
    /// `StaleHandle`; `InvalidArgument` when the sequence is shorter.
    pub fn truncate(&mut self, sequence: SequenceHandle, n_tokens: u32) -> Result<()> {
        let current = self.get_with(sequence, n_tokens)?;
        if n_tokens == current.n_tokens {
            return Ok(());
        }
        let last_segment = self.segments.cut(current.last_segment, n_tokens, &mut self.runs);
        *self.sequences.get_mut(sequence)? = Sequence { last_segment, n_tokens };
        Ok(())
    }

    /// Number of tokens.
    ///
    /// # Errors
    /// `StaleHandle`.
    pub fn length(&self, sequence: SequenceHandle) -> Result<u32> {
        Ok(self.sequences.get(sequence)?.n_tokens)
    }

    /// Closes a sequence. Slots that no other sequence reads are free at once.
    ///
    /// # Errors
    /// `StaleHandle`, also when it was released before.
    pub fn release(&mut self, sequence: SequenceHandle) -> Result<()> {
        let last_segment = self.sequences.get(sequence)?.last_segment;
        self.segments.let_go(last_segment, &mut self.runs, Evict::First);
        self.sequences.close(sequence)
    }

    /// Where the sequence's chain begins in [`segments`](Self::segments); [`NO_SEGMENT`](crate::ids::NO_SEGMENT)
    /// when it is empty. Valid until the next call that changes the repo.
    ///
    /// # Errors
    /// `StaleHandle`.
    pub fn last_segment(&self, sequence: SequenceHandle) -> Result<u32> {
        Ok(self.sequences.get(sequence)?.last_segment)
    }

    /// The pool of segments that the chains run through.
    pub fn segments(&self) -> &[Segment] {
        self.segments.pool()
    }

    /// Slots that an append can still take: those that hold nothing, and those that only the tree holds and nobody
    /// has pinned.
    pub fn free_slots(&self) -> u32 {
        self.runs.n_free() + self.segments.tree.n_evictable
    }

    /// Slots that sequences read or a pinned namespace keeps; a shared one counts once.
    pub fn used_slots(&self) -> u32 {
        self.total_tokens - self.free_slots()
    }

    /// Open sequences.
    pub fn n_sequences(&self) -> u32 {
        self.sequences.n_open()
    }

    /// The extra slot, behind the last one, that takes the writes of padding rows.
    pub fn pad_slot(&self) -> Slot {
        Slot(self.total_tokens)
    }

    /// The sequence, when it has at least `n_tokens` tokens.
    fn get_with(&self, sequence: SequenceHandle, n_tokens: u32) -> Result<Sequence> {
        let sequence = self.sequences.get(sequence)?;
        if n_tokens > sequence.n_tokens {
            return Err(Error::InvalidArgument(format!(
                "n_tokens is {n_tokens}, but the sequence has {} tokens",
                sequence.n_tokens
            )));
        }
        Ok(sequence)
    }
}

/// Takes up to `wanted` slots for the end of `sequence`.
fn next_run(
    runs: &mut FreeRuns,
    segments: &Segments,
    sequence: Sequence,
    wanted: u32,
) -> Result<(u32, u32)> {
    if let Some(behind) = segments.slot_behind(sequence.last_segment) {
        let taken = runs.take_at(behind, wanted);
        if taken > 0 {
            return Ok((behind, taken));
        }
    }
    let has_room = runs.longest() >= wanted.saturating_add(ROOMY);
    let block = if has_room { None } else { runs.take_block(wanted) };
    let taken = block.or_else(|| runs.take_longest(wanted));
    taken.ok_or_else(|| Error::Internal("the KV repo counts free slots that no run has".into()))
}

/// An empty vector with room for exactly `n`.
fn reserved<T>(n: usize) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(n).map_err(|_| {
        Error::OutOfMemory(format!(
            "the KV repo's bookkeeping needs {} bytes more; lower total_tokens or max_sequences",
            n.saturating_mul(size_of::<T>())
        ))
    })?;
    Ok(vector)
}

/// A vector of `n` times `value`.
fn filled(n: usize, value: u32) -> Result<Vec<u32>> {
    let mut vector = reserved(n)?;
    vector.resize(n, value);
    Ok(vector)
}
