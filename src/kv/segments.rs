//! The pool of segments: a forest, in which every path from a leaf to its root spells a sequence's slots.
//!
//! A segment owns its slots alone, so there are never more segments than slots and the pool is reserved once. It
//! counts who refers to it (the segments behind it, the sequences that end with it, and the radix tree) and goes when
//! nobody does. It also counts who reads it: the sequences that end with it and the segments behind it that are read.
//! A segment that the tree alone keeps is idle.
#![forbid(unsafe_code)]

use super::idle::Evict;
use super::reserved;
use super::slots::FreeRuns;
use super::tree::Tree;
use crate::error::Result;
use crate::ids::{NO_SEGMENT, Segment, Slot};

/// All segments of the KV repo.
#[derive(Debug)]
pub(super) struct Segments {
    /// Unused ones form a list through `parent`.
    pub(super) pool: Vec<Segment>,
    /// Referrers of each segment, 0 when unused.
    pub(super) n_referrers: Vec<u32>,
    /// Those through which somebody reads it.
    pub(super) n_readers: Vec<u32>,
    pub(super) tree: Tree,
    unused: u32,
}

impl Segments {
    pub(super) fn new(n_slots: u32) -> Result<Segments> {
        let n = n_slots as usize;
        Ok(Segments {
            pool: reserved(n)?,
            n_referrers: reserved(n)?,
            n_readers: reserved(n)?,
            tree: Tree::new(n_slots)?,
            unused: NO_SEGMENT,
        })
    }

    /// Heap bytes of `new(n_slots)`.
    pub(super) fn bytes(n_slots: u32) -> u64 {
        u64::from(n_slots) * (size_of::<Segment>() + 2 * size_of::<u32>()) as u64
            + Tree::bytes(n_slots)
    }

    pub(super) fn pool(&self) -> &[Segment] {
        &self.pool
    }

    /// The slot right behind segment `last`, where a sequence that ends there grows best.
    pub(super) fn slot_behind(&self, last: u32) -> Option<u32> {
        let segment = self.pool.get(last as usize)?;
        Some(segment.start.0 + segment.len)
    }

    /// Puts `len` slots from `start` on behind `last`, which one reference of the caller's holds, and returns the
    /// segment that this reference holds now.
    pub(super) fn push(&mut self, last: u32, start: u32, len: u32) -> u32 {
        let is_behind = self.slot_behind(last) == Some(start);
        if is_behind && self.n_referrers[last as usize] == 1 {
            self.pool[last as usize].len += len;
            return last;
        }
        let first_position = match self.pool.get(last as usize) {
            Some(parent) => parent.first_position + parent.len,
            None => 0,
        };
        self.add(Segment { start: Slot(start), len, first_position, parent: last })
    }

    /// Adds a reader to the first `n_tokens` of the chain that ends with `last`, and returns the segment that it
    /// refers to. A segment in which they end is split.
    pub(super) fn share(&mut self, mut last: u32, n_tokens: u32) -> u32 {
        if n_tokens == 0 {
            return NO_SEGMENT;
        }
        while self.pool[last as usize].first_position >= n_tokens {
            last = self.pool[last as usize].parent;
        }
        let segment = self.pool[last as usize];
        let keep = n_tokens - segment.first_position;
        let end = if keep < segment.len { self.split(last, keep) } else { last };
        self.acquire(end);
        end
    }

    /// Moves a reader from `last` to the first `n_tokens` of its chain, and returns the segment that it refers to
    /// then. Slots that nobody refers to any more become free.
    pub(super) fn cut(&mut self, last: u32, n_tokens: u32, runs: &mut FreeRuns) -> u32 {
        let end = self.share(last, n_tokens);
        self.let_go(last, runs, Evict::First);
        end
    }

    /// Adds a reader to a segment.
    pub(super) fn acquire(&mut self, segment: u32) {
        let Some(n_referrers) = self.n_referrers.get_mut(segment as usize) else { return };
        *n_referrers += 1;
        let mut index = segment;
        while index != NO_SEGMENT {
            self.n_readers[index as usize] += 1;
            if self.n_readers[index as usize] > 1 {
                return;
            }
            let Segment { len, parent, .. } = self.pool[index as usize];
            self.tree.wake(index, len);
            index = parent;
        }
    }

    /// Takes a reader from a segment. What nobody reads any more is free, or idle when the tree holds it.
    pub(super) fn let_go(&mut self, segment: u32, runs: &mut FreeRuns, order: Evict) {
        let Some(n_referrers) = self.n_referrers.get_mut(segment as usize) else { return };
        *n_referrers -= 1;
        let mut index = segment;
        while index != NO_SEGMENT {
            self.n_readers[index as usize] -= 1;
            if self.n_readers[index as usize] > 0 {
                return;
            }
            let Segment { start, len, parent, .. } = self.pool[index as usize];
            if self.tree.holds(index) {
                self.tree.fall_idle(index, len, order);
            } else {
                runs.give(start.0, len);
                self.discard(index);
                if parent != NO_SEGMENT {
                    self.n_referrers[parent as usize] -= 1;
                }
            }
            index = parent;
        }
    }

    /// Slots at the end of a chain that one reader reads.
    pub(super) fn n_private(&self, last: u32) -> u32 {
        let (mut index, mut n) = (last, 0);
        while index != NO_SEGMENT && self.n_readers[index as usize] == 1 {
            n += self.pool[index as usize].len;
            index = self.pool[index as usize].parent;
        }
        n
    }

    /// Joins `last`, which is read, with the segments before it as far as only the chain refers to them and the
    /// slots adjoin: what splits for forks that are gone left behind.
    pub(super) fn join(&mut self, last: u32) {
        while let Some(&segment) = self.pool.get(last as usize) {
            let before = segment.parent;
            if self.slot_behind(before) != Some(segment.start.0) {
                return;
            }
            let is_node = self.tree.holds(last);
            let n_referrers = 1 + u32::from(is_node);
            if self.tree.holds(before) != is_node
                || self.n_referrers[before as usize] != n_referrers
            {
                return;
            }
            let parent = self.pool[before as usize];
            let joined = Segment { len: parent.len + segment.len, ..parent };
            if is_node {
                self.tree.unlink(last, &segment);
                self.tree.unlink(before, &parent);
                self.tree.link(last, &joined);
            }
            self.pool[last as usize] = joined;
            self.discard(before);
        }
    }

    /// Splits segment `index` after `keep` of its tokens and returns the new segment in front. Referrers stay with
    /// the part behind, which ends where the whole did.
    pub(super) fn split(&mut self, index: u32, keep: u32) -> u32 {
        let whole = self.pool[index as usize];
        let front = self.add(Segment { len: keep, ..whole });
        let behind = Segment {
            start: Slot(whole.start.0 + keep),
            len: whole.len - keep,
            first_position: whole.first_position + keep,
            parent: front,
        };
        self.pool[index as usize] = behind;
        if self.tree.holds(index) {
            self.n_referrers[front as usize] += 1;
            self.tree.unlink(index, &whole);
            self.tree.join_space(front, index);
            self.tree.link(front, &Segment { len: keep, ..whole });
            self.tree.link(index, &behind);
            if self.n_readers[index as usize] == 0 {
                self.n_readers[front as usize] = 0;
                self.tree.idle.insert(front, index);
            }
        }
        front
    }

    /// Adds a segment with one referrer, a reader.
    fn add(&mut self, segment: Segment) -> u32 {
        let index = self.unused;
        if let Some(unused) = self.pool.get_mut(index as usize) {
            self.unused = unused.parent;
            *unused = segment;
            self.n_referrers[index as usize] = 1;
            self.n_readers[index as usize] = 1;
            return index;
        }
        self.pool.push(segment);
        self.n_referrers.push(1);
        self.n_readers.push(1);
        (self.pool.len() - 1) as u32
    }

    /// Forgets a segment that nobody refers to and that is in no list.
    pub(super) fn discard(&mut self, index: u32) {
        self.pool[index as usize] = Segment { parent: self.unused, ..Segment::default() };
        self.n_referrers[index as usize] = 0;
        self.n_readers[index as usize] = 0;
        self.tree.leave_space(index);
        self.unused = index;
    }
}
