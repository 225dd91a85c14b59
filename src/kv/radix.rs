//! The radix tree: finding the longest known prefix, taking a sequence in, evicting.
#![forbid(unsafe_code)]

use super::idle::Evict;
use super::segments::Segments;
use super::slots::FreeRuns;
use crate::ids::{NO_SEGMENT, Segment, TokenId};

/// Told of every eviction: namespace and tokens.
pub(super) type Evicted<'a> = dyn FnMut(u64, u32) + 'a;

/// The longest prefix of some tokens that the tree has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefix {
    /// The node that it ends in.
    pub(super) last: u32,
    pub(super) n_tokens: u32,
    /// Those of its tokens whose slots nobody reads.
    pub(super) n_idle: u32,
}

impl Segments {
    /// Looks for the longest prefix of `tokens`.
    pub(super) fn find(&self, space: u64, tokens: impl Iterator<Item = TokenId>) -> Prefix {
        let none = Prefix { last: NO_SEGMENT, n_tokens: 0, n_idle: 0 };
        match self.tree.spaces.find(space) {
            Some(space) => self.find_behind(none, space, tokens),
            None => none,
        }
    }

    /// Looks how far `tokens` go on behind a prefix that ends where its last node does.
    pub(super) fn find_behind(
        &self,
        mut prefix: Prefix,
        space: u32,
        tokens: impl Iterator<Item = TokenId>,
    ) -> Prefix {
        let mut tokens = tokens.peekable();
        while let Some(&token) = tokens.peek() {
            let child = self.tree.child(&self.pool, prefix.last, space, token);
            let Some(child) = child else { break };
            let segment = &self.pool[child as usize];
            let known = self.tree.tokens(segment).iter();
            let n = known.take_while(|known| tokens.next_if_eq(known).is_some()).count() as u32;
            prefix.last = child;
            prefix.n_tokens += n;
            if self.n_readers[child as usize] == 0 {
                prefix.n_idle += n;
            }
            if n < segment.len {
                break;
            }
        }
        prefix
    }

    /// Takes the chain that ends with `last` into the tree, and returns the segment that its reader refers to then.
    /// Where the tree has the tokens already, the chain goes over to the tree's slots, and its own are free at once
    /// unless somebody else reads them. Without room for a further namespace nothing happens.
    pub(super) fn publish(&mut self, last: u32, name: u64, runs: &mut FreeRuns) -> u32 {
        if last == NO_SEGMENT || self.tree.holds(last) {
            return last;
        }
        let Some(space) = self.tree.spaces.find_or_add(name) else { return last };
        let (mut node, mut index) = (last, NO_SEGMENT);
        while node != NO_SEGMENT && !self.tree.holds(node) {
            self.tree.idle.set_follower(node, index);
            index = node;
            node = self.pool[node as usize].parent;
        }
        while index != NO_SEGMENT {
            let follower = self.tree.idle.follower(index);
            node = self.adopt(node, index, space, runs);
            if node != index {
                // All of it was there: who follows it, or reads to its end, follows the tree's.
                self.acquire(node);
                if let Some(follower) = self.pool.get_mut(follower as usize) {
                    follower.parent = node;
                }
                self.let_go(index, runs, Evict::First);
            }
            index = follower;
        }
        node
    }

    /// Takes one segment in behind `node` and returns the node where its tokens end: the segment itself, or one that
    /// has them.
    fn adopt(&mut self, mut node: u32, index: u32, space: u32, runs: &mut FreeRuns) -> u32 {
        loop {
            let segment = self.pool[index as usize];
            let tokens = self.tree.tokens(&segment);
            let Some(child) = self.tree.child(&self.pool, node, space, tokens[0]) else {
                self.tree.add(index, &segment, space);
                self.n_referrers[index as usize] += 1;
                return index;
            };
            let known = self.tree.tokens(&self.pool[child as usize]);
            let n_equal = tokens.iter().zip(known).take_while(|(a, b)| a == b).count() as u32;
            let n_known = known.len() as u32;
            node = if n_equal < n_known { self.split(child, n_equal) } else { child };
            if n_equal == segment.len {
                return node;
            }
            let double = self.split(index, n_equal);
            self.acquire(node);
            self.pool[index as usize].parent = node;
            self.let_go(double, runs, Evict::First);
        }
    }

    /// Evicts up to `n_slots` slots, the least recently used first. A leaf may lose its end only.
    pub(super) fn evict(&mut self, n_slots: u32, runs: &mut FreeRuns, evicted: &mut Evicted<'_>) {
        let mut n_missing = n_slots;
        while n_missing > 0 {
            let idle = &self.tree.idle;
            let (first, last) = (idle.first(Evict::First), idle.first(Evict::Last));
            let Some(index) = first.or(last) else { return };
            if self.is_leaf(index) {
                n_missing -= self.evict_end(index, n_missing, runs, evicted);
            } else {
                // Nodes behind it are evicted last, so it is, too.
                self.tree.idle.remove(index);
                self.tree.idle.push(index, Evict::Last);
            }
        }
    }

    /// Evicts from one namespace until it keeps to its quota of idle slots.
    pub(super) fn keep_quota(
        &mut self,
        space: u32,
        runs: &mut FreeRuns,
        evicted: &mut Evicted<'_>,
    ) {
        loop {
            let entry = self.tree.spaces.get(space);
            let n_over = entry.n_idle.saturating_sub(entry.settings.max_idle_slots);
            if n_over == 0 {
                return;
            }
            let orders = [Evict::First, Evict::Last, Evict::Never];
            let leaf = orders.into_iter().find_map(|order| self.first_leaf(space, order));
            let Some(leaf) = leaf else { return };
            self.evict_end(leaf, n_over, runs, evicted);
        }
    }

    /// Moves a namespace's idle nodes to or from the list of those that are never evicted, in their order.
    pub(super) fn relist(&mut self, space: u32, is_pinned: bool) {
        let (sources, target): (&[Evict], Evict) = match is_pinned {
            true => (&[Evict::First, Evict::Last], Evict::Never),
            false => (&[Evict::Never], Evict::First),
        };
        for &source in sources {
            let mut next = self.tree.idle.first(source);
            while let Some(index) = next {
                next = self.tree.idle.behind(index);
                if self.tree.space_of(index) == space {
                    self.tree.idle.remove(index);
                    self.tree.idle.push(index, target);
                }
            }
        }
    }

    /// The namespace's least recently used leaf in a list.
    fn first_leaf(&self, space: u32, order: Evict) -> Option<u32> {
        let mut index = self.tree.idle.first(order)?;
        while self.tree.space_of(index) != space || !self.is_leaf(index) {
            index = self.tree.idle.behind(index)?;
        }
        Some(index)
    }

    /// Whether only the tree refers to an idle node.
    fn is_leaf(&self, index: u32) -> bool {
        self.n_referrers[index as usize] == 1
    }

    /// Evicts up to `n_slots` slots from the end of an idle leaf and returns how many.
    fn evict_end(
        &mut self,
        index: u32,
        n_slots: u32,
        runs: &mut FreeRuns,
        evicted: &mut Evicted<'_>,
    ) -> u32 {
        let segment = self.pool[index as usize];
        let Segment { start, len, parent, .. } = segment;
        let n = len.min(n_slots);
        let space = self.tree.space_of(index);
        evicted(self.tree.spaces.get(space).name, n);
        runs.give(start.0 + len - n, n);
        self.tree.remove_slots(index, n);
        if n < len {
            self.pool[index as usize].len = len - n;
            return n;
        }
        self.tree.idle.remove(index);
        self.tree.unlink(index, &segment);
        self.discard(index);
        if parent != NO_SEGMENT {
            self.n_referrers[parent as usize] -= 1;
        }
        self.tree.spaces.forget_empty(space);
        n
    }
}
