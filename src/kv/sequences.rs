//! The table of sequences behind their handles.
#![forbid(unsafe_code)]

use super::reserved;
use crate::error::{Error, Result};
use crate::ids::{NO_SEGMENT, SequenceHandle};

/// One sequence: its last segment, which it refers to, and its length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    pub(super) last_segment: u32,
    pub(super) n_tokens: u32,
}

/// A place in the table. The generation moves on with every release, so that old handles no longer fit.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Never 0, so that no handle is 0.
    generation: u32,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Open(Sequence),
    /// The next closed entry, or `NO_ENTRY`.
    Closed(u32),
}

const NO_ENTRY: u32 = u32::MAX;

/// All sequences.
#[derive(Debug)]
pub(super) struct Sequences {
    entries: Vec<Entry>,
    closed: u32,
    n_open: u32,
    max_sequences: u32,
}

impl Sequences {
    pub(super) fn new(max_sequences: u32) -> Result<Sequences> {
        let entries = reserved(max_sequences as usize)?;
        Ok(Sequences { entries, closed: NO_ENTRY, n_open: 0, max_sequences })
    }

    /// Heap bytes of `new(max_sequences)`.
    pub(super) fn bytes(max_sequences: u32) -> u64 {
        u64::from(max_sequences) * size_of::<Entry>() as u64
    }

    pub(super) fn n_open(&self) -> u32 {
        self.n_open
    }

    /// Tokens of all open sequences together.
    pub(super) fn n_tokens(&self) -> u64 {
        let lengths = self.entries.iter().map(|entry| match entry.state {
            State::Open(sequence) => u64::from(sequence.n_tokens),
            State::Closed(_) => 0,
        });
        lengths.sum()
    }

    /// `LimitReached` when no further sequence can be opened.
    pub(super) fn check_room(&self) -> Result<()> {
        if self.n_open < self.max_sequences {
            return Ok(());
        }
        let text = format!(
            "max_sequences = {} sequences are open; release one or raise max_sequences",
            self.max_sequences
        );
        Err(Error::LimitReached(text))
    }

    /// Opens a sequence.
    pub(super) fn open(&mut self, sequence: Sequence) -> Result<SequenceHandle> {
        self.check_room()?;
        let state = State::Open(sequence);
        let mut index = self.closed;
        match self.entries.get_mut(index as usize) {
            Some(entry) => {
                if let State::Closed(next) = entry.state {
                    self.closed = next;
                }
                entry.state = state;
            }
            None => {
                index = self.entries.len() as u32;
                self.entries.push(Entry { generation: 1, state });
            }
        }
        self.n_open += 1;
        let generation = self.entries[index as usize].generation;
        Ok(SequenceHandle(u64::from(generation) << 32 | u64::from(index)))
    }

    pub(super) fn get(&self, handle: SequenceHandle) -> Result<Sequence> {
        let entry = self.entries.get(index_of(handle)).filter(|entry| entry.fits(handle));
        match entry.map(|entry| entry.state) {
            Some(State::Open(sequence)) => Ok(sequence),
            _ => Err(stale(handle)),
        }
    }

    pub(super) fn get_mut(&mut self, handle: SequenceHandle) -> Result<&mut Sequence> {
        let entry = self.entries.get_mut(index_of(handle)).filter(|entry| entry.fits(handle));
        match entry.map(|entry| &mut entry.state) {
            Some(State::Open(sequence)) => Ok(sequence),
            _ => Err(stale(handle)),
        }
    }

    /// Closes a sequence; its handle is stale from now on.
    pub(super) fn close(&mut self, handle: SequenceHandle) -> Result<()> {
        self.get(handle)?;
        let entry = &mut self.entries[index_of(handle)];
        entry.generation = entry.generation.checked_add(1).unwrap_or(1);
        entry.state = State::Closed(self.closed);
        self.closed = index_of(handle) as u32;
        self.n_open -= 1;
        Ok(())
    }
}

impl Entry {
    fn fits(&self, handle: SequenceHandle) -> bool {
        u64::from(self.generation) == handle.0 >> 32
    }
}

impl Sequence {
    pub(super) const EMPTY: Sequence = Sequence { last_segment: NO_SEGMENT, n_tokens: 0 };
}

fn index_of(handle: SequenceHandle) -> usize {
    handle.0 as u32 as usize
}

fn stale(handle: SequenceHandle) -> Error {
    if handle.0 == 0 {
        return Error::StaleHandle("sequence 0 is no sequence".into());
    }
    Error::StaleHandle(format!(
        "sequence {:#x} is not open: it was released, or it is of another engine",
        handle.0
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_wraps_past_zero() {
        let mut sequences = Sequences::new(1).unwrap();
        let first = sequences.open(Sequence::EMPTY).unwrap();
        sequences.entries[0].generation = u32::MAX;
        let last = SequenceHandle(u64::from(u32::MAX) << 32);
        sequences.close(last).unwrap();
        assert!(matches!(sequences.get(last), Err(Error::StaleHandle(_))));
        let wrapped = sequences.open(Sequence::EMPTY).unwrap();
        assert_eq!(wrapped, first, "the generation after the last is 1");
        assert_ne!(wrapped.0, 0);
    }

    #[test]
    fn a_closed_entry_is_used_again_with_another_handle() {
        let mut sequences = Sequences::new(2).unwrap();
        let a = sequences.open(Sequence::EMPTY).unwrap();
        let b = sequences.open(Sequence::EMPTY).unwrap();
        assert!(matches!(sequences.open(Sequence::EMPTY), Err(Error::LimitReached(_))));
        sequences.close(a).unwrap();
        assert!(matches!(sequences.close(a), Err(Error::StaleHandle(_))));
        let c = sequences.open(Sequence::EMPTY).unwrap();
        assert_eq!(index_of(c), index_of(a));
        assert_ne!(c, a);
        assert!(sequences.get(b).is_ok() && sequences.get(c).is_ok() && sequences.get(a).is_err());
    }
}
