//! The operations as their definitions say, in f64.

use super::Weights;
use crate::backend::ops::{Activation, AttendOp, Linear, Norm, Rope, RopePairs};

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

pub fn norm(weights: &Weights, norm: Option<&Norm>, x: &[f64]) -> Vec<f64> {
    let n = x.len() as f64;
    match norm {
        None => x.to_vec(),
        Some(Norm::Rms { weight, eps }) => {
            let factor = (x.iter().map(|v| v * v).sum::<f64>() / n + f64::from(*eps)).sqrt();
            x.iter().zip(weights.values(weight)).map(|(v, w)| v / factor * w).collect()
        }
        Some(Norm::Layer { weight, bias, eps }) => {
            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            let bias = bias.map_or(vec![0.0; x.len()], |bias| weights.values(&bias));
            let scaled = x.iter().map(|v| (v - mean) / (variance + f64::from(*eps)).sqrt());
            scaled.zip(weights.values(weight)).zip(bias).map(|((v, w), b)| v * w + b).collect()
        }
    }
}

pub fn product(weights: &Weights, linear: &Linear, x: &[f64]) -> Vec<f64> {
    let bias = linear.bias.map(|bias| weights.values(&bias));
    let rows = weights.rows(linear);
    let dot = |row: &Vec<f32>| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
    let bias = |i: usize| bias.as_ref().map_or(0.0, |bias| bias[i]);
    rows.iter().enumerate().map(|(i, row)| dot(row) + bias(i)).collect()
}

pub fn rotate(weights: &Weights, rope: &Rope, position: u32, head: &mut [f64]) {
    let half = rope.dim as usize / 2;
    for (i, frequency) in weights.values(&rope.inverse_frequencies).into_iter().enumerate() {
        let angle = f64::from(position) * frequency;
        let (a, b) = match rope.pairs {
            RopePairs::Halves => (i, i + half),
            RopePairs::Adjacent => (2 * i, 2 * i + 1),
        };
        let (sin, cos) = angle.sin_cos();
        let (sin, cos) = (sin * f64::from(rope.magnitude), cos * f64::from(rope.magnitude));
        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
    }
}

pub fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
    }
}

/// 2 / sqrt(π) · Σ (−1)ⁿ x^(2n+1) / (n! (2n+1)), good to 1e-9 for |x| < 4, ±1 beyond.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut sum, mut power) = (0.0, x);
    for n in 0..100 {
        sum += power / f64::from(2 * n + 1);
        power *= -x * x / f64::from(n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// One query head at `position` over its sequence's keys and values, `[position][head_dim]`.
pub fn attention(
    op: &AttendOp,
    position: usize,
    q: &[f64],
    keys: &[Vec<f64>],
    values: &[Vec<f64>],
) -> Vec<f64> {
    let first = op.window.map_or(0, |window| (position + 1).saturating_sub(window as usize));
    let score = |key: &Vec<f64>| {
        let score = key.iter().zip(q).map(|(k, q)| k * q).sum::<f64>() * f64::from(op.scale);
        op.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
    };
    let scores: Vec<f64> = keys[first..=position].iter().map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
    let mut out = vec![0.0; q.len()];
    for (score, value) in scores.iter().zip(&values[first..=position]) {
        let p = (score - max).exp() / sum;
        out.iter_mut().zip(value).for_each(|(out, v)| *out += p * v);
    }
    out
}
