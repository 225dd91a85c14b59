//! An answer on its way: its sequence, its tokens and its text.
#![forbid(unsafe_code)]

use super::events::{EventKind, Failure, Finish};
use super::request::Request;
use super::{Limits, MAX_STOP_BYTES, MAX_STOPS, bytes_of, reserved};
use crate::backend::ops::Sampling;
use crate::error::Result;
use crate::ids::{SequenceHandle, TokenId};
use crate::text::{Advance, Matcher, StopMatcher, StopState, Utf8Stream};

const STOP_BYTES: usize = MAX_STOPS * MAX_STOP_BYTES;

/// One answer of a request, in a reserved place: the unit of scheduling.
#[derive(Debug)]
pub(super) struct Answer {
    /// Number of the request's place.
    pub(super) request: usize,
    /// `0 .. n_answers`
    pub(super) number: u32,
    /// `None` while it is paused, and when it has ended.
    pub(super) sequence: Option<SequenceHandle>,
    /// Tokens of prompt and output that the sequence has, those of the pass that runs included.
    pub(super) n_fed: usize,
    /// The most that it ever had.
    n_reached: usize,
    /// Prompt tokens that it did not compute.
    pub(super) n_cached: u32,
    pub(super) n_pauses: u32,
    /// Its turn when it last got rows; the scheduler counts them.
    pub(super) last_turn: u64,
    /// Which share of the answers with its number of tokens it is taken to outlast.
    pub(super) rank: f32,
    pub(super) output: Vec<TokenId>,
    /// The request's, with this answer's seed.
    pub(super) sampling: Sampling,
    /// Where it stands in its constraint.
    pub(super) matcher: Option<Matcher>,
    text: AnswerText,
}

impl Answer {
    pub(super) fn new(limits: &Limits) -> Result<Answer> {
        Ok(Answer {
            request: 0,
            number: 0,
            sequence: None,
            n_fed: 0,
            n_reached: 0,
            n_cached: 0,
            n_pauses: 0,
            last_turn: 0,
            rank: 0.0,
            output: reserved(limits.sequence_tokens() as usize)?,
            sampling: Sampling::default(),
            matcher: None,
            text: AnswerText::new(),
        })
    }

    /// Heap bytes of `new(limits)`.
    pub(super) fn bytes(limits: &Limits) -> u64 {
        bytes_of::<TokenId>(limits.sequence_tokens() as usize)
            + StopMatcher::heap_bytes(MAX_STOPS, STOP_BYTES)
    }

    /// Begins answer `number` of `request`. Allocates when that has a constraint.
    ///
    /// # Errors
    /// Those of [`StopMatcher::set`].
    pub(super) fn begin(&mut self, request: &Request, number: u32) -> Result<()> {
        self.request = request.index();
        self.number = number;
        self.sequence = None;
        (self.n_fed, self.n_reached, self.n_cached, self.n_pauses) = (0, 0, 0, 0);
        self.rank = request.rank(number);
        self.output.clear();
        let seed = request.sampling.seed.wrapping_add(u64::from(number));
        self.sampling = Sampling { seed, ..request.sampling };
        self.matcher = request.matcher.as_ref().map(Matcher::fork);
        self.text.utf8.reset();
        self.text.stops.set(request.stops.iter())
    }

    /// Notes that its sequence has `n` tokens which it did not compute, and returns how many of the prompt's are new.
    pub(super) fn find(&mut self, n: usize, request: &Request) -> u32 {
        let n_new = n.min(request.prompt.len()).saturating_sub(self.n_reached) as u32;
        self.n_fed = n;
        self.n_reached = self.n_reached.max(n);
        self.n_cached += n_new;
        n_new
    }

    /// Notes that the next `n` tokens are being computed.
    pub(super) fn feed(&mut self, n: usize) {
        self.n_fed += n;
        self.n_reached = self.n_reached.max(self.n_fed);
    }

    /// Tokens that are known but not in the sequence yet.
    pub(super) fn n_to_feed(&self, request: &Request) -> usize {
        request.prompt.len() + self.output.len() - self.n_fed
    }

    /// The next `n` of those.
    pub(super) fn next_tokens<'a>(
        &'a self,
        request: &'a Request,
        n: usize,
    ) -> impl ExactSizeIterator<Item = TokenId> + 'a {
        let n_prompt = request.prompt.len();
        (self.n_fed..self.n_fed + n).map(move |position| match position.checked_sub(n_prompt) {
            None => request.prompt[position],
            Some(behind) => self.output[behind],
        })
    }

    /// Whether the answer ends with `token`, the last one that it may have or not, and how. Allocates when it has a
    /// constraint.
    pub(super) fn advance(&mut self, token: TokenId, is_last: bool) -> Option<EventKind> {
        let advance = self.matcher.as_mut().map_or(Advance::Open, |m| m.advance(token));
        match advance {
            Advance::Complete => Some(EventKind::Finished(Finish::Constraint)),
            _ if is_last => Some(EventKind::Finished(Finish::Length)),
            Advance::Open => None,
            Advance::Stuck => Some(EventKind::Failed(Failure::ConstraintStuck)),
            Advance::TooComplex => Some(EventKind::Failed(Failure::ConstraintTooComplex)),
        }
    }

    pub(super) fn push_text(&mut self, bytes: &[u8], scratch: &mut Scratch) -> StopState {
        self.text.push(bytes, scratch)
    }

    pub(super) fn finish_text(&mut self, scratch: &mut Scratch) {
        self.text.finish(scratch);
    }
}

/// Tokens' bytes → whole characters → text without stops.
#[derive(Debug)]
struct AnswerText {
    utf8: Utf8Stream,
    stops: StopMatcher,
}

/// Where text passes through.
#[derive(Debug)]
pub(super) struct Scratch {
    characters: String,
    /// What may be delivered.
    pub(super) piece: String,
}

impl Scratch {
    pub(super) fn new(limits: &Limits) -> Result<Scratch> {
        let n = super::events::piece_bytes(limits);
        let string = |n| Ok(String::from_utf8(reserved(n)?).unwrap_or_default());
        Ok(Scratch { characters: string(n)?, piece: string(n)? })
    }

    /// Heap bytes of `new(limits)`.
    pub(super) fn bytes(limits: &Limits) -> u64 {
        2 * bytes_of::<u8>(super::events::piece_bytes(limits))
    }

    fn clear(&mut self) {
        self.characters.clear();
        self.piece.clear();
    }
}

impl AnswerText {
    fn new() -> AnswerText {
        AnswerText { utf8: Utf8Stream::new(), stops: StopMatcher::new(MAX_STOPS, STOP_BYTES) }
    }

    fn push(&mut self, bytes: &[u8], scratch: &mut Scratch) -> StopState {
        scratch.clear();
        self.utf8.push(bytes, &mut scratch.characters);
        self.stops.push(&scratch.characters, &mut scratch.piece)
    }

    /// Lets out what is held back: it was no stop.
    fn finish(&mut self, scratch: &mut Scratch) {
        scratch.clear();
        self.utf8.finish(&mut scratch.characters);
        // U+FFFD may complete a stop: then the stop's part is dropped as ever.
        self.stops.push(&scratch.characters, &mut scratch.piece);
        self.stops.finish(&mut scratch.piece);
    }
}
