//! Products of up to 64 rows on tensor cores.
#![cfg(feature = "standin")]

mod common;
mod heads;
mod products;
mod twins;
mod weights;

use common::{Device, device_of, for_policies};
use heads::Heads;
use larder_kernels::driver::Result;
use larder_kernels::format::{Format, Weights};
use larder_kernels::kv::KvKind;
use larder_kernels::norm::NormKind;
use larder_kernels::product::{Finish, FinishKind, QkvFinish, RopePairs};
use larder_kernels::small;
use products::{check_company, check_endings, check_gated, check_parts, check_store};
use weights::Matrix;

/// An activation is the sum of two bf16 (or f16) numbers: 16 bits.
const TOLERANCE: f64 = 1e-5;

const FORMATS: [Format; 8] = [
    Format::F16,
    Format::BF16,
    Format::F8E4M3,
    Format::I8,
    Format::Q8_0,
    Format::Q4_0,
    Format::Q4_K,
    Format::Q6_K,
];

fn launch(
    device: &Device,
    weights: &[Weights],
    input: u64,
    n_rows: usize,
    finish: &FinishKind,
) -> Result<()> {
    let (kernels, stream, n_rows) = (&device.kernels, &device.stream, n_rows as u32);
    let format = weights.first().map_or(Format::BF16, |matrix| matrix.format);
    // SAFETY: the buffers have the sizes that the callers state and live until they download.
    unsafe { small::launch(kernels, stream, weights, format, input, n_rows, finish) }
}

/// Elements of a row: less than a chunk, some chunks and a rest, more than all warps take at once.
fn lengths(format: Format) -> &'static [usize] {
    match format.block_len() {
        1 => &[8, 64, 1000],
        32 => &[32, 96, 512],
        _ => &[256, 768],
    }
}

#[test]
fn every_format_length_and_number_of_rows() {
    for_policies(|device| {
        for format in FORMATS {
            for (i, &n_in) in lengths(format).iter().enumerate() {
                for (j, n_rows) in [1, 8, 13, 29].into_iter().enumerate() {
                    let n_out = [1, 16, 37][(i + j) % 3];
                    check_store(device, &launch, format, (n_rows, n_out, n_in), TOLERANCE);
                }
            }
            check_store(device, &launch, format, (64, 18, 256), TOLERANCE);
            check_store(device, &launch, format, (51, 9, 256), TOLERANCE);
        }
    });
}

#[test]
fn endings() {
    for_policies(|device| {
        for (i, format) in FORMATS.into_iter().enumerate() {
            let n_rows = [5, 16, 17, 33][i % 4];
            check_endings(device, &launch, format, (n_rows, 21, 256), TOLERANCE);
            check_gated(device, &launch, format, (n_rows, 11, 256), TOLERANCE);
        }
    });
}

#[test]
fn rows_and_columns_of_a_matrix() {
    for_policies(|device| {
        for format in FORMATS {
            check_parts(device, &launch, format, TOLERANCE);
        }
    });
}

#[test]
fn a_row_does_not_see_its_company() {
    let device = common::device();
    for format in FORMATS {
        for n_rows in [8, 16, 32, 64] {
            check_company(&device, &launch, format, n_rows);
        }
    }
}

#[test]
fn every_spread_over_blocks() {
    for n_multiprocessors in [1, 3, 60] {
        let kind = common::DeviceKind { n_multiprocessors, ..Default::default() };
        let device = device_of(kind);
        for (format, n_in) in [(Format::BF16, 1000), (Format::Q4_0, 2048), (Format::Q6_K, 768)] {
            check_store(&device, &launch, format, (5, 301, n_in), TOLERANCE);
            check_gated(&device, &launch, format, (9, 70, n_in), TOLERANCE);
        }
        device.close();
    }
}

#[test]
fn heads_of_all_sizes_and_kinds() {
    use KvKind::{BF16, F16, F32, Fp8, Int8};
    let (halves, adjacent) = (RopePairs::Halves, RopePairs::Adjacent);
    // head_dim, q heads, kv heads, rope_dim, pairs, norm, biases, kinds of K and V.
    let cases = [
        // Spread over blocks.
        (Format::BF16, (64, 5, 2, 64, halves, NormKind::None, false, (F32, F32))),
        (Format::Q8_0, (16, 2, 1, 16, halves, NormKind::None, true, (BF16, F16))),
        (Format::F16, (32, 3, 1, 16, adjacent, NormKind::None, true, (F16, BF16))),
        (Format::Q4_0, (48, 3, 3, 0, halves, NormKind::None, true, (F16, BF16))),
        // A head in a block.
        (Format::BF16, (64, 2, 1, 32, adjacent, NormKind::Rms, true, (BF16, F16))),
        (Format::F8E4M3, (40, 3, 1, 0, halves, NormKind::Layer, true, (F16, F32))),
        (Format::I8, (80, 2, 2, 80, halves, NormKind::Rms, false, (Int8, Fp8))),
        (Format::Q4_K, (256, 1, 1, 64, halves, NormKind::None, true, (F32, Int8))),
        (Format::Q6_K, (24, 3, 1, 8, halves, NormKind::None, true, (F32, F32))),
    ];
    for_policies(|device| {
        for (i, (format, case)) in cases.into_iter().enumerate() {
            let (head_dim, n_heads, n_kv_heads, rope_dim, pairs, norm, biases, kinds) = case;
            let heads =
                Heads { head_dim, n_heads, n_kv_heads, rope_dim, pairs, norm, biases, kinds };
            let n_rows = 1 + i % 4;
            heads.check(device, format, n_rows, 256, 2e-5, |weights, first_head, input, finish| {
                let rows = device.upload(&input.values(device));
                let kind = FinishKind::Qkv(QkvFinish { first_head, ..*finish });
                launch(device, weights, rows.address(), n_rows, &kind).unwrap();
                device.synchronize();
            });
        }
    });
}

#[test]
fn refusals() {
    let device = common::device();
    let (f32_matrix, matrix) = (
        Matrix::random(&device, Format::F32, 8, 8, 1),
        Matrix::random(&device, Format::BF16, 8, 8, 1),
    );
    let (input, out) = (device.upload(&[0.0f32; 64]), device.upload(&[0.0f32; 64]));
    let store = FinishKind::Store(Finish::to(out.address(), 8));
    let why = |weights: &[Weights], n_rows: usize| {
        launch(&device, weights, input.address(), n_rows, &store).unwrap_err().to_string()
    };
    assert!(why(&[matrix.weights], 65).contains("65 rows, expected at most 64"));
    assert!(why(&[f32_matrix.weights], 1).contains("F32 weights are for gemv and gemm"));
    launch(&device, &[matrix.weights], input.address(), 0, &store).unwrap();
    assert_eq!(device.download(&out), [0.0; 64]);
}
