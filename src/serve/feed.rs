//! What a step computes: tokens that are known but have no K and V yet.
//!
//! Answers that lack one token come first, in turns when they are too many. What is left of the batch goes to prompts
//! (and to what paused answers lost) in the order of the line. Of several with the same beginning one computes it, and
//! the others wait until they find it in the tree.
#![forbid(unsafe_code)]

use super::batch::StepBatch;
use super::events::{EventKind, Failure};
use super::pass::Fed;
use super::schedule::Scheduler;
use crate::error::{Error, Result};
use crate::kv::KvRepo;

/// Common tokens for which it pays to wait a step; a begin-of-text token in common should not hold up anyone.
const MIN_COMMON: usize = 16;

impl Scheduler {
    /// The rows of answers that lack one token only.
    pub(super) fn feed_decode(&mut self, kv: &mut KvRepo, batch: &mut StepBatch) -> Result<()> {
        self.choose_decode();
        while (kv.free_slots() as usize) < self.order.len() {
            let Some(place) = self.victim(kv, None)? else { break };
            self.pause(kv, place)?;
            self.choose_decode();
        }
        for at in 0..self.order.len() {
            let place = self.order[at];
            self.feed(kv, batch, place, 1, false)?;
        }
        Ok(())
    }

    /// Lists who decodes in this step: those whose turn is longest ago.
    fn choose_decode(&mut self) {
        let Scheduler { order, running, answers, requests, .. } = &mut *self;
        order.clear();
        order.extend(running.iter().copied().filter(|&place| {
            let answer = &answers[place];
            requests[answer.request].as_ref().is_some_and(|request| answer.n_to_feed(request) == 1)
        }));
        let n_most = (self.limits.max_batch_rows as usize).min(self.n_free_events());
        if self.order.len() > n_most {
            let answers = &self.answers;
            self.order.sort_unstable_by_key(|&place| (answers[place].last_turn, place));
            self.order.truncate(n_most);
        }
    }

    /// Rows of prompts, as many as the batch still holds.
    pub(super) fn feed_prompts(&mut self, kv: &mut KvRepo, batch: &mut StepBatch) -> Result<()> {
        self.order.clear();
        self.order.extend_from_slice(&self.running);
        let mut without_slots = None;
        for at in 0..self.order.len() {
            let n_rows_left = self.limits.max_batch_rows as usize - batch.n_rows();
            let place = self.order[at];
            if n_rows_left == 0 {
                break;
            }
            if self.n_to_feed(place) <= 1 {
                continue;
            }
            self.extend(kv, place)?;
            if self.waits_for_another(kv, batch, place)? {
                continue;
            }
            match self.n_feedable(place).min(n_rows_left) {
                0 => {}
                n => match n.min(kv.free_slots() as usize) {
                    0 => without_slots = without_slots.or(Some(place)),
                    n => self.feed(kv, batch, place, n, true)?,
                },
            }
        }
        match without_slots {
            Some(place) if batch.n_rows() == 0 => self.feed_blocked(kv, batch, place),
            _ => Ok(()),
        }
    }

    /// Nobody could compute anything: others give way to the first who lacks slots. If that does not help, the host
    /// holds them, and it ends.
    fn feed_blocked(&mut self, kv: &mut KvRepo, batch: &mut StepBatch, place: usize) -> Result<()> {
        self.make_room(kv, 1, Some(place))?;
        let n_most = self.n_feedable(place).min(self.limits.max_batch_rows as usize);
        let n = n_most.min(kv.free_slots() as usize).max(1);
        self.feed(kv, batch, place, n, true)
    }

    /// Takes over what others have computed meanwhile of an answer's next tokens.
    fn extend(&mut self, kv: &mut KvRepo, place: usize) -> Result<()> {
        let answer = &self.answers[place];
        let (Some(request), Some(sequence)) = (&self.requests[answer.request], answer.sequence)
        else {
            return Ok(());
        };
        let tokens = answer.next_tokens(request, answer.n_to_feed(request) - 1);
        let n = kv.extend_cached(sequence, request.name_space, tokens)? as usize;
        if n > answer.n_fed {
            self.note_cached(place, n);
        }
        Ok(())
    }

    /// Whether an answer fed before in this step is computing what this one needs next.
    fn waits_for_another(&self, kv: &KvRepo, batch: &StepBatch, place: usize) -> Result<bool> {
        let answer = &self.answers[place];
        let (Some(request), Some(sequence)) = (&self.requests[answer.request], answer.sequence)
        else {
            return Ok(false);
        };
        let n_common = MIN_COMMON.min(answer.n_to_feed(request) - 1);
        let (behind, name_space) = (kv.last_segment(sequence)?, request.name_space);
        let is_same =
            |fed: &&Fed| fed.is_chunk && (fed.behind, fed.name_space) == (behind, name_space);
        Ok(n_common > 0
            && self.fed.iter().filter(is_same).any(|fed| {
                let theirs = &batch.tokens[fed.first_row..][..fed.n_rows.min(n_common)];
                answer.next_tokens(request, n_common).eq(theirs.iter().copied())
            }))
    }

    /// The next tokens of an answer that may be computed as far as events have room.
    fn n_feedable(&self, place: usize) -> usize {
        // The last token's row gives logits, and a token must be drawn from them at once.
        let may_sample = self.n_free_events() > self.sampler.answers.len();
        self.n_to_feed(place) - usize::from(!may_sample)
    }

    /// Appends the next `n` tokens of an answer to the batch.
    fn feed(
        &mut self,
        kv: &mut KvRepo,
        batch: &mut StepBatch,
        place: usize,
        n: usize,
        is_chunk: bool,
    ) -> Result<()> {
        let answer = &mut self.answers[place];
        let (Some(request), Some(sequence)) = (&self.requests[answer.request], answer.sequence)
        else {
            return Ok(());
        };
        let n_missing = answer.n_to_feed(request);
        let (behind, name_space) = (kv.last_segment(sequence)?, request.name_space);
        let (first_row, n_before) = (batch.n_rows(), answer.n_fed as u32);
        match batch.append(kv, sequence, n_before, answer.next_tokens(request, n)) {
            Ok(()) => {}
            Err(Error::OutOfSlots { .. }) => {
                return self.end_answer(kv, place, EventKind::Failed(Failure::OutOfSlots));
            }
            Err(error) => return Err(error),
        }
        answer.feed(n);
        self.turn += 1;
        answer.last_turn = self.turn;
        self.fed.push(Fed { place, n_before, behind, name_space, first_row, n_rows: n, is_chunk });
        if n == n_missing {
            batch.logits_rows.push(batch.n_rows() as u32 - 1);
            self.sampler.answers.push(place);
        }
        Ok(())
    }

    fn n_to_feed(&self, place: usize) -> usize {
        let answer = &self.answers[place];
        self.requests[answer.request].as_ref().map_or(0, |request| answer.n_to_feed(request))
    }
}
