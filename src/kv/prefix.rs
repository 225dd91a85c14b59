//! The prefix cache as its users see it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::blocks::BLOCK;
use super::idle::Evict;
use super::radix::{Evicted, Prefix};
use super::sequences::Sequence;
use super::spaces::NameSpaceSettings;
use super::{KvRepo, ROOMY, segments::Segments, slots::FreeRuns};
use crate::error::Result;
use crate::ids::{SequenceHandle, Slot, TokenId};

/// How much of some tokens the tree has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cached {
    pub n_tokens: u32,
    /// Those of them whose slots count as free as long as nobody reads them.
    pub n_idle: u32,
}

/// Called with namespace and number of tokens when they are evicted, during the call that needs the slots. It must
/// not call the engine.
#[derive(Clone, Default)]
pub struct OnEvicted(pub Option<Arc<dyn Fn(u64, u64) + Send + Sync>>);

impl std::fmt::Debug for OnEvicted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "OnEvicted" } else { "none" })
    }
}

impl KvRepo {
    /// How many of the first `tokens` of a namespace are cached.
    pub fn cached(&self, name_space: u64, tokens: impl Iterator<Item = TokenId>) -> Cached {
        let Prefix { n_tokens, n_idle, .. } = self.segments.find(name_space, tokens);
        Cached { n_tokens, n_idle }
    }

    /// Opens a sequence with as many of the first `tokens` of a namespace as are cached, and returns their number.
    /// As long as it is open they are not evicted.
    ///
    /// # Errors
    /// `LimitReached` names max_sequences.
    pub fn open_cached(
        &mut self,
        name_space: u64,
        tokens: impl Iterator<Item = TokenId>,
    ) -> Result<(SequenceHandle, u32)> {
        self.sequences.check_room()?;
        let most = self.max_sequence_tokens as usize;
        let Prefix { last, n_tokens, .. } = self.segments.find(name_space, tokens.take(most));
        let last_segment = self.segments.share(last, n_tokens);
        Ok((self.sequences.open(Sequence { last_segment, n_tokens })?, n_tokens))
    }

    /// Extends a sequence, all of whose tokens are published, by as many of the `tokens` behind them as are cached, and
    /// returns its length. One that has tokens of its own stays as it is.
    ///
    /// # Errors
    /// `StaleHandle`.
    pub fn extend_cached(
        &mut self,
        sequence: SequenceHandle,
        name_space: u64,
        tokens: impl Iterator<Item = TokenId>,
    ) -> Result<u32> {
        let Sequence { last_segment: last, n_tokens } = self.sequences.get(sequence)?;
        let tree = &self.segments.tree;
        let Some(space) = tree.spaces.find(name_space) else { return Ok(n_tokens) };
        if n_tokens > 0 && (!tree.holds(last) || tree.space_of(last) != space) {
            return Ok(n_tokens);
        }
        let before = Prefix { last, n_tokens, n_idle: 0 };
        let tokens = tokens.take((self.max_sequence_tokens - n_tokens) as usize);
        let found = self.segments.find_behind(before, space, tokens);
        if found.n_tokens > n_tokens {
            let last_segment = self.segments.share(found.last, found.n_tokens);
            self.segments.let_go(last, &mut self.runs, Evict::First);
            let n_tokens = found.n_tokens;
            *self.sequences.get_mut(sequence)? = Sequence { last_segment, n_tokens };
        }
        Ok(found.n_tokens)
    }

    /// Slots at a sequence's end that nobody else reads.
    ///
    /// # Errors
    /// `StaleHandle`.
    pub fn private_slots(&self, sequence: SequenceHandle) -> Result<u32> {
        Ok(self.segments.n_private(self.sequences.get(sequence)?.last_segment))
    }

    /// As [`append`](Self::append), and notes the tokens, one for each slot, so that the sequence can be cached.
    ///
    /// # Errors
    /// Those of `append`.
    pub fn append_tokens(
        &mut self,
        sequence: SequenceHandle,
        tokens: &[TokenId],
        slots: &mut [Slot],
    ) -> Result<()> {
        self.append(sequence, slots)?;
        slots.iter().zip(tokens).for_each(|(&slot, &token)| {
            self.segments.tree.set_token(slot, token);
        });
        Ok(())
    }

    /// Lets others read what a sequence has computed, while it goes on. All its tokens came from the tree or through
    /// [`append_tokens`](Self::append_tokens), and their K and V are there. What the tree has already is kept once.
    ///
    /// # Errors
    /// `StaleHandle`.
    pub fn publish(&mut self, sequence: SequenceHandle, name_space: u64) -> Result<()> {
        let Sequence { last_segment, n_tokens } = self.sequences.get(sequence)?;
        let last_segment = self.segments.publish(last_segment, name_space, &mut self.runs);
        *self.sequences.get_mut(sequence)? = Sequence { last_segment, n_tokens };
        Ok(())
    }

    /// Closes a sequence as [`release`](Self::release) does and leaves its tokens to the tree, under the conditions
    /// of [`publish`](Self::publish).
    ///
    /// # Errors
    /// `StaleHandle`.
    pub fn give(&mut self, sequence: SequenceHandle, name_space: u64, order: Evict) -> Result<()> {
        self.publish(sequence, name_space)?;
        let last_segment = self.sequences.get(sequence)?.last_segment;
        self.segments.let_go(last_segment, &mut self.runs, order);
        self.sequences.close(sequence)?;
        if let Some(space) = self.segments.tree.spaces.find(name_space) {
            self.evicting(|segments, runs, evicted| segments.keep_quota(space, runs, evicted));
        }
        Ok(())
    }

    /// Sets a namespace's quota and whether it is pinned. `Default` forgets both.
    ///
    /// # Errors
    /// `LimitReached` when [`MAX_NAME_SPACES`](super::MAX_NAME_SPACES) others are known.
    pub fn set_name_space(&mut self, name_space: u64, settings: NameSpaceSettings) -> Result<()> {
        let tree = &mut self.segments.tree;
        let before = tree.spaces.find(name_space).map(|index| *tree.spaces.get(index));
        let was_pinned = before.is_some_and(|space| space.settings.is_pinned);
        let n_idle = before.map_or(0, |space| space.n_idle);
        let space = tree.spaces.set(name_space, settings)?;
        if was_pinned != settings.is_pinned {
            match settings.is_pinned {
                true => tree.n_evictable -= n_idle,
                false => tree.n_evictable += n_idle,
            }
            self.segments.relist(space, settings.is_pinned);
        }
        self.evicting(|segments, runs, evicted| segments.keep_quota(space, runs, evicted));
        self.segments.tree.spaces.forget_empty(space);
        Ok(())
    }

    /// Evicts everything that nobody reads and nobody has pinned.
    pub fn flush(&mut self) {
        let n = self.segments.tree.n_evictable;
        self.evicting(|segments, runs, evicted| segments.evict(n, runs, evicted));
    }

    /// Whom to tell of evictions.
    pub fn on_evicted(&mut self, hook: OnEvicted) {
        self.on_evicted = hook;
    }

    /// Slots that the tree holds, read or not.
    pub fn tree_slots(&self) -> u32 {
        self.segments.tree.n_slots
    }

    /// Slots that hold nothing, without evicting.
    pub fn empty_slots(&self) -> u32 {
        self.runs.n_free()
    }

    /// Slots that sharing saves: what open sequences would hold more if each had its own.
    pub fn shared_slots(&self) -> u64 {
        let n_idle = self.segments.tree.n_idle;
        let n_read = self.total_tokens - self.runs.n_free() - n_idle;
        self.sequences.n_tokens().saturating_sub(u64::from(n_read))
    }

    /// Slots evicted so far.
    pub fn n_evicted(&self) -> u64 {
        self.n_evicted
    }

    /// Evicts until `n` slots hold nothing, as far as possible. Where they would not lie behind `last` and no long run
    /// is free, some more until there are free blocks: slots that are evicted one by one would be taken one by one,
    /// by sequences that grow in turn, and in the end every token would lie by itself.
    pub(super) fn make_room(&mut self, last: u32, n: u32) {
        let n_missing = n.saturating_sub(self.runs.n_free());
        if n_missing > 0 {
            self.evicting(|segments, runs, evicted| segments.evict(n_missing, runs, evicted));
        }
        let behind = self.segments.slot_behind(last);
        if behind.is_some_and(|slot| self.runs.n_at(slot) >= n)
            || self.runs.longest() >= n.saturating_add(ROOMY)
        {
            return;
        }
        while self.runs.blocks.n_free() < n.div_ceil(BLOCK)
            && self.runs.n_free() < self.spare
            && self.segments.tree.n_evictable > 0
        {
            self.evicting(|segments, runs, evicted| segments.evict(BLOCK, runs, evicted));
        }
    }

    /// Does what may evict, and tells of it.
    fn evicting(&mut self, work: impl FnOnce(&mut Segments, &mut FreeRuns, &mut Evicted<'_>)) {
        let KvRepo { segments, runs, on_evicted, n_evicted, .. } = self;
        work(segments, runs, &mut |name_space, n_tokens| {
            *n_evicted += u64::from(n_tokens);
            if let Some(hook) = &on_evicted.0 {
                hook(name_space, u64::from(n_tokens));
            }
        });
    }
}
