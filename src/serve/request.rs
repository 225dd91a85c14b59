//! A request: as the host hands it in, and as it lies in its reserved place.
#![forbid(unsafe_code)]

use super::{Limits, MAX_BIASES, MAX_STOP_BYTES, MAX_STOPS, bytes_of, reserved};
use crate::backend::ops::Sampling;
use crate::error::Result;
use crate::ids::{RequestHandle, TokenId};
use crate::text::{ConstraintKind, Matcher};

/// What a host asks for, unchecked. `Default` is every field's default, with an empty prompt.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestInput<'a> {
    pub prompt: Prompt<'a>,
    /// 0: as many as the sequence limit allows.
    pub max_new_tokens: u32,
    /// A hint for admission; 0: from the lengths of past answers.
    pub expected_new_tokens: u32,
    /// Answers that share the prompt's slots, each scheduled by itself; 0 is 1. Answer i draws with seed
    /// `sampling.seed + i`.
    pub n_answers: u32,
    /// Comes back in every event.
    pub user: u64,
    /// Higher ones go first, and are paused last.
    pub priority: i32,
    /// Prefixes are shared inside one only.
    pub name_space: u64,
    /// What every answer must follow, in which language. Stop tokens are possible exactly where it is fulfilled.
    pub constraint: Option<(ConstraintKind, &'a str)>,
    /// Texts that end an answer; neither they nor what follows is delivered.
    pub stops: &'a [&'a str],
    pub sampling: Sampling,
    /// Tokens whose logits are changed, and by how much (`biases`, as many); -inf bans. One that is listed twice
    /// gets the sum.
    pub bias_tokens: &'a [TokenId],
    pub biases: &'a [f32],
}

/// The prompt of a request.
#[derive(Debug, Clone, Copy)]
pub enum Prompt<'a> {
    /// Taken as they are.
    Tokens(&'a [TokenId]),
    /// Tokenised with the special tokens that the model wants around a prompt. What looks like a control token is
    /// plain text, or, with `parse_special` (for a rendered chat), that token; a begin of text that the text has
    /// itself is not doubled then.
    Text { text: &'a str, parse_special: bool },
}

impl Default for Prompt<'_> {
    fn default() -> Self {
        Prompt::Tokens(&[])
    }
}

/// A checked request in its reserved place.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) handle: RequestHandle,
    pub(super) user: u64,
    pub(super) priority: i32,
    pub(super) name_space: u64,
    /// Number of the arrival, in order.
    pub(super) arrival: u64,
    pub(super) prompt: Vec<TokenId>,
    /// Tokens to draw for an answer, at most: already within all limits.
    pub(super) max_new_tokens: u32,
    /// The host's hint; 0: none.
    pub(super) expected_new_tokens: u32,
    pub(super) n_answers: u32,
    /// Answers that have not ended.
    pub(super) n_unfinished: u32,
    /// Answers that were given a place, or ended without one.
    pub(super) n_begun: u32,
    pub(super) has_failed: bool,
    pub(super) is_cancelled: bool,
    pub(super) sampling: Sampling,
    pub(super) biases: Vec<(TokenId, f32)>,
    pub(super) stops: Stops,
    /// At the begin of an answer.
    pub(super) matcher: Option<Matcher>,
}

impl Request {
    /// An empty place with room for the largest request.
    pub(super) fn new(limits: &Limits) -> Result<Request> {
        Ok(Request {
            handle: RequestHandle::default(),
            user: 0,
            priority: 0,
            name_space: 0,
            arrival: 0,
            prompt: reserved(limits.sequence_tokens() as usize)?,
            max_new_tokens: 0,
            expected_new_tokens: 0,
            n_answers: 0,
            n_unfinished: 0,
            n_begun: 0,
            has_failed: false,
            is_cancelled: false,
            sampling: Sampling::default(),
            biases: reserved(MAX_BIASES)?,
            stops: Stops::new()?,
            matcher: None,
        })
    }

    /// Heap bytes of `new(limits)`.
    pub(super) fn bytes(limits: &Limits) -> u64 {
        bytes_of::<TokenId>(limits.sequence_tokens() as usize)
            + bytes_of::<(TokenId, f32)>(MAX_BIASES)
            + Stops::bytes()
    }

    /// Copies a checked request into this place.
    pub(super) fn fill(
        &mut self,
        generation: u32,
        input: &RequestInput<'_>,
        prompt: &[TokenId],
        max_new_tokens: u32,
    ) {
        self.handle = RequestHandle(u64::from(generation) << 32 | self.index() as u64);
        self.user = input.user;
        self.priority = input.priority;
        self.name_space = input.name_space;
        self.prompt.clear();
        self.prompt.extend_from_slice(prompt);
        self.max_new_tokens = max_new_tokens;
        self.expected_new_tokens = input.expected_new_tokens.min(max_new_tokens);
        self.n_answers = input.n_answers.max(1);
        self.n_unfinished = self.n_answers;
        (self.n_begun, self.has_failed, self.is_cancelled) = (0, false, false);
        self.sampling = input.sampling;
        self.biases.clear();
        let tokens = input.bias_tokens.iter().copied();
        self.biases.extend(tokens.zip(input.biases.iter().copied()));
        self.stops.set(input.stops);
    }

    /// Slots that an answer with `n_fed` tokens in slots may still take, at most.
    pub(super) fn n_to_come(&self, n_fed: usize) -> usize {
        self.prompt.len() + self.max_new_tokens as usize - n_fed
    }

    /// The rank of answer `number` among answers by length. Ranks of arrivals in a row are spread evenly, so the
    /// lengths expected of many add up to what many need.
    pub(super) fn rank(&self, number: u32) -> f32 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let spread = (self.arrival + u64::from(number)).wrapping_mul(GOLDEN);
        (spread >> 40) as f32 / (1 << 24) as f32
    }

    /// The place's number.
    pub(super) fn index(&self) -> usize {
        self.handle.0 as u32 as usize
    }
}

/// Stop strings, one behind the other.
#[derive(Debug)]
pub(super) struct Stops {
    text: String,
    /// Where each ends in `text`.
    ends: Vec<usize>,
}

impl Stops {
    fn new() -> Result<Stops> {
        let text = String::from_utf8(reserved(MAX_STOPS * MAX_STOP_BYTES)?).unwrap_or_default();
        Ok(Stops { text, ends: reserved(MAX_STOPS)? })
    }

    fn bytes() -> u64 {
        bytes_of::<u8>(MAX_STOPS * MAX_STOP_BYTES) + bytes_of::<usize>(MAX_STOPS)
    }

    /// Replaces the stops by others that are within the limits.
    pub(super) fn set(&mut self, stops: &[&str]) {
        self.text.clear();
        self.ends.clear();
        for stop in stops {
            self.text.push_str(stop);
            self.ends.push(self.text.len());
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.text[start..end])
    }
}
