//! What a forward pass leaves behind: K and V that are there from now on, or never were.
#![forbid(unsafe_code)]

use super::events::{Event, EventKind, Failure, Finish};
use super::schedule::Scheduler;
use crate::error::Result;
use crate::kv::KvRepo;

/// Rows of one answer in the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fed {
    pub(super) place: usize,
    /// Tokens that its sequence had.
    pub(super) n_before: u32,
    /// The segment that it ended with.
    pub(super) behind: u32,
    pub(super) name_space: u64,
    pub(super) first_row: usize,
    pub(super) n_rows: usize,
    /// They are of a prompt, or of what a paused answer lost.
    pub(super) is_chunk: bool,
}

impl Scheduler {
    /// The pass has succeeded and its tokens are accepted: lets others find its prompts' chunks in the tree, and ends
    /// what was cancelled meanwhile. The next `schedule` does it otherwise.
    ///
    /// # Errors
    /// `Internal`.
    pub fn settle(&mut self, kv: &mut KvRepo) -> Result<()> {
        for fed in &self.fed {
            if let Some(sequence) = self.answers[fed.place].sequence
                && fed.is_chunk
            {
                kv.publish(sequence, fed.name_space)?;
            }
        }
        self.fed.clear();
        self.sampler.answers.clear();
        self.end_cancelled(kv)
    }

    /// The pass was stopped: nothing of it is there. Ends what is cancelled.
    ///
    /// # Errors
    /// `Internal`.
    pub fn abandon(&mut self, kv: &mut KvRepo) -> Result<()> {
        self.forget_fed(kv)?;
        self.end_cancelled(kv)
    }

    /// The pass has failed, or `schedule` has: ends every answer that runs. What waits or is paused goes on.
    ///
    /// # Errors
    /// `Internal`.
    pub fn fail_all(&mut self, kv: &mut KvRepo) -> Result<()> {
        self.forget_fed(kv)?;
        while let Some(&place) = self.running.first() {
            self.end_answer(kv, place, EventKind::Failed(Failure::Forward))?;
        }
        Ok(())
    }

    /// Whether anybody still waits for what the batch computes. Cheap enough to be asked in each layer.
    pub fn is_wanted(&self) -> bool {
        self.edge.n_cancels() == self.n_cancels_seen
            || self.edge.is_one_wanted(self.fed.iter().map(|fed| self.answers[fed.place].request))
    }

    /// Takes the batch's rows out of their sequences again.
    fn forget_fed(&mut self, kv: &mut KvRepo) -> Result<()> {
        for fed in &self.fed {
            let answer = &mut self.answers[fed.place];
            if let Some(sequence) = answer.sequence {
                kv.truncate(sequence, fed.n_before)?;
                answer.n_fed = fed.n_before as usize;
            }
        }
        self.fed.clear();
        self.sampler.answers.clear();
        Ok(())
    }

    /// Looks whether more requests were cancelled.
    pub(super) fn see_cancels(&mut self) {
        let n = self.edge.n_cancels();
        if n != self.n_cancels_seen {
            self.n_cancels_seen = n;
            self.edge.cancelled(&mut self.cancelled);
        }
    }

    /// Whether a request is among those seen to be cancelled.
    pub(super) fn is_cancelled(&self, index: usize) -> bool {
        self.cancelled.binary_search(&(index as u32)).is_ok()
    }

    /// Ends every cancelled request. Answers that have not begun hold nothing, so they may wait until their events
    /// fit.
    fn end_cancelled(&mut self, kv: &mut KvRepo) -> Result<()> {
        self.see_cancels();
        for at in 0..self.cancelled.len() {
            let index = self.cancelled[at] as usize;
            let kind = EventKind::Finished(Finish::Cancelled);
            let begun = |scheduler: &Scheduler| {
                let mut places = scheduler.running.iter().chain(&scheduler.paused);
                places.find(|&&place| scheduler.answers[place].request == index).copied()
            };
            while let Some(place) = begun(self) {
                self.end_answer(kv, place, kind)?;
            }
            self.end_waiting(index, kind);
        }
        Ok(())
    }

    /// Ends a request's answers that have not begun, as far as their events fit.
    fn end_waiting(&mut self, index: usize, kind: EventKind) {
        loop {
            let has_room = self.n_free_events() > 0;
            let Some(request) = &mut self.requests[index] else { return };
            if request.n_begun == request.n_answers || !has_room {
                return;
            }
            self.events.push(Event::of(request, request.n_begun, kind), "");
            self.tally.counts.requests_running += u64::from(request.n_begun == 0);
            request.n_begun += 1;
            if request.n_begun == request.n_answers {
                self.waiting.retain(|&waiting| waiting != index);
            }
            self.count_end(index, kind);
        }
    }
}
