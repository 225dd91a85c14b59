//! Each vector operation and function of every variant against scalar f32, f64 or the `half` crate.
#![allow(unsafe_op_in_unsafe_fn, reason = "the trait's contract covers each body")]

use super::{Simd, erf, exp, tanh};
use crate::backend::cpu::dispatch::Kernels;
use crate::backend::cpu::portable::Portable;
use half::{bf16, f16};

/// Runs a check, generic over [`Simd`], with every variant that the processor has.
macro_rules! every_variant {
    ($check:ident) => {
        for kernels in Kernels::supported() {
            // SAFETY: the variant is supported.
            unsafe {
                match kernels.name {
                    #[cfg(target_arch = "x86_64")]
                    "avx2" => $check::<crate::backend::cpu::x86::avx2::Avx2>(),
                    #[cfg(target_arch = "x86_64")]
                    "avx512" => $check::<crate::backend::cpu::x86::avx512::Avx512>(),
                    #[cfg(target_arch = "aarch64")]
                    "neon" => $check::<crate::backend::cpu::arm::neon::Baseline>(),
                    #[cfg(target_arch = "aarch64")]
                    "neon_dot" => $check::<crate::backend::cpu::arm::neon::DotProduct>(),
                    "portable" => $check::<Portable>(),
                    name => panic!("{name} is not checked"),
                }
            }
        }
    };
}

const MAX_LANES: usize = 16;

unsafe fn lanes<S: Simd>(v: S::F) -> Vec<f32> {
    let mut lanes = [0.0; MAX_LANES];
    S::store(lanes.as_mut_ptr(), v);
    lanes[..S::LANES].to_vec()
}

unsafe fn vector<S: Simd>(values: &[f32]) -> S::F {
    assert!(values.len() >= S::LANES);
    S::load(values.as_ptr())
}

fn assert_lanes(got: &[f32], want: impl Fn(usize) -> f32) {
    for (i, &got) in got.iter().enumerate() {
        let want = want(i);
        assert!(got == want || got.is_nan() && want.is_nan(), "lane {i}: {got}, not {want}");
    }
}

const A: [f32; MAX_LANES] =
    [0.5, -0.5, 1.5, 2.5, -2.5, 3.75, -1e-3, 7e5, 0.0, -0.0, 1e-30, -9.25, 4.0, 0.1, -0.2, 12.0];
const B: [f32; MAX_LANES] =
    [3.0, -0.25, 1.5, -2.0, 9.5, 3.5, 1e3, -7.0, 1.0, 2.0, -4e5, -9.25, 0.3, 0.7, -6.0, 5.0];

unsafe fn check_arithmetic<S: Simd>() {
    let (a, b) = (vector::<S>(&A), vector::<S>(&B));
    assert_lanes(&lanes::<S>(S::zero()), |_| 0.0);
    assert_lanes(&lanes::<S>(S::splat(2.5)), |_| 2.5);
    assert_lanes(&lanes::<S>(S::add(a, b)), |i| A[i] + B[i]);
    assert_lanes(&lanes::<S>(S::sub(a, b)), |i| A[i] - B[i]);
    assert_lanes(&lanes::<S>(S::mul(a, b)), |i| A[i] * B[i]);
    assert_lanes(&lanes::<S>(S::div(a, b)), |i| A[i] / B[i]);
    assert_lanes(&lanes::<S>(S::max(a, b)), |i| A[i].max(B[i]));
    assert_lanes(&lanes::<S>(S::min(a, b)), |i| A[i].min(B[i]));
    assert_lanes(&lanes::<S>(S::abs(a)), |i| A[i].abs());
    assert_lanes(&lanes::<S>(S::copysign(b, a)), |i| B[i].copysign(A[i]));
    assert_lanes(&lanes::<S>(S::round(a)), |i| A[i].round_ties_even());
    assert_lanes(&lanes::<S>(S::swap_pairs(a)), |i| A[i ^ 1]);
    let chosen = S::select(S::less(a, b), a, b);
    assert_lanes(&lanes::<S>(chosen), |i| if A[i] < B[i] { A[i] } else { B[i] });
    for (i, got) in lanes::<S>(S::fma(a, b, S::splat(0.3))).into_iter().enumerate() {
        let want = f64::from(A[i]) * f64::from(B[i]) + f64::from(0.3f32);
        let size = (A[i] * B[i]).abs().max(0.3);
        assert!((f64::from(got) - want).abs() <= f64::from(size * f32::EPSILON), "lane {i}");
    }
}

unsafe fn check_nan<S: Simd>() {
    let (nan, one) = (S::splat(f32::NAN), S::splat(1.0));
    assert_lanes(&lanes::<S>(S::max(nan, one)), |_| 1.0);
    assert_lanes(&lanes::<S>(S::max(one, nan)), |_| f32::NAN);
    assert_lanes(&lanes::<S>(S::min(nan, one)), |_| 1.0);
    assert_lanes(&lanes::<S>(S::min(one, nan)), |_| f32::NAN);
    let chosen = S::select(S::less(nan, one), one, S::zero());
    assert_lanes(&lanes::<S>(chosen), |_| 0.0);
}

unsafe fn check_reductions<S: Simd>() {
    let values: Vec<f32> = (0..MAX_LANES).map(|i| (1 << i) as f32).collect();
    assert_eq!(S::sum(vector::<S>(&values)), ((1 << S::LANES) - 1) as f32);
    let vectors = [0.1f32, 7.3, -0.7, 1e5].map(|first| {
        let values: Vec<f32> = (0..MAX_LANES).map(|i| first / (i + 1) as f32 + 0.3).collect();
        vector::<S>(&values)
    });
    let mut sums = [0.0; 4];
    S::store_sums(sums.as_mut_ptr(), vectors, 0.7);
    for (sum, vector) in sums.into_iter().zip(vectors) {
        assert_eq!(sum, S::sum(vector) * 0.7);
    }
    for largest in 0..S::LANES {
        let mut values = [-5.0; MAX_LANES];
        values[largest] = -2.0;
        assert_eq!(S::max_lane(vector::<S>(&values)), -2.0);
    }
}

unsafe fn check_scaling<S: Simd>() {
    for n in -252..=254 {
        for base in [1.0f32, 1.734_567_8] {
            let got = lanes::<S>(S::scale_by_power_of_2(S::splat(base), S::splat(n as f32)))[0];
            let want = (f64::from(base) * 2f64.powi(n)) as f32;
            // Two roundings can meet below the smallest normal number.
            let close = (got - want).abs() <= f32::from_bits(1);
            assert!(
                got == want || want.abs() < f32::MIN_POSITIVE && close,
                "{base} · 2^{n}: {got}"
            );
        }
    }
}

unsafe fn check_partial<S: Simd>() {
    for n in 0..S::LANES {
        // Exactly n elements: a checker of memory sees any other read.
        let (f32s, halves) = (A[..n].to_vec(), vec![0x3f80u16; n]);
        assert_lanes(&lanes::<S>(S::load_partial(f32s.as_ptr(), n)), |i| {
            if i < n { A[i] } else { 0.0 }
        });
        let one = |i: usize, one: f32| if i < n { one } else { 0.0 };
        let got = lanes::<S>(S::load_bf16_partial(halves.as_ptr(), n));
        assert_lanes(&got, |i| one(i, 1.0));
        let got = lanes::<S>(S::load_f16_partial(halves.as_ptr(), n));
        assert_lanes(&got, |i| one(i, 1.875));
        let mut to = [9.0f32; MAX_LANES];
        S::store_partial(to.as_mut_ptr(), vector::<S>(&A), n);
        assert_lanes(&to, |i| if i < n { A[i] } else { 9.0 });
        let mut to = [7u16; MAX_LANES];
        S::store_bf16_partial(to.as_mut_ptr(), S::splat(1.0), n);
        assert!(to.iter().enumerate().all(|(i, &v)| v == if i < n { 0x3f80 } else { 7 }));
        let mut to = [7u16; MAX_LANES];
        S::store_f16_partial(to.as_mut_ptr(), S::splat(1.0), n);
        assert!(to.iter().enumerate().all(|(i, &v)| v == if i < n { 0x3c00 } else { 7 }));
    }
}

/// Bits around every rounding: all upper halves with the lower halves that matter.
fn float_patterns() -> Vec<f32> {
    (0..=u16::MAX)
        .flat_map(|high| {
            [0, 1, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff]
                .map(|low| f32::from_bits(u32::from(high) << 16 | low))
        })
        .collect()
}

unsafe fn check_halves<S: Simd>() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    for from in all.chunks_exact(S::LANES) {
        let got = lanes::<S>(S::load_bf16(from.as_ptr()));
        assert_lanes(&got, |i| bf16::from_bits(from[i]).to_f32());
        let got = lanes::<S>(S::load_f16(from.as_ptr()));
        assert_lanes(&got, |i| f16::from_bits(from[i]).to_f32());
    }
    for values in float_patterns().chunks_exact(S::LANES) {
        let mut to = [0u16; MAX_LANES];
        S::store_bf16(to.as_mut_ptr(), vector::<S>(values));
        for (&value, bits) in values.iter().zip(to) {
            let (got, want) = (bf16::from_bits(bits), bf16::from_f32(value));
            assert!(bits == want.to_bits() || got.is_nan() && value.is_nan(), "{value:e}");
        }
        S::store_f16(to.as_mut_ptr(), vector::<S>(values));
        for (&value, bits) in values.iter().zip(to) {
            let (got, want) = (f16::from_bits(bits), f16::from_f32(value));
            assert!(bits == want.to_bits() || got.is_nan() && value.is_nan(), "{value:e}");
        }
    }
}

/// Relative, but absolute below the smallest normal number.
fn relative(got: f32, want: f64) -> f64 {
    (f64::from(got) - want).abs() / want.abs().max(f64::from(f32::MIN_POSITIVE))
}

fn sweep(from: f32, to: f32) -> Vec<f32> {
    let n = 20_000;
    (0..n).map(|i| from + (to - from) * i as f32 / (n - 1) as f32).collect()
}

unsafe fn check_exp<S: Simd>() {
    for x in sweep(-104.5, 88.72).chunks_exact(S::LANES) {
        for (&x, y) in x.iter().zip(lanes::<S>(exp::<S>(vector::<S>(x)))) {
            assert!(relative(y, f64::from(x).exp()) < 2e-7, "exp({x}) = {y}");
        }
    }
    let ends = [
        (f32::NEG_INFINITY, 0.0),
        (-1e30, 0.0),
        (-0.0, 1.0),
        (0.0, 1.0),
        (88.8, f32::INFINITY),
        (f32::INFINITY, f32::INFINITY),
        (f32::NAN, f32::NAN),
        (-f32::NAN, f32::NAN),
    ];
    for (x, want) in ends {
        assert_lanes(&lanes::<S>(exp::<S>(S::splat(x))), |_| want);
    }
}

/// erf by its Taylor series, exact enough for |x| < 4.
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

unsafe fn check_tanh_and_erf<S: Simd>() {
    for x in sweep(-3.9, 3.9).chunks_exact(S::LANES) {
        for (&x, y) in x.iter().zip(lanes::<S>(tanh::<S>(vector::<S>(x)))) {
            assert!(relative(y, f64::from(x).tanh()) < 4e-7, "tanh({x}) = {y}");
        }
        for (&x, y) in x.iter().zip(lanes::<S>(erf::<S>(vector::<S>(x)))) {
            assert!((f64::from(y) - erf_series(f64::from(x))).abs() < 4e-7, "erf({x}) = {y}");
        }
    }
    for (x, want) in [(f32::INFINITY, 1.0), (-1e30, -1.0), (90.0, 1.0), (f32::NAN, f32::NAN)] {
        assert_lanes(&lanes::<S>(tanh::<S>(S::splat(x))), |_| want);
        assert_lanes(&lanes::<S>(erf::<S>(S::splat(x))), |_| want);
    }
    for x in [1e-30f32, -1e-10] {
        assert_lanes(&lanes::<S>(tanh::<S>(S::splat(x))), |_| x);
    }
}

#[test]
fn arithmetic_is_that_of_scalars() {
    every_variant!(check_arithmetic);
    every_variant!(check_nan);
    every_variant!(check_reductions);
    every_variant!(check_scaling);
}

#[test]
fn parts_of_vectors_touch_nothing_else() {
    every_variant!(check_partial);
}

#[test]
fn halves_are_converted_as_by_the_half_crate() {
    every_variant!(check_halves);
}

#[test]
fn exp_is_close_everywhere_and_right_at_its_ends() {
    every_variant!(check_exp);
}

#[test]
fn tanh_and_erf_are_close() {
    every_variant!(check_tanh_and_erf);
}
