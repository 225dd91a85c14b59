//! What the host is told, in a fixed ring. Each entry has its own room for text.
//!
//! The ring holds one event of every answer's end at all times: who starts an answer or draws a token asks for
//! [`Events::n_free`] before.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use super::request::Request;
use super::{Limits, MAX_LOGPROBS, MAX_STOP_BYTES, bytes_of, reserved};
use crate::backend::ops::TokenLogprob;
use crate::error::Result;
use crate::ids::{RequestHandle, TokenId};

/// One event of one answer. Every answer ends with exactly one `Finished` or `Failed`, and nothing follows it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Event {
    pub request: RequestHandle,
    /// As given with the request.
    pub user: u64,
    pub kind: EventKind,
    /// `0 .. n_answers`
    pub answer: u32,
    /// The token drawn; at `Finished`, the stop token that ended the answer, if one did.
    pub token: Option<TokenId>,
    /// Of `token`; 0 without one.
    pub logprob: f32,
    /// The most probable tokens of the draw, in descending order, as many as were asked for.
    pub top: ArrayVec<TokenLogprob, MAX_LOGPROBS>,
    pub n_prompt_tokens: u32,
    /// Prompt tokens that this answer did not compute because their K and V were there already.
    pub n_cached_tokens: u32,
    /// Where its text lies; see `Scheduler::event_text`.
    text: Span,
}

impl Event {
    /// An event of answer number `answer`, without token and text.
    pub(super) fn of(request: &Request, answer: u32, kind: EventKind) -> Event {
        let n_prompt_tokens = request.prompt.len() as u32;
        let (request, user) = (request.handle, request.user);
        Event { request, user, kind, answer, n_prompt_tokens, ..Event::default() }
    }
}

/// A stretch of the ring's text buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Span {
    first: usize,
    len: usize,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventKind {
    /// A token was drawn. Its text may come with a later event.
    #[default]
    Token,
    /// The answer is complete; the text held back until now comes along.
    Finished(Finish),
    /// The answer cannot go on; others do.
    Failed(Failure),
}

/// Why an answer is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token (which is no `Token` event) or a stop string.
    Stop,
    /// `max_new_tokens`, or the sequence is full.
    Length,
    Cancelled,
    /// The constraint is fulfilled, and no text can follow.
    Constraint,
}

/// Why an answer failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// A NaN or +inf among the logits, or every token banned.
    NonFiniteLogits,
    /// The host's own sequences or pinned namespaces hold the token slots that it needs.
    OutOfSlots,
    /// The host's own sequences leave none of max_sequences.
    SequenceLimit,
    /// The forward pass failed.
    Forward,
    /// No token of the vocabulary continues the constraint.
    ConstraintStuck,
    /// The constraint's parser has reached one of its bounds.
    ConstraintTooComplex,
}

/// The ring.
#[derive(Debug)]
pub(super) struct Events {
    ring: Vec<Event>,
    /// `[ring.len()][piece_bytes]`
    text: Vec<u8>,
    piece_bytes: usize,
    /// Counts since the beginning: released (room that may be used again) ≤ drained ≤ pushed.
    n_released: usize,
    n_drained: usize,
    n_pushed: usize,
}

impl Events {
    pub(super) fn new(limits: &Limits) -> Result<Events> {
        let (n, piece_bytes) = (Self::capacity(limits), piece_bytes(limits));
        let mut ring = reserved(n)?;
        ring.resize(n, Event::default());
        let mut text = reserved(n * piece_bytes)?;
        text.resize(n * piece_bytes, 0);
        Ok(Events { ring, text, piece_bytes, n_released: 0, n_drained: 0, n_pushed: 0 })
    }

    /// Heap bytes of `new(limits)`.
    pub(super) fn bytes(limits: &Limits) -> u64 {
        let n = Self::capacity(limits);
        bytes_of::<Event>(n) + bytes_of::<u8>(n * piece_bytes(limits))
    }

    /// A token and an end for every answer that can run at once.
    fn capacity(limits: &Limits) -> usize {
        2 * limits.max_sequences as usize
    }

    /// Begins a step: the texts of events that were drained before are no longer needed.
    pub(super) fn begin_step(&mut self) {
        self.n_released = self.n_drained;
    }

    /// Events that fit beside those that wait or whose text is still lent.
    pub(super) fn n_free(&self) -> usize {
        self.ring.len() - (self.n_pushed - self.n_released)
    }

    /// Events that were not drained yet.
    pub(super) fn n_waiting(&self) -> usize {
        self.n_pushed - self.n_drained
    }

    /// Adds an event and its text. There is room: see [`n_free`](Self::n_free).
    pub(super) fn push(&mut self, event: Event, text: &str) {
        debug_assert!(self.n_free() > 0 && text.len() <= self.piece_bytes);
        let place = self.n_pushed % self.ring.len();
        let span = Span { first: place * self.piece_bytes, len: text.len() };
        self.text[span.first..][..span.len].copy_from_slice(text.as_bytes());
        self.ring[place] = Event { text: span, ..event };
        self.n_pushed += 1;
    }

    /// The oldest event that was not drained yet.
    pub(super) fn pop(&mut self) -> Option<Event> {
        if self.n_drained == self.n_pushed {
            return None;
        }
        let event = self.ring[self.n_drained % self.ring.len()].clone();
        self.n_drained += 1;
        Some(event)
    }

    pub(super) fn text(&self, event: &Event) -> &[u8] {
        &self.text[event.text.first..][..event.text.len]
    }
}

/// Bytes of the longest text of one event: a token whose every byte becomes U+FFFD (3 bytes) together with 3 bytes
/// of an incomplete character, behind the text that was held back for a stop.
pub(super) fn piece_bytes(limits: &Limits) -> usize {
    MAX_STOP_BYTES + 3 * (limits.max_token_bytes as usize + 3)
}
