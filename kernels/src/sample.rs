//! Sampling: one token for each row of logits, chosen on the device.
//!
//! The order is fixed: mask, biases, repetition penalty, presence and frequency penalties, log probabilities, then
//! temperature, top-k, top-p over what top-k left, min-p. Equal logits rank by their ids, the lowest first. A draw is
//! a pure function of the logits, the settings, the seed and the counter.
//!
//! Up to six launches: `sample_masks`, `sample_biases` and `sample_penalties` where there are any; `sample_reduce`,
//! many blocks a row, for the largest logit and the sum of exponentials; `sample_weigh`, many blocks a row, unless all
//! rows are greedy; `sample_finish`, one block a row. Weights are 64-bit fixed-point numbers, so that their sums are
//! exact whatever the order, and the tokens are never sorted: a histogram over the distance to the largest logit finds the
//! bin in which a cut lies, and radix digits find the token in the bin.

mod feed;
mod layout;

use std::slice::{from_raw_parts, from_raw_parts_mut};

use crate::args;
use crate::driver::{DevicePtr, Launch, Result, Stream};
use crate::modules::Kernels;
use feed::Feed;
use layout::{Choice, Edit, Row, TILE, TILE_THREADS};
pub use layout::{Limits, MAX_ROWS, MAX_TOPS, MAX_VOCAB, TopToken};

/// How a row's token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Settings {
    /// 0: greedy.
    pub temperature: f32,
    /// 0 or more than the vocabulary: off.
    pub top_k: u32,
    /// 0 or 1: off.
    pub top_p: f32,
    pub min_p: f32,
    /// 0 or 1: off. Positive logits are divided, negative ones multiplied.
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub seed: u64,
    /// Number of the draw: the generator's counter.
    pub counter: u64,
    /// Log probabilities wanted beside the chosen one's; no more than the limits say are given.
    pub n_logprobs: u32,
}

/// The rows of a call, as the caller has them. Ids beyond the vocabulary are ignored.
pub trait Rows {
    fn n_rows(&self) -> usize;
    fn settings(&self, row: usize) -> Settings;
    /// Tokens that may be chosen, as bits: token i is bit `i % 32` of word `i / 32`, and missing words are 0. The
    /// others' logits become -inf first. `None`: all may.
    fn mask(&self, row: usize) -> Option<&[u32]>;
    /// Added to the logits before anything else, in this order; -inf bans.
    fn biases(&self, row: usize) -> impl Iterator<Item = (u32, f32)>;
    /// Tokens that came before, apart.
    fn prompt(&self, row: usize) -> impl Iterator<Item = u32>;
    fn output(&self, row: usize) -> impl Iterator<Item = u32>;
}

/// Memory of a call.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// f32 `[n_rows][vocab]`; masks, biases and penalties change it.
    pub logits: DevicePtr,
    /// [`Limits::scratch_bytes`], a multiple of 16.
    pub scratch: DevicePtr,
    /// Pinned, [`Limits::staging_bytes`], aligned to 16 bytes.
    pub staging: *mut u8,
}

/// What came of a call's rows; lies in the staging.
#[derive(Debug, Clone, Copy)]
pub struct Answers<'a> {
    choices: &'a [Choice],
    tops: &'a [TopToken],
    tops_per_row: usize,
}

impl<'a> Answers<'a> {
    /// The chosen token of `row`; `None` for a NaN or +inf among the logits, or nothing but -inf.
    pub fn chosen(&self, row: usize) -> Option<TopToken> {
        let choice = self.choices[row];
        (choice.is_finite != 0).then_some(choice.chosen)
    }

    /// The most likely tokens of `row` in descending order.
    pub fn top(&self, row: usize) -> &'a [TopToken] {
        let first = row * self.tops_per_row;
        &self.tops[first..first + self.choices[row].n_top as usize]
    }
}

/// Packs the rows and launches the kernels.
#[derive(Debug)]
pub struct Sampler {
    limits: Limits,
    /// `[vocab]`, all zeros between two rows.
    seen: Vec<u32>,
}

impl Sampler {
    /// Takes the table of [`Limits::table_bytes`]; nothing is allocated afterwards.
    ///
    /// # Panics
    /// When a limit is above its most.
    pub fn new(limits: Limits) -> Sampler {
        assert!(limits.rows <= MAX_ROWS && limits.vocab <= MAX_VOCAB && limits.edits > 0);
        assert!(limits.logprobs <= MAX_TOPS);
        Sampler { limits, seen: vec![0; limits.vocab as usize] }
    }

    /// Chooses a token for each of `rows`, no more than the limits say, and waits for the answers.
    ///
    /// # Safety
    /// `places` are as large as they say for the limits' rows, no one else uses them meanwhile, and the staging lives
    /// as long as the answers.
    pub unsafe fn run<'a>(
        &'a mut self,
        kernels: &Kernels,
        stream: &Stream,
        places: &Places,
        rows: &impl Rows,
    ) -> Result<Answers<'a>> {
        let (limits, n_rows) = (self.limits, rows.n_rows());
        assert!(n_rows <= limits.rows as usize, "sampling: {n_rows} rows");
        if n_rows == 0 {
            return Ok(Answers { choices: &[], tops: &[], tops_per_row: 0 });
        }
        // SAFETY: as the caller says; the copies below end before this returns.
        let staging = unsafe { Staging::new(&limits, places.staging) };
        let (mut weighs, mut tops_per_row) = (false, 0);
        for (i, to) in staging.rows[..n_rows].iter_mut().enumerate() {
            *to = Row::new(&rows.settings(i), &limits);
            weighs |= to.weighs();
            tops_per_row = tops_per_row.max(to.n_top);
        }
        let mut feed = Feed::new(kernels, stream, places, &limits, staging.edits);
        feed.mask(rows, staging.masks)?;
        if let Err(error) = feed.send(rows, &mut self.seen) {
            self.seen.fill(0);
            return Err(error);
        }
        let call = Call { n_rows: n_rows as u32, weighs, tops_per_row };
        // SAFETY: the table of rows is on its way, and the places are large enough.
        unsafe { call.launch(kernels, stream, places, &limits) }?;
        let scratch = limits.scratch();
        let n_tops = n_rows * tops_per_row as usize;
        let bytes = scratch.tops - scratch.choices + (n_tops * size_of::<TopToken>()) as u64;
        // SAFETY: choices and tops lie one behind the other, in the staging as in the scratch.
        unsafe {
            let to = places.staging.add(scratch.choices as usize);
            stream.copy_to_host(to, places.scratch + scratch.choices, bytes)?;
        }
        stream.synchronize()?;
        let (choices, tops) = (&staging.choices[..n_rows], &staging.tops[..n_tops]);
        Ok(Answers { choices, tops, tops_per_row: tops_per_row as usize })
    }
}

/// The pinned memory: what the scratch begins with.
struct Staging<'a> {
    rows: &'a mut [Row],
    edits: &'a mut [Edit],
    /// `[rows][mask_words]`
    masks: &'a mut [u32],
    choices: &'a [Choice],
    tops: &'a [TopToken],
}

impl Staging<'_> {
    /// # Safety
    /// `base` is aligned and has the limits' staging bytes, for as long as the result lives. Choices and tops are
    /// read only after they have been written.
    unsafe fn new<'a>(limits: &Limits, base: *mut u8) -> Staging<'a> {
        let at = limits.scratch();
        let n_rows = limits.rows as usize;
        let n_tops = n_rows * limits.logprobs as usize;
        let n_mask_words = n_rows * limits.mask_words();
        // SAFETY: the parts lie apart, inside of the staging, and any bytes are values of them.
        unsafe {
            Staging {
                rows: from_raw_parts_mut(base.add(at.rows as usize).cast(), n_rows),
                edits: from_raw_parts_mut(
                    base.add(at.edits as usize).cast(),
                    limits.edits as usize,
                ),
                masks: from_raw_parts_mut(base.add(at.masks as usize).cast(), n_mask_words),
                choices: from_raw_parts(base.add(at.choices as usize).cast(), n_rows),
                tops: from_raw_parts(base.add(at.tops as usize).cast(), n_tops),
            }
        }
    }
}

/// What the launches depend on beside the limits.
struct Call {
    n_rows: u32,
    /// Whether any row needs its tokens' weights.
    weighs: bool,
    tops_per_row: u32,
}

impl Call {
    /// # Safety
    /// As [`Sampler::run`]; the table of rows has been sent.
    unsafe fn launch(
        &self,
        kernels: &Kernels,
        stream: &Stream,
        places: &Places,
        limits: &Limits,
    ) -> Result<()> {
        let Places { logits, scratch, .. } = *places;
        let at = limits.scratch();
        let [rows, tiles, weights, masses, counts, choices, tops] =
            [at.rows, at.tiles, at.weights, at.masses, at.counts, at.choices, at.tops]
                .map(|offset| scratch + offset);
        let vocab = limits.vocab;
        let per_tile = grid([limits.tiles(), self.n_rows], TILE_THREADS);
        // SAFETY: the kernels' parameters, for as many rows as the places have room for.
        unsafe {
            let arguments = &mut args![logits, rows, tiles, masses, counts, vocab];
            kernels.function("sample_reduce").launch(stream, per_tile, arguments)?;
            if self.weighs {
                let arguments = &mut args![logits, rows, tiles, weights, masses, counts, vocab];
                kernels.function("sample_weigh").launch(stream, per_tile, arguments)?;
            }
            let per_row = grid([self.n_rows, 1], finish_threads(vocab));
            let (tops_per_row, n_tiles) = (self.tops_per_row, limits.tiles());
            let arguments = &mut args![
                logits,
                rows,
                tiles,
                weights,
                masses,
                counts,
                choices,
                tops,
                vocab,
                n_tiles,
                tops_per_row
            ];
            kernels.function("sample_finish").launch(stream, per_row, arguments)
        }
    }
}

fn grid([x, y]: [u32; 2], threads: u32) -> Launch {
    Launch { grid: [x, y, 1], block: [threads, 1, 1], shared_bytes: 0, dependent: true }
}

/// A whole multiprocessor for a row whose logits are read again, and less for a vocabulary of few tiles.
fn finish_threads(vocab: u32) -> u32 {
    if vocab > 4 * TILE { 512 } else { 256 }
}
