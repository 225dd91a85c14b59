//! What happens when an answer became longer than expected: somebody gives slots up, and goes on later.
//!
//! A paused answer leaves its slots to the tree, where they are evicted last, and keeps its place, its tokens, its
//! sampler's counter and its text. It goes on as if nothing had been, and computes again only what was evicted.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use super::schedule::Scheduler;
use crate::error::Result;
use crate::kv::{Evict, KvRepo};

/// An answer that was paused so often runs again only with all that it may ever need, and then to its end.
pub(super) const MAX_PAUSES: u32 = 4;

impl Scheduler {
    /// Pauses others than `keep` until `n` slots are free, and returns whether they are.
    pub(super) fn make_room(
        &mut self,
        kv: &mut KvRepo,
        n: usize,
        keep: Option<usize>,
    ) -> Result<bool> {
        while (kv.free_slots() as usize) < n {
            let Some(place) = self.victim(kv, keep)? else { return Ok(false) };
            self.pause(kv, place)?;
        }
        Ok(true)
    }

    /// Who is to be paused: of the lowest priority, who loses least. The first in line only if nobody else can be,
    /// and nobody who is alone.
    pub(super) fn victim(&self, kv: &KvRepo, keep: Option<usize>) -> Result<Option<usize>> {
        let (mut victim, mut least) = (None, None);
        for (at, &place) in self.running.iter().enumerate() {
            let answer = &self.answers[place];
            let Some(sequence) = answer.sequence else { continue };
            if answer.n_pauses >= MAX_PAUSES || keep == Some(place) || self.running.len() == 1 {
                continue;
            }
            let n_lost = kv.private_slots(sequence)?;
            let loss = (at == 0, self.priority(place), n_lost, Reverse(at));
            if least.is_none_or(|least| loss < least) {
                (victim, least) = (Some(place), Some(loss));
            }
        }
        Ok(victim)
    }

    /// Pauses an answer that has no rows in the batch.
    pub(super) fn pause(&mut self, kv: &mut KvRepo, place: usize) -> Result<()> {
        let answer = &mut self.answers[place];
        let Some(request) = &self.requests[answer.request] else { return Ok(()) };
        if let Some(sequence) = answer.sequence.take() {
            kv.give(sequence, request.name_space, Evict::Last)?;
        }
        answer.n_fed = 0;
        answer.n_pauses += 1;
        self.tally.counts.pauses += 1;
        self.running.retain(|&running| running != place);
        self.push_paused(place);
        Ok(())
    }
}
