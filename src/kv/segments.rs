//! The pool of segments: a forest, in which every path from a leaf to its root spells a sequence's slots.
//!
//! A segment owns its slots alone, so there are never more segments than slots and the pool is reserved once. It
//! counts who refers to it: the segments behind it, and the sequences that end with it. It goes when nobody does.
#![forbid(unsafe_code)]

use super::reserved;
use super::slots::FreeRuns;
use crate::error::Result;
use crate::ids::{NO_SEGMENT, Segment, Slot};

/// All segments of the KV repo.
#[derive(Debug)]
pub(super) struct Segments {
    /// Unused ones form a list through `parent`.
    pool: Vec<Segment>,
    /// Referrers of each segment, 0 when unused.
    n_referrers: Vec<u32>,
    unused: u32,
}

impl Segments {
    pub(super) fn new(n_slots: u32) -> Result<Segments> {
        let n = n_slots as usize;
        Ok(Segments { pool: reserved(n)?, n_referrers: reserved(n)?, unused: NO_SEGMENT })
    }

    /// Heap bytes of `new(n_slots)`.
    pub(super) fn bytes(n_slots: u32) -> u64 {
        u64::from(n_slots) * (size_of::<Segment>() + size_of::<u32>()) as u64
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

    /// Adds a reference to the first `n_tokens` of the chain that ends with `last`, and returns the segment that
    /// it holds. A segment in which they end is split.
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
        self.n_referrers[end as usize] += 1;
        end
    }

    /// Moves a reference from `last` to the first `n_tokens` of its chain, and returns the segment that it holds
    /// then. Slots that nobody refers to any more become free.
    pub(super) fn cut(&mut self, mut last: u32, n_tokens: u32, runs: &mut FreeRuns) -> u32 {
        while last != NO_SEGMENT && self.n_referrers[last as usize] == 1 {
            let segment = &mut self.pool[last as usize];
            let keep = n_tokens.saturating_sub(segment.first_position).min(segment.len);
            runs.give(segment.start.0 + keep, segment.len - keep);
            if keep > 0 {
                segment.len = keep;
                return last;
            }
            let parent = segment.parent;
            self.discard(last);
            last = parent;
        }
        if last == NO_SEGMENT {
            return last;
        }
        let end = self.share(last, n_tokens);
        self.n_referrers[last as usize] -= 1;
        end
    }

    /// Joins `last` with the segments before it as far as only the chain refers to them and the slots adjoin:
    /// what splits for forks that are gone left behind.
    pub(super) fn join(&mut self, last: u32) {
        while let Some(&segment) = self.pool.get(last as usize) {
            let adjoins = self.slot_behind(segment.parent) == Some(segment.start.0);
            if !adjoins || self.n_referrers[segment.parent as usize] != 1 {
                return;
            }
            let parent = self.pool[segment.parent as usize];
            self.pool[last as usize] = Segment { len: parent.len + segment.len, ..parent };
            self.discard(segment.parent);
        }
    }

    /// Splits segment `index` after `keep` of its tokens and returns the new segment in front. Referrers stay with
    /// the part behind, which ends where the whole did.
    fn split(&mut self, index: u32, keep: u32) -> u32 {
        let whole = self.pool[index as usize];
        let front = self.add(Segment { len: keep, ..whole });
        self.pool[index as usize] = Segment {
            start: Slot(whole.start.0 + keep),
            len: whole.len - keep,
            first_position: whole.first_position + keep,
            parent: front,
        };
        front
    }

    /// Adds a segment with one referrer.
    fn add(&mut self, segment: Segment) -> u32 {
        let index = self.unused;
        if let Some(unused) = self.pool.get_mut(index as usize) {
            self.unused = unused.parent;
            *unused = segment;
            self.n_referrers[index as usize] = 1;
            return index;
        }
        self.pool.push(segment);
        self.n_referrers.push(1);
        (self.pool.len() - 1) as u32
    }

    fn discard(&mut self, index: u32) {
        self.pool[index as usize] = Segment { parent: self.unused, ..Segment::default() };
        self.n_referrers[index as usize] = 0;
        self.unused = index;
    }
}
