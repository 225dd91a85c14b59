//! One token for each row of logits, drawn on the device; only tokens and log probabilities come back.

use super::Cuda;
use super::device::Ready;
use super::fault::{Fault, Result};
use crate::area::{Area, Region};
use crate::backend::PassLimits;
use crate::backend::ops::{SampleResult, SampleRow, TokenLogprob};
use crate::ids::TokenId;
use larder_kernels::sample::{
    Limits, MAX_ROWS, MAX_TOPS, MAX_VOCAB, Places, Rows, Sampler, Settings, TopToken,
};

/// Biases and penalties that are on their way at once: those of some rows with long prompts.
const EDITS: u32 = 8192;

/// What one launch may have.
fn limits(pass: &PassLimits) -> Limits {
    Limits {
        rows: pass.n_logits_rows.clamp(1, MAX_ROWS),
        vocab: pass.vocab_size.min(MAX_VOCAB),
        logprobs: MAX_TOPS,
        edits: EDITS,
    }
}

/// Pinned bytes through which rows go out and tokens come back.
pub fn pinned_bytes(pass: &PassLimits) -> u64 {
    limits(pass).staging_bytes()
}

/// Heap bytes of [`sampler`].
pub fn heap_bytes(pass: &PassLimits) -> u64 {
    limits(pass).table_bytes()
}

/// What packs the rows.
pub fn sampler(pass: &PassLimits) -> Sampler {
    Sampler::new(limits(pass))
}

/// See [`Backend::sample`](crate::backend::Backend::sample).
pub fn sample(
    cuda: &mut Cuda,
    area: &mut Area,
    vocab_size: u32,
    rows: &mut [SampleRow<'_>],
    logits: &mut Region,
) -> Result<()> {
    let limits = limits(&cuda.limits);
    if vocab_size != limits.vocab {
        return Err(Fault::defect(format!("sampling of {vocab_size} logits for {limits:?}")));
    }
    let scratch = area.take("sampling", limits.scratch_bytes() as usize);
    let mut worked = Ok(());
    if !area.is_tracing() {
        worked = cuda.ready().and_then(|ready| draw(ready, &limits, rows, logits, &scratch));
    }
    area.give(scratch);
    worked
}

fn draw(
    ready: &mut Ready,
    limits: &Limits,
    rows: &mut [SampleRow<'_>],
    logits: &Region,
    scratch: &Region,
) -> Result<()> {
    let Ready { sampler, memory, kernels, stream, .. } = ready;
    let row_bytes = 4 * u64::from(limits.vocab);
    if rows.len() as u64 * row_bytes > logits.bytes() {
        return Err(Fault::defect(format!("{} rows are sampled from {logits:?}", rows.len())));
    }
    let mut places = Places {
        logits: memory.region(logits)?,
        scratch: memory.region(scratch)?,
        staging: memory.sampling().as_mut_ptr(),
    };
    for rows in rows.chunks_mut(limits.rows as usize) {
        if let Some(row) = rows.iter().find(|row| n_top(row) > MAX_TOPS) {
            return Err(Fault::defect(format!("{} log probabilities of a row", n_top(row))));
        }
        // SAFETY: logits, scratch and staging are as large as the limits say, and nothing else uses them until the
        // answers have been copied.
        let answers = unsafe { sampler.run(kernels, stream, &places, &Wanted(rows)) }?;
        for (i, row) in rows.iter_mut().enumerate() {
            row.result = answers.chosen(i).map_or(SampleResult::NonFinite, |chosen| {
                SampleResult::Token(token_logprob(&chosen))
            });
            for (to, top) in row.top.iter_mut().zip(answers.top(i)) {
                *to = token_logprob(top);
            }
        }
        places.logits += rows.len() as u64 * row_bytes;
    }
    Ok(())
}

fn token_logprob(top: &TopToken) -> TokenLogprob {
    TokenLogprob { token: TokenId(top.token), logprob: top.logprob }
}

fn n_top(row: &SampleRow<'_>) -> u32 {
    row.sampling.n_logprobs.min(row.top.len() as u32)
}

/// Rows as the kernels' crate wants them.
struct Wanted<'a, 'b>(&'a [SampleRow<'b>]);

impl Rows for Wanted<'_, '_> {
    fn n_rows(&self) -> usize {
        self.0.len()
    }

    fn settings(&self, row: usize) -> Settings {
        let row = &self.0[row];
        let sampling = row.sampling;
        Settings {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            seed: sampling.seed,
            counter: row.counter,
            n_logprobs: n_top(row),
        }
    }

    fn mask(&self, row: usize) -> Option<&[u32]> {
        self.0[row].mask
    }

    fn biases(&self, row: usize) -> impl Iterator<Item = (u32, f32)> {
        self.0[row].biases.iter().map(|&(token, bias)| (token.0, bias))
    }

    fn prompt(&self, row: usize) -> impl Iterator<Item = u32> {
        self.0[row].prompt.iter().map(|token| token.0)
    }

    fn output(&self, row: usize) -> impl Iterator<Item = u32> {
        self.0[row].output.iter().map(|token| token.0)
    }
}
