//! From answers to the rows that a backend draws tokens from.
#![forbid(unsafe_code)]

use std::ops::Range;

use arrayvec::ArrayVec;

use super::answer::Answer;
use super::request::Request;
use super::{Limits, MAX_LOGPROBS, bytes_of, reserved};
use crate::backend::ops::{SampleResult, SampleRow, TokenLogprob};
use crate::error::Result;
use crate::text::Matcher;

/// Rows that are sampled together, at most: one tile of the head.
pub const SAMPLE_TILE: usize = 16;

/// Which answers wait for a token, and room for the log probabilities of one tile.
#[derive(Debug)]
pub(super) struct Sampler {
    /// `[n_sample_rows]` answers, in the order of the batch's `logits_rows`.
    pub(super) answers: Vec<usize>,
    /// `[SAMPLE_TILE][MAX_LOGPROBS]`
    tops: Vec<TokenLogprob>,
    tile: usize,
}

impl Sampler {
    pub(super) fn new(limits: &Limits) -> Result<Sampler> {
        let tile = tile_rows(limits);
        let mut tops = reserved(tile * MAX_LOGPROBS)?;
        tops.resize(tile * MAX_LOGPROBS, TokenLogprob::default());
        Ok(Sampler { answers: reserved(limits.max_sample_rows())?, tops, tile })
    }

    /// Heap bytes of `new(limits)`.
    pub(super) fn bytes(limits: &Limits) -> u64 {
        bytes_of::<usize>(limits.max_sample_rows())
            + bytes_of::<TokenLogprob>(tile_rows(limits) * MAX_LOGPROBS)
    }

    /// The rows `range`, cut to one tile.
    pub(super) fn rows<'a>(
        &'a mut self,
        range: Range<usize>,
        answers: &'a [Answer],
        requests: &'a [Option<Request>],
    ) -> ArrayVec<SampleRow<'a>, SAMPLE_TILE> {
        let waiting = self.answers.get(range).unwrap_or_default().iter().take(self.tile);
        let rows =
            waiting.zip(self.tops.chunks_exact_mut(MAX_LOGPROBS)).filter_map(|(&index, top)| {
                let answer = &answers[index];
                let request = requests[answer.request].as_ref()?;
                Some(SampleRow {
                    sampling: &answer.sampling,
                    prompt: &request.prompt,
                    output: &answer.output,
                    biases: &request.biases,
                    mask: answer.matcher.as_ref().map(Matcher::mask),
                    counter: answer.output.len() as u64,
                    top: &mut top[..answer.sampling.n_logprobs as usize],
                    result: SampleResult::None,
                })
            });
        rows.collect()
    }

    /// The log probabilities that row `row` of the last tile got.
    pub(super) fn top(&self, row: usize, n_logprobs: u32) -> ArrayVec<TokenLogprob, MAX_LOGPROBS> {
        let first = row * MAX_LOGPROBS;
        self.tops[first..first + n_logprobs as usize].iter().copied().collect()
    }
}

/// Rows of a tile: as many as logits exist at once.
fn tile_rows(limits: &Limits) -> usize {
    SAMPLE_TILE.min(limits.max_logits_rows as usize)
}
