//! What a step computes: tokens that are known but have no K and V yet.
//!
//! Several answers share one prompt without its last token: every answer computes that one itself, in a row of its
//! own, so each has logits to draw its first token from.
#![forbid(unsafe_code)]

use super::answer::Answer;
use super::batch::StepBatch;
use super::events::{EventKind, Failure};
use super::schedule::Scheduler;
use crate::error::{Error, Result};
use crate::kv::KvRepo;

impl Scheduler {
    /// Gives the further answers of a request their sequences, once the shared part of the prompt is computed.
    pub(super) fn fork_answers(&mut self, kv: &mut KvRepo) -> Result<()> {
        let (mut at, mut first) = (0, 0);
        while let Some(&place) = self.running.get(at) {
            at += 1;
            if self.answers[place].number == 0 {
                first = place;
            }
            let Answer { sequence, request, .. } = self.answers[place];
            let Some(request) = &mut self.requests[request] else { continue };
            let n_shared = request.prompt.len() - 1;
            // Answer 0 stands before the others, at least until they have their sequences.
            let Answer { sequence: Some(parent), n_fed, .. } = self.answers[first] else {
                continue;
            };
            if sequence.is_some() || n_fed < n_shared {
                continue;
            }
            request.is_forked = true;
            match kv.fork(parent, n_shared as u32) {
                Ok(sequence) => {
                    self.answers[place].sequence = Some(sequence);
                    self.answers[place].n_fed = n_shared;
                }
                Err(Error::LimitReached(_)) => {
                    self.end_answer(kv, place, EventKind::Failed(Failure::SequenceLimit))?;
                    at -= 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The rows of answers that lack one token only.
    pub(super) fn feed_decode(&mut self, kv: &mut KvRepo, batch: &mut StepBatch) -> Result<()> {
        self.feed_each(kv, batch, |n_to_feed| n_to_feed == 1)
    }

    /// Rows of prompts, as many as the batch still holds.
    pub(super) fn feed_prompts(&mut self, kv: &mut KvRepo, batch: &mut StepBatch) -> Result<()> {
        self.feed_each(kv, batch, |n_to_feed| n_to_feed > 1)
    }

    fn feed_each(
        &mut self,
        kv: &mut KvRepo,
        batch: &mut StepBatch,
        is_meant: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let mut at = 0;
        while let Some(&place) = self.running.get(at) {
            let n_running = self.running.len();
            let has_sequence = self.answers[place].sequence.is_some();
            if has_sequence && is_meant(self.n_to_feed(place)) {
                self.feed(kv, batch, place)?;
            }
            // Whoever found no slot has gone, perhaps with its companions, and the next one is here.
            at += usize::from(self.running.len() == n_running);
        }
        Ok(())
    }

    /// Appends the next tokens of an answer as far as batch and events have room.
    fn feed(&mut self, kv: &mut KvRepo, batch: &mut StepBatch, place: usize) -> Result<()> {
        let Some(request) = &self.requests[self.answers[place].request] else { return Ok(()) };
        let Some(sequence) = self.answers[place].sequence else { return Ok(()) };
        let n_missing = self.answers[place].n_to_feed(request);
        let may_sample = self.n_free_events() > self.sampler.answers.len();
        let is_forked = request.is_forked;
        // The last token's row gives logits, and a token must be drawn from them at once.
        let n_wanted = n_missing - usize::from(!is_forked || !may_sample);
        let n = n_wanted.min(self.limits.max_batch_rows as usize - batch.n_rows());
        if n == 0 {
            return Ok(());
        }
        let answer = &self.answers[place];
        let n_before = answer.n_fed as u32;
        match batch.append(kv, sequence, n_before, answer.next_tokens(request, n)) {
            Ok(()) => {}
            Err(Error::OutOfSlots { .. }) => return self.end_unfed(kv, place, is_forked),
            Err(error) => return Err(error),
        }
        self.answers[place].n_fed += n;
        if n == n_missing {
            batch.logits_rows.push(batch.n_rows() as u32 - 1);
            self.sampler.answers.push(place);
        }
        Ok(())
    }

    /// Ends an answer that found no slot, and those that wait for it to compute their prompt.
    fn end_unfed(&mut self, kv: &mut KvRepo, place: usize, is_forked: bool) -> Result<()> {
        let kind = EventKind::Failed(Failure::OutOfSlots);
        match is_forked {
            true => self.end_answer(kv, place, kind),
            false => self.end_request(kv, self.answers[place].request, kind),
        }
    }

    fn n_to_feed(&self, place: usize) -> usize {
        let answer = &self.answers[place];
        self.requests[answer.request].as_ref().map_or(0, |request| answer.n_to_feed(request))
    }
}
