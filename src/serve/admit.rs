//! Who runs: taking requests in, and letting in who fits, strictly in the order of the line.
//!
//! Who comes next fits when the most slots that it and all who run are expected to hold at one time are there. An
//! answer that is alone is let in whatever is expected: waiting would not help it.
#![forbid(unsafe_code)]

use super::answer::Answer;
use super::events::{EventKind, Failure};
use super::forecast::Need;
use super::line::{Next, queue};
use super::pause::MAX_PAUSES;
use super::request::Request;
use super::schedule::Scheduler;
use crate::error::{Error, Result};
use crate::ids::{SequenceHandle, TokenId};
use crate::kv::{Evict, KvRepo};

/// What came of asking for a sequence.
enum Opened {
    /// Its first tokens are there already.
    Yes(SequenceHandle, usize),
    NotNow,
    /// The host holds all sequences, and nobody of ours will give one back.
    Never,
}

/// What is known of an answer that its need follows from.
struct Known<'a> {
    request: &'a Request,
    output: &'a [TokenId],
    n_pauses: u32,
    rank: f32,
}

impl Scheduler {
    /// Takes over what was submitted and the numbers of cancelled requests.
    pub(super) fn collect(&mut self) {
        self.n_cancels_seen = self.edge.n_cancels();
        let Scheduler { edge, requests, waiting, cancelled, n_arrived, tally, .. } = self;
        edge.collect(
            |mut request| {
                let index = request.index();
                request.arrival = *n_arrived;
                *n_arrived += 1;
                tally.n_live += 1;
                requests[index] = Some(request);
                queue(waiting, requests, index);
            },
            cancelled,
        );
    }

    /// Lets in who comes next as long as it fits.
    pub(super) fn admit(&mut self, kv: &mut KvRepo) -> Result<()> {
        while let Some(next) = self.next_in_line() {
            let is_in = match next {
                Next::Paused(place) => self.resume(kv, place)?,
                Next::New(index) => self.begin(kv, index)?,
            };
            if !is_in {
                break;
            }
        }
        Ok(())
    }

    /// Room in the ring that is not kept for the ends of answers that have begun.
    pub(super) fn n_free_events(&self) -> usize {
        self.events.n_free() - self.running.len() - self.paused.len()
    }

    /// Lets a paused answer go on, and returns whether the next one may follow.
    fn resume(&mut self, kv: &mut KvRepo, place: usize) -> Result<bool> {
        let (sequence, n_cached) = match self.open(kv, self.answers[place].request, Some(place))? {
            Opened::Yes(sequence, n_cached) => (sequence, n_cached),
            Opened::NotNow => return Ok(false),
            Opened::Never => {
                self.end_answer(kv, place, EventKind::Failed(Failure::SequenceLimit))?;
                return Ok(true);
            }
        };
        self.paused.retain(|&paused| paused != place);
        self.enter(place, sequence, n_cached);
        Ok(true)
    }

    /// Gives the next answer of a request its place, and returns whether the next one may follow.
    fn begin(&mut self, kv: &mut KvRepo, index: usize) -> Result<bool> {
        if self.free_answers.is_empty() || self.n_free_events() == 0 {
            return Ok(false);
        }
        let opened = self.open(kv, index, None)?;
        if matches!(opened, Opened::NotNow) {
            return Ok(false);
        }
        let Scheduler { requests, answers, free_answers, tally, .. } = self;
        let (Some(request), Some(place)) = (&mut requests[index], free_answers.pop()) else {
            return Err(Error::Internal(format!("request {index} waits and does not exist")));
        };
        answers[place].begin(request, request.n_begun)?;
        tally.counts.requests_running += u64::from(request.n_begun == 0);
        tally.counts.prompt_tokens += request.prompt.len() as u64;
        request.n_begun += 1;
        if request.n_begun == request.n_answers {
            self.waiting.retain(|&waiting| waiting != index);
        }
        if let Opened::Yes(sequence, n_cached) = opened {
            self.enter(place, sequence, n_cached);
        } else {
            self.push_paused(place);
            self.end_answer(kv, place, EventKind::Failed(Failure::SequenceLimit))?;
        }
        Ok(true)
    }

    /// An answer runs, with the first `n_cached` of its tokens.
    fn enter(&mut self, place: usize, sequence: SequenceHandle, n_cached: usize) {
        self.answers[place].sequence = Some(sequence);
        self.answers[place].last_turn = self.turn;
        self.note_cached(place, n_cached);
        self.push_running(place);
    }

    /// Notes that an answer's sequence has `n` tokens that it did not compute.
    pub(super) fn note_cached(&mut self, place: usize, n: usize) {
        let answer = &mut self.answers[place];
        if let Some(request) = &self.requests[answer.request] {
            self.tally.counts.cached_tokens += u64::from(answer.find(n, request));
        }
    }

    /// A sequence for the answer at `place`, or for the next one of request `index`, when it fits. The last known token
    /// is never taken from the tree: its row gives the logits that the next one is drawn from.
    fn open(&mut self, kv: &mut KvRepo, index: usize, place: Option<usize>) -> Result<Opened> {
        let Scheduler { requests, answers, running, forecast, lengths, .. } = self;
        let Some(request) = &requests[index] else { return Ok(Opened::NotNow) };
        let known = match place.map(|place| &answers[place]) {
            Some(answer) => {
                let (n_pauses, rank) = (answer.n_pauses, answer.rank);
                Known { request, output: &answer.output, n_pauses, rank }
            }
            None => {
                Known { request, output: &[], n_pauses: 0, rank: request.rank(request.n_begun) }
            }
        };
        let name_space = request.name_space;
        let tokens = request.prompt.iter().chain(known.output).copied();
        let tokens = tokens.take(known.n_tokens() - 1);
        let is_alone = running.is_empty();
        let (sequence, n_cached) = match kv.open_cached(name_space, tokens) {
            Ok(opened) => opened,
            Err(Error::LimitReached(_)) if is_alone => return Ok(Opened::Never),
            Err(Error::LimitReached(_)) => return Ok(Opened::NotNow),
            Err(error) => return Err(error),
        };
        let n_most = |answer: &Answer| {
            let request = requests[answer.request].as_ref();
            request.map_or(0, |request| request.n_to_come(answer.n_fed))
        };
        let n_most: usize = running.iter().map(|&place| n_most(&answers[place])).sum();
        if is_alone || n_most + request.n_to_come(n_cached as usize) <= kv.free_slots() as usize {
            return Ok(Opened::Yes(sequence, n_cached as usize));
        }
        // With its sequence open, what it shares is no longer another's own, and what it takes out of the idle part
        // of the tree no longer free: all sums are those of the moment after.
        forecast.clear();
        let mut n_slots = u64::from(kv.free_slots());
        for answer in running.iter().map(|&place| &answers[place]) {
            let (Some(request), Some(sequence)) = (&requests[answer.request], answer.sequence)
            else {
                continue;
            };
            let (n_pauses, rank) = (answer.n_pauses, answer.rank);
            let known = Known { request, output: &answer.output, n_pauses, rank };
            let n_private = kv.private_slots(sequence)?;
            forecast.add(known.need(lengths, n_private, answer.n_fed));
            n_slots += u64::from(n_private);
        }
        let n_private = kv.private_slots(sequence)?;
        forecast.add(known.need(lengths, n_private, n_cached as usize));
        n_slots += u64::from(n_private);
        if forecast.peak() <= n_slots {
            return Ok(Opened::Yes(sequence, n_cached as usize));
        }
        kv.give(sequence, name_space, Evict::Last)?;
        Ok(Opened::NotNow)
    }
}

impl Known<'_> {
    fn n_tokens(&self) -> usize {
        self.request.prompt.len() + self.output.len()
    }

    /// What it will need, when its sequence has `n_fed` tokens, `n_private` of them in slots of its own.
    fn need(&self, lengths: &super::lengths::Lengths, n_private: u32, n_fed: usize) -> Need {
        let (n_now, max) = (self.output.len() as u32, self.request.max_new_tokens);
        let held = n_private + (self.n_tokens() - n_fed) as u32;
        if self.n_pauses >= MAX_PAUSES {
            // All that it may ever need is kept for it from the beginning.
            return Need { to_come: 0, held: held + (max - n_now).saturating_sub(1) };
        }
        let hint = self.request.expected_new_tokens;
        let length = if hint > n_now { hint } else { lengths.expect(n_now, self.rank, max) };
        // Nobody attends to the last token, so it needs no slot.
        Need { to_come: (length - n_now).saturating_sub(1), held }
    }
}
