//! What comes of a step: tokens and texts, and the ends of answers.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::events::{Event, EventKind, Failure, Finish};
use super::schedule::Scheduler;
use crate::backend::ops::{SampleResult, TokenLogprob};
use crate::error::{Error, Result};
use crate::kv::KvRepo;
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
        for (row, result) in results.iter().enumerate() {
            let place = self.sampler.answers[range.start + row];
            match *result {
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

    /// Ends every admitted request after a forward pass that failed. What waits goes on waiting.
    ///
    /// # Errors
    /// `Internal`.
    pub fn fail_all(&mut self, kv: &mut KvRepo) -> Result<()> {
        self.sampler.answers.clear();
        while let Some(&place) = self.running.first() {
            self.end_answer(kv, place, EventKind::Failed(Failure::Forward))?;
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
            StopState::Running if is_last => {
                self.end_answer(kv, place, EventKind::Finished(Finish::Length))
            }
            StopState::Running => Ok(()),
        }
    }

    /// Ends all answers of an admitted request that have not ended.
    pub(super) fn end_request(
        &mut self,
        kv: &mut KvRepo,
        index: usize,
        kind: EventKind,
    ) -> Result<()> {
        loop {
            let mut running = self.running.iter().copied();
            let Some(place) = running.find(|&place| self.answers[place].request == index) else {
                return Ok(());
            };
            self.end_answer(kv, place, kind)?;
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
        let event = Event::of(request, answer.number, kind);
        self.end_with(kv, place, event)
    }

    /// Delivers an answer's last event with the text held back, and gives everything back that it holds.
    fn end_with(&mut self, kv: &mut KvRepo, place: usize, event: Event) -> Result<()> {
        let answer = &mut self.answers[place];
        answer.finish_text(&mut self.scratch);
        self.events.push(event, &self.scratch.piece);
        let (request, sequence) = (answer.request, answer.sequence.take());
        self.running.retain(|&running| running != place);
        self.free_answers.push(place);
        let n_unfinished = self.requests[request].as_mut().map_or(0, |request| {
            request.n_unfinished -= 1;
            request.n_unfinished
        });
        if n_unfinished == 0
            && let Some(request) = self.requests[request].take()
        {
            self.edge.give_back(request);
        }
        sequence.map_or(Ok(()), |sequence| kv.release(sequence))
    }
}
