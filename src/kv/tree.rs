//! What makes segments a radix tree: the tokens in their slots, and who begins with which token behind whom.
//!
//! A node is a segment. Its tokens stand with its slots, so nothing is kept twice, and there are never more nodes
//! than slots. Whether tokens are equal is decided by comparing them.
#![forbid(unsafe_code)]

use super::chains::{Chains, hash};
use super::idle::{Evict, Idle};
use super::spaces::Spaces;
use super::{filled, reserved};
use crate::error::Result;
use crate::ids::{NO_SEGMENT, Segment, Slot, TokenId};

/// The namespace of a segment that is not in the tree.
const PRIVATE: u32 = u32::MAX;

/// The tree's side of all segments.
#[derive(Debug)]
pub(super) struct Tree {
    /// `[total_tokens]` the token in each slot, as far as it was told.
    tokens: Vec<TokenId>,
    /// `[total_tokens]` each segment's namespace, or [`PRIVATE`].
    space_of: Vec<u32>,
    children: Chains,
    pub(super) idle: Idle,
    pub(super) spaces: Spaces,
    /// Slots in the tree.
    pub(super) n_slots: u32,
    /// Those that nobody reads and that may be evicted.
    pub(super) n_evictable: u32,
    /// Those that nobody reads.
    pub(super) n_idle: u32,
}

impl Tree {
    pub(super) fn new(total_tokens: u32) -> Result<Tree> {
        let n = total_tokens as usize;
        let mut tokens = reserved(n)?;
        tokens.resize(n, TokenId(0));
        Ok(Tree {
            tokens,
            space_of: filled(n, PRIVATE)?,
            children: Chains::new(total_tokens.div_ceil(4), total_tokens)?,
            idle: Idle::new(total_tokens)?,
            spaces: Spaces::new()?,
            n_slots: 0,
            n_evictable: 0,
            n_idle: 0,
        })
    }

    /// Heap bytes of `new(total_tokens)`.
    pub(super) fn bytes(total_tokens: u32) -> u64 {
        let per_slot = size_of::<TokenId>() + size_of::<u32>();
        u64::from(total_tokens) * per_slot as u64
            + Chains::bytes(total_tokens.div_ceil(4), total_tokens)
            + Idle::bytes(total_tokens)
            + Spaces::bytes()
    }

    /// Notes which token a slot has.
    pub(super) fn set_token(&mut self, slot: Slot, token: TokenId) {
        self.tokens[slot.0 as usize] = token;
    }

    pub(super) fn tokens(&self, segment: &Segment) -> &[TokenId] {
        &self.tokens[segment.start.0 as usize..][..segment.len as usize]
    }

    pub(super) fn holds(&self, index: u32) -> bool {
        self.space_of[index as usize] != PRIVATE
    }

    pub(super) fn space_of(&self, index: u32) -> u32 {
        self.space_of[index as usize]
    }

    /// The node behind `parent` ([`NO_SEGMENT`]: the first one) that begins with `token`.
    pub(super) fn child(
        &self,
        pool: &[Segment],
        parent: u32,
        space: u32,
        token: TokenId,
    ) -> Option<u32> {
        self.children.find(key(parent, space, token), |index| {
            let segment = &pool[index as usize];
            segment.parent == parent
                && self.space_of[index as usize] == space
                && self.tokens[segment.start.0 as usize] == token
        })
    }

    /// Adds a segment that is read.
    pub(super) fn add(&mut self, index: u32, segment: &Segment, space: u32) {
        self.space_of[index as usize] = space;
        self.spaces.add_slots(space, segment.len);
        self.n_slots += segment.len;
        self.link(index, segment);
    }

    /// Puts node `index` among the children of its segment's parent.
    pub(super) fn link(&mut self, index: u32, segment: &Segment) {
        let key = self.key_of(index, segment);
        self.children.insert(key, index);
    }

    /// Undoes [`link`](Self::link); `segment` as it was then.
    pub(super) fn unlink(&mut self, index: u32, segment: &Segment) {
        let key = self.key_of(index, segment);
        self.children.remove(key, index);
    }

    /// Makes `index` a node of `other`'s namespace, without linking it.
    pub(super) fn join_space(&mut self, index: u32, other: u32) {
        self.space_of[index as usize] = self.space_of[other as usize];
    }

    /// A node that is discarded is of no namespace.
    pub(super) fn leave_space(&mut self, index: u32) {
        self.space_of[index as usize] = PRIVATE;
    }

    /// A node's last reader has left.
    pub(super) fn fall_idle(&mut self, index: u32, n_slots: u32, order: Evict) {
        let space = self.space_of[index as usize];
        self.spaces.add_idle(space, n_slots);
        self.n_idle += n_slots;
        if self.spaces.get(space).settings.is_pinned {
            return self.idle.push(index, Evict::Never);
        }
        self.n_evictable += n_slots;
        self.idle.push(index, order);
    }

    /// A node that nobody read is read again.
    pub(super) fn wake(&mut self, index: u32, n_slots: u32) {
        self.idle.remove(index);
        self.forget_idle(index, n_slots);
    }

    /// `n_slots` slots of an idle node are no longer idle.
    fn forget_idle(&mut self, index: u32, n_slots: u32) {
        let space = self.space_of[index as usize];
        self.spaces.remove_idle(space, n_slots);
        self.n_idle -= n_slots;
        if !self.spaces.get(space).settings.is_pinned {
            self.n_evictable -= n_slots;
        }
    }

    /// `n_slots` slots of an idle node leave the tree.
    pub(super) fn remove_slots(&mut self, index: u32, n_slots: u32) {
        self.forget_idle(index, n_slots);
        self.spaces.remove_slots(self.space_of[index as usize], n_slots);
        self.n_slots -= n_slots;
    }

    fn key_of(&self, index: u32, segment: &Segment) -> u64 {
        let token = self.tokens[segment.start.0 as usize];
        key(segment.parent, self.space_of[index as usize], token)
    }
}

/// Where to look for a child.
fn key(parent: u32, space: u32, token: TokenId) -> u64 {
    let parent = if parent == NO_SEGMENT { 1 << 32 | u64::from(space) } else { u64::from(parent) };
    hash(parent, u64::from(token.0))
}
