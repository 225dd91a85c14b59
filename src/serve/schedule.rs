//! The scheduler: who has slots and rows in the next step.
//!
//! A step is `schedule`, the forward pass, then `sample_rows` and `accept` for one tile of logits after the other,
//! then `drain`. Here is the frame; `line` says in which order, `admit` who runs, `pause` who stops when slots run out,
//! `feed` what is computed, `pass` what a pass leaves behind, `accept` what comes of its tokens.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::answer::{Answer, Scratch};
use super::batch::StepBatch;
use super::edge::Edge;
use super::events::{Event, Events};
use super::forecast::Forecast;
use super::lengths::Lengths;
use super::pass::Fed;
use super::request::Request;
use super::sampler::{SAMPLE_TILE, Sampler};
use super::tally::Tally;
use super::{Limits, bytes_of, max_token_bytes, reserved, reserved_queue};
use crate::backend::ops::SampleRow;
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::kv::KvRepo;
use crate::text::{Matcher, Text};

/// Drives the requests of one [`Edge`]. Owned by whoever steps; allocates in [`new`](Self::new) only.
pub struct Scheduler {
    pub(super) edge: Arc<Edge>,
    pub(super) limits: Limits,
    pub(super) text: Option<Arc<Text>>,
    pub(super) stop_tokens: Vec<TokenId>,
    /// `[max_requests]`: the live ones, by place.
    pub(super) requests: Vec<Option<Request>>,
    /// Requests so far.
    pub(super) n_arrived: u64,
    /// Requests with answers that have no place yet, in the order of `line`.
    pub(super) waiting: VecDeque<usize>,
    /// The live requests that are cancelled, ascending, as of `n_cancels_seen` cancels.
    pub(super) cancelled: Vec<u32>,
    pub(super) n_cancels_seen: u64,
    /// `[max_sequences]` places of answers.
    pub(super) answers: Vec<Answer>,
    /// Places that are free.
    pub(super) free_answers: Vec<usize>,
    /// Places of the answers that have a sequence, in the order of `line`.
    pub(super) running: Vec<usize>,
    /// Places of those that were paused, in the order of `line`.
    pub(super) paused: Vec<usize>,
    /// Places in the order in which they are fed; scratch of `feed`.
    pub(super) order: Vec<usize>,
    /// What the pass computes that is scheduled or runs.
    pub(super) fed: Vec<Fed>,
    /// How often an answer got rows.
    pub(super) turn: u64,
    pub(super) forecast: Forecast,
    pub(super) lengths: Lengths,
    pub(super) sampler: Sampler,
    pub(super) events: Events,
    pub(super) scratch: Scratch,
    pub(super) tally: Tally,
}

impl Scheduler {
    /// A scheduler without requests. Without `text`, events have no text. `stop_tokens` end an answer.
    ///
    /// # Errors
    /// `OutOfMemory`; `Internal` when `limits` do not agree with `text` or `stop_tokens`.
    pub fn new(
        limits: &Limits,
        edge: Arc<Edge>,
        text: Option<Arc<Text>>,
        stop_tokens: &[TokenId],
    ) -> Result<Scheduler> {
        let n_text_bytes = text.as_deref().map_or(0, max_token_bytes);
        if stop_tokens.len() > limits.n_stop_tokens as usize
            || n_text_bytes > limits.max_token_bytes
        {
            return Err(Error::Internal(format!(
                "limits {limits:?} were made for another model: {} stop tokens, {n_text_bytes} bytes a token",
                stop_tokens.len()
            )));
        }
        let (n_requests, n_answers) = (limits.max_requests as usize, limits.max_sequences as usize);
        let mut requests = reserved(n_requests)?;
        requests.resize_with(n_requests, || None);
        let mut answers = reserved(n_answers)?;
        for _ in 0..n_answers {
            answers.push(Answer::new(limits)?);
        }
        let mut free_answers = reserved(n_answers)?;
        free_answers.extend((0..n_answers).rev());
        let mut stops = reserved(limits.n_stop_tokens as usize)?;
        stops.extend_from_slice(stop_tokens);
        Ok(Scheduler {
            edge,
            limits: *limits,
            text,
            stop_tokens: stops,
            requests,
            n_arrived: 0,
            waiting: reserved_queue(n_requests)?,
            cancelled: reserved(n_requests)?,
            n_cancels_seen: 0,
            answers,
            free_answers,
            running: reserved(n_answers)?,
            paused: reserved(n_answers)?,
            order: reserved(n_answers)?,
            fed: reserved(limits.max_sample_rows())?,
            turn: 0,
            forecast: Forecast::new(n_answers)?,
            lengths: Lengths::new(),
            sampler: Sampler::new(limits)?,
            events: Events::new(limits)?,
            scratch: Scratch::new(limits)?,
            tally: Tally::new(),
        })
    }

    /// Heap bytes of `new(limits, ..)`, without `edge` and `text`.
    pub fn bytes(limits: &Limits) -> u64 {
        let (n_requests, n_answers) = (limits.max_requests as usize, limits.max_sequences as usize);
        bytes_of::<TokenId>(limits.n_stop_tokens as usize)
            + bytes_of::<Option<Request>>(n_requests)
            + bytes_of::<usize>(n_requests)
            + bytes_of::<u32>(n_requests)
            + bytes_of::<Answer>(n_answers)
            + n_answers as u64 * Answer::bytes(limits)
            + 4 * bytes_of::<usize>(n_answers)
            + bytes_of::<Fed>(limits.max_sample_rows())
            + Forecast::bytes(n_answers)
            + Sampler::bytes(limits)
            + Events::bytes(limits)
            + Scratch::bytes(limits)
    }

    /// Begins a step: takes in new requests, ends cancelled ones (their slots are free at once), admits who fits,
    /// and fills `batch` with the rows to compute: those of running answers first, then prompts in chunks. No rows:
    /// nothing to compute. Texts of the events drained so far are gone.
    ///
    /// `kv` must not change until the forward pass has run. One that fails is told by
    /// [`fail_all`](Self::fail_all), one that was stopped by [`abandon`](Self::abandon); else what it computed is
    /// taken as there.
    ///
    /// # Errors
    /// `Internal`. What befalls a single request becomes its event instead.
    pub fn schedule(&mut self, kv: &mut KvRepo, batch: &mut StepBatch) -> Result<()> {
        self.tally.begin_step();
        self.edge.forget_signal();
        self.events.begin_step();
        batch.clear();
        self.collect();
        self.settle(kv)?;
        self.admit(kv)?;
        self.feed_decode(kv, batch)?;
        let n_decode_rows = batch.n_rows();
        self.feed_prompts(kv, batch)?;
        batch.close(kv)?;
        debug_assert!(self.is_consistent(kv));
        self.tally.end_schedule(n_decode_rows, batch.n_rows());
        Ok(())
    }

    /// The layers have run: what follows is sampling. For the statistics.
    pub fn end_forward(&mut self) {
        self.tally.end_forward();
    }

    /// Ends a step, also one that failed: shows what has been done to those who ask for statistics or wait for work.
    pub fn end_step(&mut self, kv: &KvRepo) {
        self.edge.set_has_events(self.events.n_waiting() > 0);
        let answers = (self.running.len() as u64, self.paused.len() as u64);
        let requests =
            self.requests.iter().flatten().filter_map(|request| request.matcher.as_ref());
        let matchers = self.answers.iter().filter_map(|answer| answer.matcher.as_ref());
        self.tally.counts.constraint_bytes = requests.chain(matchers).map(Matcher::bytes).sum();
        let stats = self.tally.end_step(kv, answers);
        self.edge.show(&stats);
    }

    /// Rows from which a token is to be drawn in this step: as many as the batch's `logits_rows`, in that order.
    pub fn n_sample_rows(&self) -> usize {
        self.sampler.answers.len()
    }

    /// Rows `range` of those, for the backend to fill in. At most [`SAMPLE_TILE`] and `max_logits_rows` at once.
    pub fn sample_rows(&mut self, range: Range<usize>) -> ArrayVec<SampleRow<'_>, SAMPLE_TILE> {
        self.sampler.rows(range, &self.answers, &self.requests)
    }

    /// Moves the oldest events to `out`, as many as fit, and returns their number. The others come next time.
    pub fn drain(&mut self, out: &mut [Event]) -> usize {
        let mut n = 0;
        for place in out {
            let Some(event) = self.next_event() else { break };
            *place = event;
            n += 1;
        }
        n
    }

    /// Moves the oldest event out.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// The text of an event that was drained since the last `schedule`: whole UTF-8 characters, perhaps none.
    pub fn event_text(&self, event: &Event) -> &[u8] {
        self.events.text(event)
    }

    /// Whether each running answer's sequence is as long as it should be, and nobody else has one.
    fn is_consistent(&self, kv: &KvRepo) -> bool {
        let is_right = |&place: &usize| {
            let answer = &self.answers[place];
            answer.sequence.is_some_and(|sequence| kv.length(sequence) == Ok(answer.n_fed as u32))
        };
        self.running.iter().all(is_right)
            && self.paused.iter().all(|&place| self.answers[place].sequence.is_none())
            && self.running.len() <= kv.n_sequences() as usize
            && self.running.len() + self.paused.len() + self.free_answers.len()
                == self.answers.len()
    }
}
