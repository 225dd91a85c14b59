//! Rotary position encoding: the frequencies that position `p` is multiplied with (Su et al., RoFormer), and the
//! published ways of stretching them to longer contexts.
//!
//! A token's K must not depend on tokens that come later, else forks, chunks and prefixes would not be the same
//! bits. So whatever depends on the length is decided once, at create, from `max_sequence_tokens`: longrope's short
//! or long factors, and the base of dynamic NTK. (Hugging Face decides both anew in every call.)
#![forbid(unsafe_code)]

use std::f64::consts::PI;

use crate::backend::ops::RopePairs;

/// One position encoding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    pub pairs: RopePairs,
    /// Rotated elements at the begin of a head; even.
    pub dim: u32,
    /// The base: pair i turns with `theta^(-2i / dim)`.
    pub theta: f32,
    pub scaling: Scaling,
}

/// How the frequencies are stretched.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    None,
    /// Position interpolation (Chen et al. 2023): divided by `factor`.
    Linear {
        factor: f32,
    },
    /// Llama 3.1: long waves are divided by `factor`, short ones kept, with a smooth step between.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: u32,
    },
    /// YaRN (Peng et al. 2023).
    Yarn(Yarn),
    /// LongRoPE (Ding et al. 2024): one divisor a pair, `long` where sequences may exceed `original_context`.
    LongRope {
        short: Vec<f32>,
        long: Vec<f32>,
        original_context: u32,
        magnitude: f32,
    },
    /// Dynamic NTK: a larger base, for the longer of `max_sequence_tokens` and `context`.
    DynamicNtk {
        factor: f32,
        context: u32,
    },
    /// One divisor a pair, as GGUF stores llama3's scaling.
    Divisors(Vec<f32>),
}

/// YaRN's parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    pub factor: f32,
    pub original_context: u32,
    /// Pairs that turn more often than this within `original_context` are kept.
    pub beta_fast: f32,
    /// Pairs that turn less often than this are divided by `factor`.
    pub beta_slow: f32,
    /// Whether the range between is widened to whole pairs.
    pub truncate: bool,
    /// Factor of cos and sin.
    pub magnitude: f32,
}

/// The usual factor of cos and sin in YaRN: `0.1 · mscale · ln(factor) + 1`.
pub fn yarn_magnitude(factor: f32, mscale: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// The usual factor of cos and sin in LongRoPE, for a context stretched by `factor`.
pub fn longrope_magnitude(factor: f32, original_context: u32) -> f32 {
    let stretch = f64::from(factor);
    if stretch <= 1.0 || original_context <= 1 {
        return 1.0;
    }
    (1.0 + stretch.ln() / f64::from(original_context).ln()).sqrt() as f32
}

impl RopeSpec {
    /// Tokens that a model made for `context_length` can have: dynamic NTK stretches it by its factor, the other
    /// scalings are part of what the model was made for.
    pub fn context_length(&self, context_length: u32) -> u32 {
        match self.scaling {
            Scaling::DynamicNtk { factor, .. } => (context_length as f32 * factor) as u32,
            _ => context_length,
        }
    }

    /// Factor of cos and sin.
    pub fn magnitude(&self) -> f32 {
        match &self.scaling {
            Scaling::Yarn(yarn) => yarn.magnitude,
            Scaling::LongRope { magnitude, .. } => *magnitude,
            _ => 1.0,
        }
    }

    /// The `dim / 2` frequencies for sequences of up to `max_sequence_tokens` tokens.
    pub fn inverse_frequencies(&self, max_sequence_tokens: u32) -> Vec<f32> {
        let plain = self.powers(f64::from(self.theta));
        let scaled: Vec<f64> = match &self.scaling {
            Scaling::None => plain,
            Scaling::Linear { factor } => divide(plain, std::iter::repeat(factor)),
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let context = f64::from(*original_context);
                let low = f64::from(*low_freq_factor);
                let high = f64::from(*high_freq_factor);
                let stretch = |f| llama3(f, f64::from(*factor), low, high, context);
                plain.into_iter().map(stretch).collect()
            }
            Scaling::Yarn(yarn) => self.yarn(plain, yarn),
            Scaling::LongRope { short, long, original_context, .. } => {
                let factors = if max_sequence_tokens > *original_context { long } else { short };
                divide(plain, factors)
            }
            Scaling::DynamicNtk { factor, context } => {
                let length = f64::from(max_sequence_tokens.max(*context));
                self.powers(self.dynamic_base(f64::from(*factor), length / f64::from(*context)))
            }
            Scaling::Divisors(divisors) => divide(plain, divisors),
        };
        scaled.into_iter().map(|frequency| frequency as f32).collect()
    }

    /// `base^(-2i / dim)` for each pair i.
    fn powers(&self, base: f64) -> Vec<f64> {
        let dim = f64::from(self.dim);
        (0..self.dim / 2).map(|i| base.powf(-2.0 * f64::from(i) / dim)).collect()
    }

    fn dynamic_base(&self, factor: f64, stretch: f64) -> f64 {
        let dim = f64::from(self.dim);
        if self.dim <= 2 {
            return f64::from(self.theta); // one pair: it turns with 1 whatever the base is
        }
        f64::from(self.theta) * (factor * stretch - (factor - 1.0)).powf(dim / (dim - 2.0))
    }

    /// Fast pairs stay, slow ones are divided by the factor, with a ramp over the pairs between.
    fn yarn(&self, plain: Vec<f64>, yarn: &Yarn) -> Vec<f64> {
        let dim = f64::from(self.dim);
        let pair_of = |turns: f32| {
            let wave = f64::from(yarn.original_context) / (f64::from(turns) * 2.0 * PI);
            dim * wave.ln() / (2.0 * f64::from(self.theta).ln())
        };
        let (mut low, mut high) = (pair_of(yarn.beta_fast), pair_of(yarn.beta_slow));
        if yarn.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001; // a step instead of a ramp
        }
        let stretch = |(i, frequency): (usize, f64)| {
            let slow = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            frequency / f64::from(yarn.factor) * slow + frequency * (1.0 - slow)
        };
        plain.into_iter().enumerate().map(stretch).collect()
    }
}

fn divide<'a>(frequencies: Vec<f64>, divisors: impl IntoIterator<Item = &'a f32>) -> Vec<f64> {
    frequencies.into_iter().zip(divisors).map(|(f, divisor)| f / f64::from(*divisor)).collect()
}

/// One frequency in Llama 3.1's scaling.
fn llama3(frequency: f64, factor: f64, low: f64, high: f64, context: f64) -> f64 {
    let turns = context * frequency / (2.0 * PI);
    if turns > high {
        frequency
    } else if turns < low {
        frequency / factor
    } else {
        let smooth = (turns - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}
