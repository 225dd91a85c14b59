//! exp, tanh and erf over any [`Simd`]. Polynomials on a reduced range; NaN gives NaN.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::Simd;

/// `Σ coefficients[i] · x^(n−1−i)` by Horner's rule.
#[inline(always)]
unsafe fn polynomial<S: Simd, const N: usize>(x: S::F, coefficients: &[f32; N]) -> S::F {
    let mut y = S::splat(coefficients[0]);
    let mut i = 1;
    while i < N {
        y = S::fma(y, x, S::splat(coefficients[i]));
        i += 1;
    }
    y
}

/// e^x with a relative error below 2e-7; 0 from −104 down, infinity from 88.73 up.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
pub unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // ln 2 in two parts: n · LN2_HIGH is exact, since LN2_HIGH has 9 bits.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Remez coefficients of (e^r − 1 − r) / r² on ±ln 2 / 2.
    const TAIL: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    // With the bound first, a NaN of x survives min and max.
    let x = S::max(S::splat(-105.0), S::min(S::splat(90.0), x));
    let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
    let r = S::fma(n, S::splat(-LN2_HIGH), x);
    let r = S::fma(n, S::splat(-LN2_LOW), r);
    let tail = polynomial::<S, 6>(r, &TAIL);
    let y = S::fma(tail, S::mul(r, r), S::add(r, S::splat(1.0)));
    S::scale_by_power_of_2(y, n)
}

/// tanh with a relative error below 4e-7.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
pub unsafe fn tanh<S: Simd>(x: S::F) -> S::F {
    // (tanh x − x) / x³ in x², on |x| < 0.625.
    const TAIL: [f32; 5] =
        [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1];
    let magnitude = S::abs(x);
    let squared = S::mul(x, x);
    let small = S::fma(S::mul(polynomial::<S, 5>(squared, &TAIL), squared), x, x);
    let e = exp::<S>(S::add(magnitude, magnitude));
    let quotient = S::div(S::splat(2.0), S::add(e, S::splat(1.0)));
    let large = S::copysign(S::sub(S::splat(1.0), quotient), x);
    S::select(S::less(magnitude, S::splat(0.625)), small, large)
}

/// The error function with an absolute error below 4e-7, relative below |x| = 1: a polynomial in x² there, beyond it
/// Abramowitz and Stegun's 7.1.26.
///
/// # Safety
/// The processor has `S`'s instruction set.
#[inline(always)]
pub unsafe fn erf<S: Simd>(x: S::F) -> S::F {
    // Chebyshev fit of erf(x) / x.
    const SMALL: [f32; 7] = [
        7.882_497_5e-5,
        -8.018_855e-4,
        5.189_312e-3,
        -2.685_432_9e-2,
        1.128_359_7e-1,
        -3.761_262_6e-1,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    const IN_T: [f32; 6] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6, 0.0];
    let magnitude = S::abs(x);
    let squared = S::mul(x, x);
    let small = S::mul(x, polynomial::<S, 7>(squared, &SMALL));
    let t = S::div(S::splat(1.0), S::fma(magnitude, S::splat(0.327_591_1), S::splat(1.0)));
    let e = exp::<S>(S::sub(S::zero(), squared));
    let large = S::sub(S::splat(1.0), S::mul(polynomial::<S, 6>(t, &IN_T), e));
    S::select(S::less(magnitude, S::splat(1.0)), small, S::copysign(large, x))
}
