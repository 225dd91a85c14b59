//! Who runs: taking requests in, ending cancelled ones, and admission in order of arrival.
#![forbid(unsafe_code)]

use super::events::{Event, EventKind, Failure, Finish};
use super::request::Request;
use super::schedule::Scheduler;
use crate::error::{Error, Result};
use crate::kv::KvRepo;

impl Scheduler {
    /// Takes over what was submitted and the numbers of cancelled requests.
    pub(super) fn collect(&mut self) {
        let Scheduler { edge, requests, waiting, cancelled, .. } = self;
        cancelled.clear();
        let take = |request: Request| {
            let index = request.index();
            requests[index] = Some(request);
            waiting.push_back(index);
        };
        edge.collect(take, cancelled);
    }

    /// Ends every cancelled request. One that waits holds nothing, so it may wait until its events fit.
    pub(super) fn end_cancelled(&mut self, kv: &mut KvRepo) -> Result<()> {
        while let Some(index) = self.cancelled.pop() {
            let index = index as usize;
            let Some(request) = &self.requests[index] else { continue };
            if request.is_admitted {
                self.end_request(kv, index, EventKind::Finished(Finish::Cancelled))?;
            } else if self.n_free_events() >= request.n_answers as usize {
                self.drop_waiting(index);
            }
        }
        Ok(())
    }

    /// Admits requests in order as long as the next one fits.
    pub(super) fn admit(&mut self, kv: &mut KvRepo) -> Result<()> {
        while let Some(&index) = self.waiting.front() {
            let Some(request) = &self.requests[index] else {
                return Err(Error::Internal(format!("request {index} waits and does not exist")));
            };
            let n_answers = request.n_answers as usize;
            let fits = self.fits(kv, request) || self.running.is_empty();
            if !fits || n_answers > self.free_answers.len() || n_answers > self.n_free_events() {
                return Ok(());
            }
            self.waiting.pop_front();
            self.begin_answers(kv, index)?;
        }
        Ok(())
    }

    /// Room in the ring that is not kept for the ends of running answers.
    pub(super) fn n_free_events(&self) -> usize {
        self.events.n_free() - self.running.len()
    }

    /// Whether all slots and sequences that `request` may need are free beside those that others may still need.
    fn fits(&self, kv: &KvRepo, request: &Request) -> bool {
        let (mut n_slots, mut n_sequences) = (request.max_slots(), request.n_answers);
        for answer in self.running.iter().map(|&index| &self.answers[index]) {
            n_sequences += u32::from(answer.sequence.is_none());
            if let Some(owner) = &self.requests[answer.request] {
                n_slots += answer.max_slots_to_come(owner);
            }
        }
        n_slots <= u64::from(kv.free_slots())
            && kv.n_sequences() + n_sequences <= self.limits.max_sequences
    }

    /// Gives every answer of a request its place; the first one's sequence will compute the prompt.
    fn begin_answers(&mut self, kv: &mut KvRepo, index: usize) -> Result<()> {
        let Scheduler { requests, answers, free_answers, running, .. } = self;
        let Some(request) = &mut requests[index] else { return Ok(()) };
        request.is_admitted = true;
        let first = running.len();
        for number in 0..request.n_answers {
            let Some(place) = free_answers.pop() else { break };
            answers[place].begin(request, number)?;
            running.push(place);
        }
        match kv.open() {
            Ok(sequence) => answers[running[first]].sequence = Some(sequence),
            Err(Error::LimitReached(_)) => {
                self.end_request(kv, index, EventKind::Failed(Failure::SequenceLimit))?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Ends a cancelled request that was not admitted.
    fn drop_waiting(&mut self, index: usize) {
        let Some(request) = self.requests[index].take() else { return };
        self.waiting.retain(|&waiting| waiting != index);
        for answer in 0..request.n_answers {
            let kind = EventKind::Finished(Finish::Cancelled);
            self.events.push(Event::of(&request, answer, kind), "");
        }
        self.edge.give_back(request);
    }
}
