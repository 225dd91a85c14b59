//! What comes of a step: tokens and texts, and the ends of answers.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::events::{Event, EventKind, Failure, Finish};
use super::schedule::Scheduler;
use crate::backend::ops::{SampleResult, TokenLogprob};
use crate::error::{Error, Result};
use crate::kv::{Evict, KvRepo};
use crate::text::StopState;

impl Scheduler {
    /// Takes the tokens drawn for rows `range`, the last ones that `sample_rows` gave.
    ///
    /// # Errors
    /// `Internal` when `range` and `results` do not agree with the step's rows.
    pub fn accept(
        &mut self,
        kv: &mut KvRepo,
        range: Range<usize>,
        results: &[SampleResult],
    ) -> Result<()> {
        if range.len() != results.len() || range.end > self.n_sample_rows() {
            return Err(Error::Internal(format!(
                "{} results for rows {range:?} of {}",
                results.len(),
                self.n_sample_rows()
            )));
        }
        self.see_cancels();
        for (row, result) in results.iter().enumerate() {
            let place = self.sampler.answers[range.start + row];
            match *result {
                _ if self.is_cancelled(self.answers[place].request) => {
                    self.end_answer(kv, place, EventKind::Finished(Finish::Cancelled))?;
                }
                SampleResult::Token(drawn) => self.accept_token(kv, place, row, drawn)?,
                SampleResult::NonFinite => {
                    self.end_answer(kv, place, EventKind::Failed(Failure::NonFiniteLogits))?;
                }
                SampleResult::None => {
                    return Err(Error::Internal(format!("no token was drawn for row {row}")));
                }
            }
        }
        Ok(())
    }

    fn accept_token(
        &mut self,
        kv: &mut KvRepo,
        place: usize,
        row: usize,
        drawn: TokenLogprob,
    ) -> Result<()> {
        let answer = &mut self.answers[place];
        let Some(request) = &self.requests[answer.request] else { return Ok(()) };
        let top = self.sampler.top(row, answer.sampling.n_logprobs);
        let mut event = Event::of(request, answer.number, EventKind::Token);
        event.n_cached_tokens = answer.n_cached;
        self.tally.counts.generated_tokens += 1;
        (event.token, event.logprob, event.top) = (Some(drawn.token), drawn.logprob, top);
        if self.stop_tokens.contains(&drawn.token) {
            event.kind = EventKind::Finished(Finish::Stop);
            return self.end_with(kv, place, event);
        }
        answer.output.push(drawn.token);
        let is_last = answer.output.len() >= request.max_new_tokens as usize;
        let bytes = self.text.as_deref().map_or(&[][..], |text| text.token_bytes(drawn.token));
        let state = answer.push_text(bytes, &mut self.scratch);
        self.events.push(event, &self.scratch.piece);
        match state {
            StopState::Stopped { .. } => {
                self.end_answer(kv, place, EventKind::Finished(Finish::Stop))
            }
            StopState::Running => match self.answers[place].advance(drawn.token, is_last) {
                Some(kind) => self.end_answer(kv, place, kind),
                None => Ok(()),
            },
        }
    }

    /// Ends an answer without a further token.
    pub(super) fn end_answer(
        &mut self,
        kv: &mut KvRepo,
        place: usize,
        kind: EventKind,
    ) -> Result<()> {
        let answer = &self.answers[place];
        let Some(request) = &self.requests[answer.request] else { return Ok(()) };
        let mut event = Event::of(request, answer.number, kind);
        event.n_cached_tokens = answer.n_cached;
        self.end_with(kv, place, event)
    }

    /// Delivers an answer's last event with the text held back, and gives everything back that it holds.
    fn end_with(&mut self, kv: &mut KvRepo, place: usize, event: Event) -> Result<()> {
        let kind = event.kind;
        let answer = &mut self.answers[place];
        answer.finish_text(&mut self.scratch);
        answer.matcher = None;
        self.events.push(event, &self.scratch.piece);
        if let EventKind::Finished(Finish::Stop | Finish::Length | Finish::Constraint) = kind {
            self.lengths.add(answer.output.len() as u32);
        }
        let (index, sequence) = (answer.request, answer.sequence.take());
        let places = if sequence.is_some() { &mut self.running } else { &mut self.paused };
        places.retain(|&other| other != place);
        self.free_answers.push(place);
        let name_space = self.requests[index].as_ref().map_or(0, |request| request.name_space);
        self.count_end(index, kind);
        match (sequence, kind) {
            (None, _) => Ok(()),
            // What it computed may be no numbers.
            (Some(sequence), EventKind::Failed(_)) => kv.release(sequence),
            (Some(sequence), _) => kv.give(sequence, name_space, Evict::First),
        }
    }

    /// An answer has ended; with a request's last one its place is free again.
    pub(super) fn count_end(&mut self, index: usize, kind: EventKind) {
        let Some(request) = &mut self.requests[index] else { return };
        request.n_unfinished -= 1;
        request.has_failed |= matches!(kind, EventKind::Failed(_));
        request.is_cancelled |= kind == EventKind::Finished(Finish::Cancelled);
        if request.n_unfinished > 0 {
            return;
        }
        let counts = &mut self.tally.counts;
        counts.requests_failed += u64::from(request.has_failed);
        counts.requests_cancelled += u64::from(!request.has_failed && request.is_cancelled);
        counts.requests_finished += u64::from(!request.has_failed && !request.is_cancelled);
        counts.requests_running -= 1;
        self.tally.n_live -= 1;
        if let Some(request) = self.requests[index].take() {
            self.edge.give_back(request);
        }
    }
}
