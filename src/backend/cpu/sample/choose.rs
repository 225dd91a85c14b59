//! Drawing from the tempered distribution, cut by top-k, top-p and min-p.
//!
//! Each cut keeps a prefix of the descending order, so together they keep the shortest of the three. The
//! vocabulary is never sorted: as many of the largest as a guess says are selected, and more only when the prefix
//! does not end among them.

use super::CHUNK;
use crate::backend::cpu::dispatch::Kernels;
use crate::backend::ops::Sampling;
use std::cmp::Ordering;

/// Candidates that are looked at, one guess after the other, when top-k does not say.
const GUESSES: [usize; 2] = [256, 4096];

/// Sum of `e^((logit - max) · scale)`.
pub fn total(kernels: &Kernels, logits: &[f32], max: f32, scale: f32) -> f64 {
    let mut weights = [0.0; CHUNK];
    let sum = |chunk: &[f32]| f64::from(exponentials(kernels, chunk, max, scale, &mut weights));
    logits.chunks(CHUNK).map(sum).sum()
}

fn exponentials(kernels: &Kernels, from: &[f32], max: f32, scale: f32, to: &mut [f32]) -> f32 {
    let to = &mut to[..from.len()];
    to.copy_from_slice(from);
    // SAFETY: the table is one of those that this processor supports.
    unsafe { (kernels.exp_shifted)(to, max, scale) }
}

/// A token of finite `logits` with the largest one `max`; `uniform` in [0, 1) decides which.
pub fn token(
    kernels: &Kernels,
    logits: &[f32],
    max: f32,
    scratch: &mut [u32],
    sampling: &Sampling,
    uniform: f64,
) -> usize {
    // The least temperatures would make infinity · 0 of the largest logit.
    let scale = (1.0 / sampling.temperature).min(f32::MAX);
    let limit = match sampling.top_k as usize {
        0 => logits.len(),
        top_k => top_k.min(logits.len()),
    };
    let top_p = (sampling.top_p > 0.0 && sampling.top_p < 1.0).then_some(sampling.top_p);
    if limit == logits.len() && top_p.is_none() && sampling.min_p <= 0.0 {
        return from_all(kernels, logits, max, scale, uniform);
    }
    let weight = |token: u32| f64::from(((logits[token as usize] - max) * scale).exp());
    let everything =
        (limit == logits.len() && top_p.is_some()).then(|| total(kernels, logits, max, scale));
    let guesses = GUESSES.into_iter().filter(|_| limit == logits.len());
    for n in guesses.chain([limit]) {
        let candidates = descending(logits, n.min(limit), scratch);
        let mass =
            everything.unwrap_or_else(|| candidates.iter().map(|&token| weight(token)).sum());
        let enough = top_p.map_or(f64::INFINITY, |top_p| f64::from(top_p) * mass);
        let (mut kept, mut sum) = (0, 0.0);
        for w in candidates.iter().map(|&token| weight(token)) {
            if kept > 0 && (sum >= enough || w < f64::from(sampling.min_p)) {
                break;
            }
            (kept, sum) = (kept + 1, sum + w);
        }
        if kept < candidates.len() || n >= limit || sum >= enough {
            return pick(&candidates[..kept], weight, uniform * sum) as usize;
        }
    }
    unreachable!("the last guess is the limit")
}

/// The first of `tokens` at which the sum of weights exceeds `target`.
fn pick(tokens: &[u32], weight: impl Fn(u32) -> f64, target: f64) -> u32 {
    let mut sum = 0.0;
    let mut last = tokens[0];
    for &token in tokens {
        let w = weight(token);
        sum += w;
        if sum > target {
            return token;
        }
        if w > 0.0 {
            last = token;
        }
    }
    last
}

/// A draw from the whole vocabulary, in order of ids.
fn from_all(kernels: &Kernels, logits: &[f32], max: f32, scale: f32, uniform: f64) -> usize {
    let target = uniform * total(kernels, logits, max, scale);
    let mut weights = [0.0; CHUNK];
    let (mut before, mut last) = (0.0, 0);
    for (i, chunk) in logits.chunks(CHUNK).enumerate() {
        let sum = f64::from(exponentials(kernels, chunk, max, scale, &mut weights));
        if sum > 0.0 && before + sum > target {
            let mut inside = before;
            for (j, &w) in weights[..chunk.len()].iter().enumerate() {
                inside += f64::from(w);
                if inside > target {
                    return i * CHUNK + j;
                }
                if w > 0.0 {
                    last = i * CHUNK + j;
                }
            }
            // Rounding: the single weights sum to a hair less than the chunk's sum.
            return last;
        }
        before += sum;
        if let Some(j) = weights[..chunk.len()].iter().rposition(|&w| w > 0.0) {
            last = i * CHUNK + j;
        }
    }
    last
}

/// The `k` largest logits in descending order, without those of -inf; equal ones by id.
///
/// One pass that remembers what exceeds the k-th largest so far, selecting among the remembered when full.
fn descending<'s>(logits: &[f32], k: usize, scratch: &'s mut [u32]) -> &'s [u32] {
    let order = |a: &u32, b: &u32| {
        let (left, right) = (logits[*a as usize], logits[*b as usize]);
        right.partial_cmp(&left).unwrap_or(Ordering::Equal).then(a.cmp(b))
    };
    let capacity = scratch.len().min((2 * k).max(1024));
    let (mut n, mut bound) = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > bound {
            scratch[n] = token as u32;
            n += 1;
            if n == capacity && k < n {
                let (_, least, _) = scratch[..n].select_nth_unstable_by(k - 1, order);
                (bound, n) = (logits[*least as usize], k);
            }
        }
    }
    if k < n {
        scratch[..n].select_nth_unstable_by(k - 1, order);
        n = k;
    }
    scratch[..n].sort_unstable_by(order);
    &scratch[..n]
}
