//! Kernels over one row: softmax's pieces, norms, the gate, residual sums, and storing K and V.
//!
//! A result depends on the row alone: sums go lane by lane from the row's begin, and the last lanes are filled with
//! what changes nothing.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::simd::{Simd, erf, exp, tanh};
use crate::backend::ops::Activation;

/// Calls `$body` for each vector of `0 .. $n` with `$i` and the number of elements, `S::LANES` or fewer.
macro_rules! vectors {
    ($S:ident, $n:expr, |$i:ident, $len:ident| $body:expr) => {
        let total: usize = $n;
        let mut $i = 0;
        while $i < total {
            let $len = if total - $i < $S::LANES { total - $i } else { $S::LANES };
            $body;
            $i += $S::LANES;
        }
    };
}

#[inline(always)]
unsafe fn load<S: Simd>(from: *const f32, n: usize) -> S::F {
    if n == S::LANES { S::load(from) } else { S::load_partial(from, n) }
}

#[inline(always)]
unsafe fn store<S: Simd>(to: *mut f32, v: S::F, n: usize) {
    if n == S::LANES { S::store(to, v) } else { S::store_partial(to, v, n) }
}

/// The largest value of a row without NaN; -inf of an empty one.
#[inline(always)]
pub unsafe fn max_row<S: Simd>(values: &[f32]) -> f32 {
    let from = values.as_ptr();
    let whole = values.len() - values.len() % S::LANES;
    let mut max = S::splat(f32::NEG_INFINITY);
    vectors!(S, whole, |i, _n| max = S::max(S::load(from.add(i)), max));
    let mut largest = S::max_lane(max);
    for &value in &values[whole..] {
        largest = if value > largest { value } else { largest };
    }
    largest
}

/// `values[i] = e^((values[i] - shift) · scale)`; returns their sum.
#[inline(always)]
pub unsafe fn exp_shifted<S: Simd>(values: &mut [f32], shift: f32, scale: f32) -> f32 {
    let at = values.as_mut_ptr();
    let (shift, scale) = (S::splat(shift), S::splat(scale));
    let mut sum = S::zero();
    vectors!(S, values.len(), |i, n| {
        let x = load::<S>(at.add(i), n);
        store::<S>(at.add(i), exp::<S>(S::mul(S::sub(x, shift), scale)), n);
        // Read again: lanes behind the end count as 0.
        sum = S::add(sum, load::<S>(at.add(i), n));
    });
    S::sum(sum)
}

/// `values[i] = cap · tanh(values[i] / cap)`.
#[inline(always)]
pub unsafe fn softcap_row<S: Simd>(values: &mut [f32], cap: f32) {
    let at = values.as_mut_ptr();
    let cap = S::splat(cap);
    vectors!(S, values.len(), |i, n| {
        let x = load::<S>(at.add(i), n);
        store::<S>(at.add(i), S::mul(cap, tanh::<S>(S::div(x, cap))), n);
    });
}

/// `to[i] = x[i] / sqrt(mean(x²) + eps) · weight[i]`; `to` may be `x`.
///
/// # Safety
/// `x` and `to` hold `weight.len()` values; the processor has `S`'s instruction set.
#[inline(always)]
pub unsafe fn rms_norm<S: Simd>(x: *const f32, weight: &[f32], eps: f32, to: *mut f32) {
    let n = weight.len();
    let factor = 1.0 / (sum_of_squares::<S>(x, n, 0.0) / n as f32 + eps).sqrt();
    let factor = S::splat(factor);
    vectors!(S, n, |i, len| {
        let scaled = S::mul(load::<S>(x.add(i), len), factor);
        store::<S>(to.add(i), S::mul(scaled, load::<S>(weight.as_ptr().add(i), len)), len);
    });
}

/// `to[i] = (x[i] − mean) / sqrt(var + eps) · weight[i] + bias[i]`; `to` may be `x`.
///
/// # Safety
/// As [`rms_norm`]; `bias` is as long as `weight`.
#[inline(always)]
pub unsafe fn layer_norm<S: Simd>(
    x: *const f32,
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    to: *mut f32,
) {
    let n = weight.len();
    let mut sum = S::zero();
    vectors!(S, n, |i, len| sum = S::add(sum, load::<S>(x.add(i), len)));
    let mean = S::sum(sum) / n as f32;
    let factor = 1.0 / (sum_of_squares::<S>(x, n, mean) / n as f32 + eps).sqrt();
    let (mean, factor) = (S::splat(mean), S::splat(factor));
    vectors!(S, n, |i, len| {
        let scaled = S::mul(S::sub(load::<S>(x.add(i), len), mean), factor);
        let bias = match bias {
            Some(bias) => load::<S>(bias.as_ptr().add(i), len),
            None => S::zero(),
        };
        let weight = load::<S>(weight.as_ptr().add(i), len);
        store::<S>(to.add(i), S::fma(scaled, weight, bias), len);
    });
}

/// `Σ (x − mean)²`, in two sums that alternate.
#[inline(always)]
unsafe fn sum_of_squares<S: Simd>(x: *const f32, n: usize, mean: f32) -> f32 {
    let means = S::splat(mean);
    let (mut even, mut odd) = (S::zero(), S::zero());
    let whole = n - n % S::LANES;
    vectors!(S, whole, |i, _len| {
        let d = S::sub(S::load(x.add(i)), means);
        (even, odd) = (odd, S::fma(d, d, even));
    });
    let mut rest = 0.0;
    let mut i = whole;
    while i < n {
        let d = *x.add(i) - mean;
        rest += d * d;
        i += 1;
    }
    S::sum(S::add(even, odd)) + rest
}

/// `gate[i] = activation(gate[i]) · up[i]`.
#[inline(always)]
pub unsafe fn gate_row<S: Simd>(gate: &mut [f32], up: &[f32], activation: Activation) {
    let (at, up_at) = (gate.as_mut_ptr(), up.as_ptr());
    let n = if gate.len() < up.len() { gate.len() } else { up.len() };
    vectors!(S, n, |i, len| {
        let x = load::<S>(at.add(i), len);
        let active = match activation {
            Activation::Silu => silu::<S>(x),
            Activation::GeluTanh => gelu_tanh::<S>(x),
            Activation::Gelu => gelu::<S>(x),
        };
        store::<S>(at.add(i), S::mul(active, load::<S>(up_at.add(i), len)), len);
    });
}

/// `x / (1 + e^−x)`
#[inline(always)]
unsafe fn silu<S: Simd>(x: S::F) -> S::F {
    S::div(x, S::add(S::splat(1.0), exp::<S>(S::sub(S::zero(), x))))
}

/// `x / 2 · (1 + tanh(sqrt(2 / π) · (x + 0.044715 x³)))`
#[inline(always)]
unsafe fn gelu_tanh<S: Simd>(x: S::F) -> S::F {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let cubic = S::mul(S::mul(x, x), S::mul(x, S::splat(0.044715)));
    let inner = S::mul(S::splat(SQRT_2_OVER_PI), S::add(x, cubic));
    S::mul(S::mul(S::splat(0.5), x), S::add(S::splat(1.0), tanh::<S>(inner)))
}

/// `x / 2 · (1 + erf(x / sqrt(2)))`
#[inline(always)]
unsafe fn gelu<S: Simd>(x: S::F) -> S::F {
    let inner = erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2)));
    S::mul(S::mul(S::splat(0.5), x), S::add(S::splat(1.0), inner))
}

/// `to[i] = to[i] · keep + from[i] · factor`
#[inline(always)]
pub unsafe fn blend_row<S: Simd>(to: &mut [f32], keep: f32, from: &[f32], factor: f32) {
    let (at, from_at) = (to.as_mut_ptr(), from.as_ptr());
    let n = if to.len() < from.len() { to.len() } else { from.len() };
    let (keep, factor) = (S::splat(keep), S::splat(factor));
    vectors!(S, n, |i, len| {
        let kept = S::mul(load::<S>(at.add(i), len), keep);
        store::<S>(at.add(i), S::fma(load::<S>(from_at.add(i), len), factor, kept), len);
    });
}

/// `to[i] = bf16(from[i])`, to nearest even.
///
/// # Safety
/// `to` has room for `from.len()` values; the processor has `S`'s instruction set.
#[inline(always)]
pub unsafe fn store_bf16_row<S: Simd>(from: &[f32], to: *mut u16) {
    let at = from.as_ptr();
    let whole = from.len() - from.len() % S::LANES;
    vectors!(S, whole, |i, _len| S::store_bf16(to.add(i), S::load(at.add(i))));
    let rest = from.len() - whole;
    if rest > 0 {
        S::store_bf16_partial(to.add(whole), S::load_partial(at.add(whole), rest), rest);
    }
}

/// `to[i] = f16(from[i])`, to nearest even.
///
/// # Safety
/// As [`store_bf16_row`].
#[inline(always)]
pub unsafe fn store_f16_row<S: Simd>(from: &[f32], to: *mut u16) {
    let at = from.as_ptr();
    let whole = from.len() - from.len() % S::LANES;
    vectors!(S, whole, |i, _len| S::store_f16(to.add(i), S::load(at.add(i))));
    let rest = from.len() - whole;
    if rest > 0 {
        S::store_f16_partial(to.add(whole), S::load_partial(at.add(whole), rest), rest);
    }
}
