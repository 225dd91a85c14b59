//! One token for each row of logits. Rows are tasks; nothing is kept between calls.
//!
//! The order is fixed: mask, biases, repetition penalty, presence and frequency penalties, log probabilities, then
//! temperature, top-k, top-p over what top-k left, min-p. Equal logits rank by their ids, the lowest first.

mod choose;
mod random;

use super::Cpu;
use super::dispatch::Kernels;
use super::memory::Parts;
use crate::area::{Area, Region};
use crate::backend::ops::{SampleResult, SampleRow, Sampling, TokenLogprob};
use crate::error::Result;
use crate::ids::TokenId;

/// Values that go through one call of the exponential.
const CHUNK: usize = 512;

/// See [`Backend::sample`](crate::backend::Backend::sample).
pub fn sample(
    cpu: &Cpu,
    area: &mut Area,
    vocab_size: u32,
    rows: &mut [SampleRow<'_>],
    logits: &mut Region,
) -> Result<()> {
    let vocab = vocab_size as usize;
    // The logits' size says how many rows there will be; while tracing none are given.
    let n_places = cpu.pool.n_threads().min(logits.bytes() as usize / 4 / vocab.max(1));
    let mut scratch = area.take("candidates", 4 * n_places * vocab);
    let mut result = Ok(());
    if !area.is_tracing() {
        let memory = cpu.memory()?;
        let (n_rows, rows) = (rows.len(), Parts::new(rows));
        let logits = Parts::new(&mut memory.region_mut::<f32>(logits)[..n_rows * vocab]);
        let scratch = Parts::new(memory.region_mut::<u32>(&mut scratch));
        result = cpu.pool.run(n_rows, &|task, thread| {
            // SAFETY: every task has its own row, and its thread's scratch, one of `n_places`.
            let (logits, scratch, row) = unsafe {
                (
                    logits.part(task * vocab, vocab),
                    scratch.part(thread * vocab, vocab),
                    &mut rows.part(task, 1)[0],
                )
            };
            row.result = draw(cpu.kernels, logits, scratch, row);
        });
    }
    area.give(scratch);
    result
}

/// Draws the token of one row. `scratch` has one element per logit; `logits` changes.
pub fn draw(
    kernels: &Kernels,
    logits: &mut [f32],
    scratch: &mut [u32],
    row: &mut SampleRow<'_>,
) -> SampleResult {
    if let Some(mask) = row.mask {
        apply_mask(logits, mask);
    }
    add_biases(logits, row.biases);
    penalise(logits, scratch, row.sampling, row.prompt, row.output);
    if !logits.iter().fold(true, |finite, &logit| finite & (logit < f32::INFINITY)) {
        return SampleResult::NonFinite;
    }
    // SAFETY: the table is one of those that this processor supports.
    let max = unsafe { (kernels.max_row)(logits) };
    if max == f32::NEG_INFINITY {
        return SampleResult::NonFinite;
    }
    let log_sum = choose::total(kernels, logits, max, 1.0).ln();
    let logprob = |logit: f32| (f64::from(logit - max) - log_sum) as f32;

    let n_top = row.top.len().min(row.sampling.n_logprobs as usize).min(logits.len());
    largest(logits, &mut row.top[..n_top]);
    row.top[..n_top].iter_mut().for_each(|top| top.logprob = logprob(top.logprob));

    let token = if row.sampling.temperature == 0.0 {
        logits.iter().position(|&logit| logit == max).unwrap_or(0)
    } else {
        let uniform = random::uniform(row.sampling.seed, row.counter);
        choose::token(kernels, logits, max, scratch, row.sampling, uniform)
    };
    let chosen = TokenLogprob { token: TokenId(token as u32), logprob: logprob(logits[token]) };
    SampleResult::Token(chosen)
}

/// Logits whose bit is 0, or missing, become -inf.
fn apply_mask(logits: &mut [f32], mask: &[u32]) {
    let words = mask.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(32).zip(words) {
        match word {
            u32::MAX => {}
            0 => logits.fill(f32::NEG_INFINITY),
            _ => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

fn add_biases(logits: &mut [f32], biases: &[(TokenId, f32)]) {
    for &(token, bias) in biases {
        if let Some(logit) = logits.get_mut(token.0 as usize) {
            *logit += bias;
        }
    }
}

/// Repetition, presence and frequency penalties; `counts` is scratch.
fn penalise(
    logits: &mut [f32],
    counts: &mut [u32],
    sampling: &Sampling,
    prompt: &[TokenId],
    output: &[TokenId],
) {
    const IN_PROMPT: u32 = 1 << 31;
    let repetition = match sampling.repetition_penalty {
        0.0 => 1.0,
        penalty => penalty,
    };
    let (presence, frequency) = (sampling.presence_penalty, sampling.frequency_penalty);
    if repetition == 1.0 && presence == 0.0 && frequency == 0.0 {
        return;
    }
    let place = |token: &TokenId| token.0 as usize;
    counts.fill(0);
    for token in prompt {
        counts.get_mut(place(token)).into_iter().for_each(|count| *count |= IN_PROMPT);
    }
    for token in output {
        counts.get_mut(place(token)).into_iter().for_each(|count| *count += 1);
    }
    let n = logits.len();
    for i in prompt.iter().chain(output).map(place).filter(|&i| i < n) {
        // A token is done when it is met first.
        let count = std::mem::take(&mut counts[i]);
        if count == 0 {
            continue;
        }
        let logit = &mut logits[i];
        *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        let in_output = count & !IN_PROMPT;
        if in_output > 0 {
            *logit -= presence + frequency * in_output as f32;
        }
    }
}

/// The largest logits with their tokens in descending order; the logit stands in for its log probability.
fn largest(logits: &[f32], top: &mut [TokenLogprob]) {
    let mut n = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if n == top.len() {
            match top.last() {
                Some(least) if logit > least.logprob => n -= 1,
                _ => continue,
            }
        }
        let at = top[..n].partition_point(|other| other.logprob >= logit);
        top.copy_within(at..n, at + 1);
        top[at] = TokenLogprob { token: TokenId(token as u32), logprob: logit };
        n += 1;
    }
}

#[cfg(test)]
mod tests;
