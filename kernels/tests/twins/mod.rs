//! The kernels' arithmetic once more: naive, in f64.
#![allow(dead_code)] // each test uses its part

use larder_kernels::norm::NormKind;
use larder_kernels::product::{Activation, RopePairs};

/// A norm over rows of `weight.len()`.
pub struct NormTwin {
    pub kind: NormKind,
    pub weight: Vec<f32>,
    /// Empty: none.
    pub bias: Vec<f32>,
    pub eps: f32,
}

impl NormTwin {
    pub fn of(&self, row: &[f32]) -> Vec<f64> {
        let row: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
        self.of_f64(&row)
    }

    pub fn of_f64(&self, row: &[f64]) -> Vec<f64> {
        let n = row.len() as f64;
        let mean = match self.kind {
            NormKind::Layer => row.iter().sum::<f64>() / n,
            _ => 0.0,
        };
        if self.kind == NormKind::None {
            return row.to_vec();
        }
        let squares: f64 = row.iter().map(|value| (value - mean).powi(2)).sum();
        let root = (squares / n + f64::from(self.eps)).sqrt();
        let bias = |i: usize| match self.kind {
            NormKind::Layer => self.bias.get(i).map_or(0.0, |&bias| f64::from(bias)),
            _ => 0.0,
        };
        let normed = row.iter().zip(&self.weight).enumerate();
        normed.map(|(i, (x, &w))| (x - mean) / root * f64::from(w) + bias(i)).collect()
    }
}

pub fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
    }
}

/// By its series, which is good to 1e-9 up to 4; beyond, it is 1 to within 1e-7.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Turns the first `2 * turns.len()` elements of a head by (cos, sin).
pub fn rotate(pairs: RopePairs, turns: &[(f64, f64)], head: &mut [f64]) {
    for (i, &(cos, sin)) in turns.iter().enumerate() {
        let (first, second) = match pairs {
            RopePairs::Halves => (i, i + turns.len()),
            RopePairs::Adjacent => (2 * i, 2 * i + 1),
        };
        let (a, b) = (head[first], head[second]);
        head[first] = a * cos - b * sin;
        head[second] = b * cos + a * sin;
    }
}
