//! Segments that nobody reads, in the order in which they are evicted.
//!
//! A segment comes to the end of a list when its last reader leaves, and readers leave a path from its end to its
//! beginning. So a segment stands before the one that it follows in its sequence, and the first of a list is a leaf:
//! the least recently used one.
#![forbid(unsafe_code)]

use super::filled;
use crate::error::Result;

/// When slots that only the tree holds are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evict {
    First,
    /// When nothing else is left: somebody will come back for them.
    Last,
    Never,
}

const ORDERS: [Evict; 3] = [Evict::First, Evict::Last, Evict::Never];

/// A list for each order, linked through reserved arrays; a ring that begins and ends in an element of its own.
#[derive(Debug)]
pub(super) struct Idle {
    n_segments: u32,
    /// `[n_segments + 3]`
    previous: Vec<u32>,
    /// `[n_segments + 3]`
    next: Vec<u32>,
}

impl Idle {
    pub(super) fn new(n_segments: u32) -> Result<Idle> {
        let n = n_segments as usize + ORDERS.len();
        let mut idle = Idle { n_segments, previous: filled(n, 0)?, next: filled(n, 0)? };
        for order in ORDERS {
            let ring = idle.ring(order);
            (idle.previous[ring as usize], idle.next[ring as usize]) = (ring, ring);
        }
        Ok(idle)
    }

    /// Heap bytes of `new(n_segments)`.
    pub(super) fn bytes(n_segments: u32) -> u64 {
        2 * (u64::from(n_segments) + ORDERS.len() as u64) * size_of::<u32>() as u64
    }

    /// The one to evict first.
    pub(super) fn first(&self, order: Evict) -> Option<u32> {
        self.behind(self.ring(order))
    }

    /// The one to evict after `segment`.
    pub(super) fn behind(&self, segment: u32) -> Option<u32> {
        let next = self.next[segment as usize];
        (next < self.n_segments).then_some(next)
    }

    /// Adds a segment at the end.
    pub(super) fn push(&mut self, segment: u32, order: Evict) {
        let last = self.previous[self.ring(order) as usize];
        self.insert(segment, last);
    }

    /// Adds a segment right behind another.
    pub(super) fn insert(&mut self, segment: u32, before: u32) {
        let behind = std::mem::replace(&mut self.next[before as usize], segment);
        self.previous[behind as usize] = segment;
        (self.previous[segment as usize], self.next[segment as usize]) = (before, behind);
    }

    /// Takes a segment out of its list.
    pub(super) fn remove(&mut self, segment: u32) {
        let (before, behind) = (self.previous[segment as usize], self.next[segment as usize]);
        self.next[before as usize] = behind;
        self.previous[behind as usize] = before;
    }

    /// Notes what follows a segment that is in no list.
    pub(super) fn set_follower(&mut self, segment: u32, follower: u32) {
        self.next[segment as usize] = follower;
    }

    /// What [`set_follower`](Self::set_follower) noted.
    pub(super) fn follower(&self, segment: u32) -> u32 {
        self.next[segment as usize]
    }

    fn ring(&self, order: Evict) -> u32 {
        self.n_segments + order as u32
    }
}
