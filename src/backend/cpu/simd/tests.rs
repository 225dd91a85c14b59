//! Each vector operation and function of every variant against f64 or the `half` crate.

use crate::backend::cpu::dispatch::Kernels;

/// Relative, but absolute below the smallest normal number.
fn relative(got: f32, want: f64) -> f64 {
    (f64::from(got) - want).abs() / want.abs().max(f64::from(f32::MIN_POSITIVE))
}

fn sweep(from: f32, to: f32, n: usize) -> Vec<f32> {
    (0..n).map(|i| from + (to - from) * i as f32 / (n - 1) as f32).collect()
}

#[test]
fn exp_is_close_everywhere_and_right_at_its_ends() {
    for kernels in Kernels::supported() {
        let x = sweep(-104.5, 88.72, 100_003);
        let mut y = x.clone();
        // SAFETY: the variant is supported.
        unsafe { (kernels.exp_row)(&mut y) };
        for (&x, &y) in x.iter().zip(&y) {
            assert!(relative(y, f64::from(x).exp()) < 2e-7, "{}: exp({x}) = {y}", kernels.name);
        }
        let mut ends =
            [f32::NEG_INFINITY, -1e30, -0.0, 0.0, 88.8, 1e30, f32::INFINITY, f32::NAN, -f32::NAN];
        // SAFETY: the variant is supported.
        unsafe { (kernels.exp_row)(&mut ends) };
        assert_eq!(ends[..4], [0.0, 0.0, 1.0, 1.0], "{}", kernels.name);
        assert_eq!(ends[4..7], [f32::INFINITY; 3], "{}", kernels.name);
        assert!(ends[7].is_nan() && ends[8].is_nan(), "{}", kernels.name);
    }
}
