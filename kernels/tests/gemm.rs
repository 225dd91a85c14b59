//! Products of any number of rows on tensor cores, of every format, in both sizes of tiles.
#![cfg(feature = "standin")]

mod common;
mod heads;
mod products;
mod twins;
mod weights;

use common::{Device, for_policies};
use half::{bf16, f16};
use heads::Heads;
use larder_kernels::driver::Result;
use larder_kernels::format::{Format, Weights};
use larder_kernels::gemm::{self, Tiles};
use larder_kernels::kv::KvKind;
use larder_kernels::norm::{self, Norm, NormKind};
use larder_kernels::product::{Act, FinishKind, QkvFinish, RopePairs};
use products::{Kernel, check_company, check_endings, check_gated, check_parts, check_store};

const FORMATS: [Format; 9] = [
    Format::F32,
    Format::F16,
    Format::BF16,
    Format::F8E4M3,
    Format::I8,
    Format::Q8_0,
    Format::Q4_0,
    Format::Q4_K,
    Format::Q6_K,
];

/// Of the largest value. A weight that f32 arithmetic puts right between two bf16 numbers may be rounded either way.
fn tolerance(format: Format) -> f64 {
    if is_rounded(format) { 1e-4 } else { 5e-6 }
}

/// Weights with more than a scale are rounded to bf16; all others, and the activations of these tests, are exact.
fn is_rounded(format: Format) -> bool {
    matches!(format, Format::Q4_K | Format::Q6_K)
}

/// The product with tiles of one size, over f32 rows that are converted first.
struct Gemm(Tiles);

impl Kernel for Gemm {
    fn launch(
        &self,
        device: &Device,
        weights: &[Weights],
        rows: u64,
        n_rows: usize,
        finish: &FinishKind,
    ) -> Result<()> {
        let (kernels, stream) = (&device.kernels, &device.stream);
        let (format, n_in) = (weights[0].format, weights[0].n_in);
        let act = Act::of(format);
        let input = device.output::<u8>(n_rows * n_in as usize * act.bytes());
        let (at, none, n_rows) = (input.address(), Norm::default(), n_rows as u32);
        // SAFETY: the buffers have the sizes that the callers state and live until the work is done.
        unsafe {
            norm::norm_rows(kernels, stream, &none, act, rows, 0, at, n_rows, n_in)?;
            gemm::launch_tiled(kernels, stream, weights, format, at, n_rows, finish, self.0)?;
        }
        device.synchronize();
        Ok(())
    }

    fn weight(&self, format: Format, value: f64) -> f64 {
        if is_rounded(format) { bf16::from_f64(value).to_f64() } else { value }
    }

    fn activation(&self, format: Format, value: f32) -> f32 {
        match Act::of(format) {
            Act::F32 => value,
            Act::F16 => f16::from_f32(value).to_f32(),
            Act::BF16 => bf16::from_f32(value).to_f32(),
        }
    }
}

fn tiles_of(format: Format) -> &'static [Tiles] {
    if format == Format::F32 { &[Tiles::Small] } else { &[Tiles::Small, Tiles::Large] }
}

/// Elements of a row: less than a step, some steps and a rest.
fn lengths(format: Format) -> &'static [usize] {
    match format.block_len() {
        1 => &[8, 328],
        32 => &[32, 352],
        _ => &[256, 512],
    }
}

/// One row, one less and one more than a tile of either size has, and columns likewise.
#[test]
fn every_format_and_size() {
    for_policies(|device| {
        for (i, format) in FORMATS.into_iter().enumerate() {
            for &tiles in tiles_of(format) {
                let edge = if tiles == Tiles::Small { 64 } else { 128 };
                let n_rows = [1, edge - 1, edge, edge + 1][i % 4];
                let n_out = [edge + 1, 1, edge - 1, edge][i % 4];
                for &n_in in lengths(format) {
                    let sizes = (n_rows, n_out, n_in);
                    check_store(device, &Gemm(tiles), format, sizes, tolerance(format));
                }
            }
        }
    });
}

#[test]
fn endings() {
    let device = common::device();
    for format in FORMATS {
        for &tiles in tiles_of(format) {
            check_endings(&device, &Gemm(tiles), format, (67, 21, 256), tolerance(format));
            check_gated(&device, &Gemm(tiles), format, (5, 37, 256), tolerance(format));
        }
    }
}

#[test]
fn rows_and_columns_of_a_matrix() {
    let device = common::device();
    for format in FORMATS {
        for &tiles in tiles_of(format) {
            check_parts(&device, &Gemm(tiles), format, tolerance(format));
        }
    }
}

#[test]
fn a_row_does_not_see_its_company() {
    let device = common::device();
    for format in FORMATS {
        for &tiles in tiles_of(format) {
            check_company(&device, &Gemm(tiles), format, 70);
        }
    }
}

#[test]
fn heads_of_all_sizes_and_kinds() {
    use KvKind::{BF16, F16, F32, Fp8, Int8};
    let (halves, adjacent) = (RopePairs::Halves, RopePairs::Adjacent);
    // head_dim, q heads, kv heads, rope_dim, pairs, norm, biases, kinds of K and V.
    let cases = [
        (Format::BF16, (64, 2, 1, 32, adjacent, NormKind::Rms, true, (BF16, F16))),
        (Format::F16, (32, 3, 1, 16, adjacent, NormKind::None, true, (F16, BF16))),
        (Format::I8, (80, 2, 1, 80, halves, NormKind::Rms, false, (Int8, Fp8))),
        (Format::Q4_0, (256, 1, 1, 64, halves, NormKind::None, true, (F32, Int8))),
        (Format::Q8_0, (24, 3, 1, 8, halves, NormKind::Layer, true, (F32, F32))),
    ];
    let device = common::device();
    for (i, (format, case)) in cases.into_iter().enumerate() {
        let (head_dim, n_heads, n_kv_heads, rope_dim, pairs, norm, biases, kinds) = case;
        let heads = Heads { head_dim, n_heads, n_kv_heads, rope_dim, pairs, norm, biases, kinds };
        let n_rows = 1 + i % 4;
        heads.check(
            &device,
            format,
            n_rows,
            256,
            tolerance(format) + 2e-5,
            |weights, first_head, input, finish| {
                let kind = FinishKind::Qkv(QkvFinish { first_head, ..*finish });
                let (kernels, stream) = (&device.kernels, &device.stream);
                let (at, n) = (input.address(), n_rows as u32);
                // SAFETY: the buffers have these sizes and live until the download.
                unsafe { gemm::launch(kernels, stream, weights, format, at, n, &kind) }.unwrap();
                device.synchronize();
            },
        );
    }
}
