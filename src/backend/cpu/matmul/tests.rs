//! Every weight type, path and variant against f64, and bit for bit against itself in other shapes.

use super::{Activations, Output, Precision, Weights, dequantise_row, matmul, q8, scratch_bytes};
use crate::backend::cpu::blocks::pack::{Cut, TILE, pack, packed_bytes};
use crate::backend::cpu::dispatch::Kernels;
use crate::dtype::DType;
use std::ops::Range;

/// splitmix64: numbers for tests, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly in −1 .. 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// Byte positions of the f16 numbers in a block.
fn f16_fields(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4_NL | DType::IQ4_XS => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q2_K => &[80, 82],
        DType::Q3_K => &[108],
        DType::Q6_K => &[208],
        DType::MXFP4 | DType::F32 | DType::F16 | DType::BF16 => &[],
    }
}

/// Rows of any bytes, with scales of ordinary size.
fn random_weights(random: &mut Random, dtype: DType, n_rows: usize, n_in: usize) -> Vec<u8> {
    let n = n_rows * n_in;
    match dtype {
        DType::F32 => random.units(n).iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => {
            random.units(n).iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect()
        }
        DType::BF16 => {
            random.units(n).iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect()
        }
        _ => {
            let n_blocks = n / dtype.block_len();
            let mut bytes: Vec<u8> =
                (0..n_blocks * dtype.block_bytes()).map(|_| random.next() as u8).collect();
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                for &at in f16_fields(dtype) {
                    let scale = half::f16::from_f32(random.unit());
                    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
                if dtype == DType::MXFP4 {
                    block[0] = 118 + (random.next() % 12) as u8;
                }
            }
            bytes
        }
    }
}

/// Whole rows, packed.
fn packed(dtype: DType, n_in: usize, rows: &[u8]) -> Vec<u8> {
    let row_bytes = dtype.row_bytes(n_in as u64).unwrap() as usize;
    let n_rows = (rows.len() / row_bytes) as u64;
    let mut tiles = vec![0; packed_bytes(dtype, n_rows, n_in as u64).unwrap() as usize];
    let tile_bytes = Cut::of(dtype).tile_bytes(n_in);
    for (rows, tile) in rows.chunks(TILE * row_bytes).zip(tiles.chunks_exact_mut(tile_bytes)) {
        pack(dtype, n_in, rows, tile, 0..rows.len() / row_bytes);
    }
    tiles
}

fn f32_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Weights, activations and their 8-bit form.
struct Case {
    kernels: &'static Kernels,
    dtype: DType,
    n_in: usize,
    n_rows: usize,
    /// Rows as in the file.
    weights: Vec<u8>,
    x: Vec<f32>,
    quantised: Vec<u8>,
}

impl Case {
    fn new(
        kernels: &'static Kernels,
        dtype: DType,
        n_in: usize,
        n_rows: usize,
        n_x: usize,
    ) -> Case {
        let mut random = Random(n_in as u64);
        let weights = random_weights(&mut random, dtype, n_rows, n_in);
        let x = random.units(n_x * n_in);
        let row = q8::row_bytes(n_in);
        let mut quantised = vec![0; n_x * row];
        if dtype.is_quantised() {
            for (x, row) in x.chunks_exact(n_in).zip(quantised.chunks_exact_mut(row)) {
                // SAFETY: the variant is supported; n_in is a multiple of 32.
                unsafe { (kernels.quantise_row)(x, row) };
            }
        }
        Case { kernels, dtype, n_in, n_rows, weights, x, quantised }
    }

    /// `[m][rows]`
    fn run(&self, precision: Precision, rows: Range<usize>, m: Range<usize>) -> Vec<f32> {
        let packed = packed(self.dtype, self.n_in, &self.weights);
        let weights = Weights { dtype: self.dtype, n_in: self.n_in, bytes: &packed };
        let x = match precision {
            Precision::Exact => Activations::F32 { data: &self.x, stride: self.n_in },
            Precision::Q8 => {
                Activations::Q8 { data: &self.quantised, stride: q8::row_bytes(self.n_in) }
            }
        };
        let scratch_bytes = scratch_bytes(self.dtype, self.n_in, precision);
        let mut scratch = vec![f32::NAN; scratch_bytes / 4];
        // SAFETY: the scratch's bytes are all its own.
        let scratch = unsafe {
            std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<u8>(), scratch_bytes)
        };
        let stride = rows.len() + 3;
        let mut out = vec![f32::NAN; m.len() * stride];
        let to = Output { first: out.as_mut_ptr(), stride };
        // SAFETY: the variant is supported; `out` has m.len() rows of more than rows.len().
        unsafe { matmul(self.kernels, &weights, rows.clone(), &x, m, scratch, to) };
        for row in out.chunks_exact(stride) {
            assert!(row[rows.len()..].iter().all(|v| v.is_nan()), "wrote behind a row's end");
        }
        out.chunks_exact(stride).flat_map(|row| row[..rows.len()].to_vec()).collect()
    }

    /// Weight row `n` in f32, by the portable variant.
    fn weight_row(&self, n: usize) -> Vec<f32> {
        let row_bytes = self.weights.len() / self.n_rows;
        let mut row = vec![0.0; self.n_in];
        let portable = Kernels::supported()[0];
        let bytes = &self.weights[n * row_bytes..][..row_bytes];
        // SAFETY: the portable variant is always supported.
        unsafe { dequantise_row(portable, self.dtype, bytes, &mut row) };
        row
    }

    /// Activation row `m` as the path sees it.
    fn activation_row(&self, precision: Precision, m: usize) -> Vec<f64> {
        if precision == Precision::Exact {
            return self.x[m * self.n_in..][..self.n_in].iter().map(|&v| f64::from(v)).collect();
        }
        let row = &self.quantised[m * q8::row_bytes(self.n_in)..];
        let chunks = row.chunks_exact(44).take(self.n_in / 32);
        chunks
            .flat_map(|chunk| {
                let scale = f64::from(f32_at(chunk, 32));
                chunk[..32].iter().map(move |&q| scale * f64::from(q as i8))
            })
            .collect()
    }

    /// Compares with f64. A sum of `n` products in f32 errs by at most n · 2^-24 of the sum of magnitudes (Higham);
    /// lanes make it n / 8. Types with offsets cancel: there the magnitudes are those of the parts, which are at
    /// most about twice the largest weight each, or as large as `offset`.
    fn check(&self, precision: Precision, n_x: usize, offset: f64) {
        let got = self.run(precision, 0..self.n_rows, 0..n_x);
        for n in 0..self.n_rows {
            let w = self.weight_row(n);
            let largest = w.iter().fold(offset, |a, &w| a.max(f64::from(w).abs()));
            for m in 0..n_x {
                let x = self.activation_row(precision, m);
                let want: f64 = w.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum();
                let magnitude: f64 = x.iter().map(|x| 4.0 * largest * x.abs()).sum();
                let steps = (self.n_in / 8 + 16) as f64;
                let bound = magnitude * f64::from(f32::EPSILON) / 2.0 * steps.sqrt().max(4.0);
                let got = f64::from(got[m * self.n_rows + n]);
                assert!(
                    (got - want).abs() <= bound,
                    "{} {:?} {precision:?} n_in {}: [{m}][{n}] is {got}, not {want} ± {bound}",
                    self.kernels.name,
                    self.dtype,
                    self.n_in
                );
            }
        }
    }
}

fn precisions(dtype: DType) -> &'static [Precision] {
    if dtype.is_quantised() { &[Precision::Exact, Precision::Q8] } else { &[Precision::Exact] }
}

fn sizes(dtype: DType) -> &'static [usize] {
    match dtype.block_len() {
        1 => &[1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 96, 576],
        32 => &[32, 64, 96, 576],
        _ => &[256, 512, 1536],
    }
}

#[test]
fn products_are_those_of_f64() {
    for kernels in Kernels::supported() {
        for dtype in DType::ALL {
            for &n_in in sizes(dtype) {
                for &precision in precisions(dtype) {
                    Case::new(kernels, dtype, n_in, 13, 5).check(precision, 5, 0.0);
                }
            }
        }
    }
}

#[test]
fn large_rows_too() {
    for kernels in Kernels::supported() {
        for dtype in DType::ALL {
            for &precision in precisions(dtype) {
                Case::new(kernels, dtype, 8192, 6, 4).check(precision, 4, 0.0);
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_other_rows() {
    for kernels in Kernels::supported() {
        for dtype in DType::ALL {
            for &n_in in &sizes(dtype)[sizes(dtype).len() - 2..] {
                for &precision in precisions(dtype) {
                    check_bits(&Case::new(kernels, dtype, n_in, 37, 48), precision);
                }
            }
        }
    }
}

fn check_bits(case: &Case, precision: Precision) {
    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let alone: Vec<Vec<u32>> =
        (0..48).map(|m| bits(&case.run(precision, 0..37, m..m + 1))).collect();
    for n_x in [1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 48] {
        let got = bits(&case.run(precision, 0..37, 0..n_x));
        assert_eq!(got, alone[..n_x].concat(), "{:?} {precision:?} M = {n_x}", case.dtype);
    }
    for rows in [0..1, 1..2, 36..37, 3..8, 5..17, 8..36, 20..37] {
        for m in [0..1, 4..6, 7..14] {
            let got = bits(&case.run(precision, rows.clone(), m.clone()));
            let want: Vec<u32> =
                alone[m].iter().flat_map(|row| row[rows.clone()].to_vec()).collect();
            assert_eq!(got, want, "{:?} {precision:?} rows {rows:?}", case.dtype);
        }
    }
}

#[test]
fn no_rows_are_no_work() {
    let case = Case::new(Kernels::detect(), DType::Q8_0, 32, 3, 2);
    assert!(case.run(Precision::Q8, 2..2, 0..2).is_empty());
    assert!(case.run(Precision::Q8, 0..3, 1..1).is_empty());
}

#[test]
fn extreme_bytes_do_not_saturate() {
    for kernels in Kernels::supported() {
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantised()) {
            for fill in [0x00, 0x7f, 0x80, 0xff] {
                let mut case = Case::new(kernels, dtype, 256, 4, 2);
                for block in case.weights.chunks_exact_mut(dtype.block_bytes()) {
                    block.fill(fill);
                    for &at in f16_fields(dtype) {
                        block[at..at + 2].copy_from_slice(&half::f16::ONE.to_le_bytes());
                    }
                    if dtype == DType::MXFP4 {
                        block[0] = 127;
                    }
                }
                // ±1 becomes ±127.
                for (i, x) in case.x.iter_mut().enumerate() {
                    *x = if i < 256 || i % 2 == 0 { 1.0 } else { -1.0 };
                }
                for (x, row) in case
                    .x
                    .chunks_exact(256)
                    .zip(case.quantised.chunks_exact_mut(q8::row_bytes(256)))
                {
                    // SAFETY: the variant is supported.
                    unsafe { (kernels.quantise_row)(x, row) };
                }
                case.check(Precision::Q8, 1, 32.0);
                case.check(Precision::Q8, 2, 32.0);
            }
        }
    }
}

#[test]
fn activations_quantise_to_the_nearest() {
    for kernels in Kernels::supported() {
        let mut x = Random(7).units(96);
        x[32..64].fill(0.0);
        x[64..96].iter_mut().for_each(|x| *x *= 1e-33);
        let mut row = vec![0u8; q8::row_bytes(96)];
        // SAFETY: the variant is supported.
        unsafe { (kernels.quantise_row)(&x, &mut row) };
        let largest = x[..32].iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let scale = f32_at(&row, 32);
        assert_eq!(scale, largest / 127.0, "{}", kernels.name);
        for i in 0..32 {
            let error = f64::from(x[i]) - f64::from(scale) * f64::from(row[i] as i8);
            assert!(error.abs() <= f64::from(scale) * 0.500_01, "{}: {i}", kernels.name);
        }
        for (at, first) in [(36, 0), (40, 16)] {
            let sum: i32 = row[first..32].iter().map(|&q| i32::from(q as i8)).sum();
            assert_eq!(f32_at(&row, at), scale * sum as f32, "{}", kernels.name);
        }
        // Nothing and next to nothing are zeros.
        assert!(row[44..].iter().all(|&byte| byte == 0), "{}", kernels.name);
    }
}

#[test]
fn a_value_that_is_not_finite_shows_in_every_output() {
    for kernels in Kernels::supported() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for dtype in [DType::Q8_0, DType::Q4_1] {
                let mut case = Case::new(kernels, dtype, 64, 5, 1);
                case.x[37] = bad;
                // SAFETY: the variant is supported.
                unsafe { (kernels.quantise_row)(&case.x, &mut case.quantised) };
                let got = case.run(Precision::Q8, 0..5, 0..1);
                assert!(got.iter().all(|v| v.is_nan()), "{}: {bad} gave {got:?}", kernels.name);
            }
        }
    }
}
