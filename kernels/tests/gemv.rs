//! Products of one to four rows.
#![cfg(feature = "standin")]

mod common;
mod heads;
mod products;
mod twins;
mod weights;

use common::{Device, Random, assert_close, device_of, for_policies};
use heads::Heads;
use larder_kernels::driver::Result;
use larder_kernels::format::{Format, Weights};
use larder_kernels::gemv;
use larder_kernels::kv::KvKind;
use larder_kernels::norm::{Norm, NormKind};
use larder_kernels::product::{Act, Finish, FinishKind, QkvFinish, RopePairs};
use products::{check_company, check_endings, check_gated, check_parts, check_store, product};
use twins::NormTwin;
use weights::Matrix;

/// The activations are f32 and so are the sums.
const TOLERANCE: f64 = 2e-6;

fn launch(
    device: &Device,
    weights: &[Weights],
    input: u64,
    n_rows: usize,
    finish: &FinishKind,
) -> Result<()> {
    launch_normed(device, weights, input, None, n_rows, finish)
}

fn launch_normed(
    device: &Device,
    weights: &[Weights],
    input: u64,
    norm: Option<&Norm>,
    n_rows: usize,
    finish: &FinishKind,
) -> Result<()> {
    let (kernels, stream, n_rows) = (&device.kernels, &device.stream, n_rows as u32);
    let format = weights.first().map_or(Format::F32, |matrix| matrix.format);
    // SAFETY: the buffers have the sizes that the callers state and live until they download.
    unsafe { gemv::launch(kernels, stream, weights, format, input, norm, n_rows, finish) }
}

/// Elements of a row: less than a chunk, some chunks and a rest, more than all warps take at once.
fn lengths(format: Format) -> &'static [usize] {
    match (format, format.block_len()) {
        (Format::F32, _) => &[4, 64, 500, 1000],
        (_, 1) => &[8, 64, 200, 1000],
        (_, 32) => &[32, 96, 512, 1056],
        _ => &[256, 768, 2048],
    }
}

#[test]
fn every_format_length_and_number_of_rows() {
    for_policies(|device| {
        for format in Format::ALL {
            for (i, &n_in) in lengths(format).iter().enumerate() {
                for n_rows in 1..=4 {
                    let n_out = [1, 5, 24, 37][(i + n_rows) % 4];
                    let sizes = (n_rows, n_out, n_in);
                    check_store(device, &launch, format, sizes, TOLERANCE);
                }
            }
        }
    });
}

#[test]
fn endings() {
    for_policies(|device| {
        for (i, format) in Format::ALL.into_iter().enumerate() {
            check_endings(device, &launch, format, (1 + i % 4, 13, 256), TOLERANCE);
            check_gated(device, &launch, format, (1 + (i + 1) % 4, 11, 256), TOLERANCE);
        }
    });
}

#[test]
fn rows_and_columns_of_a_matrix() {
    for_policies(|device| {
        for format in Format::ALL {
            check_parts(device, &launch, format, TOLERANCE);
        }
    });
}

#[test]
fn a_row_does_not_see_its_company() {
    let device = common::device();
    for format in Format::ALL {
        check_company(&device, &launch, format, 2);
        check_company(&device, &launch, format, 4);
    }
}

#[test]
fn norm_in_front() {
    for_policies(|device| {
        for (format, n_in, n_rows) in [
            (Format::F32, 1000, 1),
            (Format::BF16, 64, 4),
            (Format::F16, 1000, 3),
            (Format::I8, 200, 2),
            (Format::Q4_0, 1056, 2),
            (Format::Q4_K, 768, 1),
            (Format::Q6_K, 256, 3),
        ] {
            let n_out = 9;
            let matrix = Matrix::random(device, format, n_out, n_in, 1);
            let mut random = Random::new(2);
            let x = random.values(n_rows * n_in);
            let twin = NormTwin {
                kind: NormKind::Rms,
                weight: random.values(n_in),
                bias: Vec::new(),
                eps: 1e-3,
            };
            let weight = device.upload(&twin.weight);
            let norm =
                Norm { weight: weight.address(), bias: 0, kind: NormKind::Rms, eps: twin.eps };
            let out = device.output::<f32>(n_rows * n_out);
            let kind = FinishKind::Store(Finish::to(out.address(), n_out as u32));
            let input = device.upload(&x);
            launch_normed(device, &[matrix.weights], input.address(), Some(&norm), n_rows, &kind)
                .unwrap();
            let normed: Vec<f64> = x.chunks(n_in).flat_map(|row| twin.of(row)).collect();
            let expected = product(&launch, &matrix, &normed, n_in);
            assert_close(&device.download(&out), &expected, TOLERANCE);
        }
    });
}

/// From one warp per unit with several rounds to eight warps per unit.
#[test]
fn every_spread_over_blocks() {
    for n_multiprocessors in [1, 3, 60] {
        let kind = common::DeviceKind { n_multiprocessors, ..Default::default() };
        let device = device_of(kind);
        for (format, n_in) in [(Format::BF16, 1000), (Format::Q4_0, 4096), (Format::Q8_0, 1056)] {
            for n_out in [64, 301] {
                check_store(&device, &launch, format, (1, n_out, n_in), TOLERANCE);
                check_gated(&device, &launch, format, (3, n_out, n_in), TOLERANCE);
            }
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
        (Format::Q8_0, (16, 2, 1, 8, halves, NormKind::None, true, (BF16, F16))),
        (Format::F16, (32, 3, 1, 16, adjacent, NormKind::None, true, (F16, BF16))),
        (Format::Q4_0, (40, 3, 3, 0, halves, NormKind::None, true, (F16, BF16))),
        // A head in a block.
        (Format::F32, (64, 2, 1, 32, adjacent, NormKind::Rms, true, (BF16, F16))),
        (Format::F8E4M3, (40, 3, 1, 0, halves, NormKind::Layer, true, (F16, F32))),
        (Format::I8, (80, 2, 2, 80, halves, NormKind::Rms, false, (Int8, Fp8))),
        (Format::Q4_K, (256, 1, 1, 64, halves, NormKind::None, true, (F32, Int8))),
        (Format::Q6_K, (24, 3, 1, 6, halves, NormKind::None, true, (F32, F32))),
    ];
    for_policies(|device| {
        for (i, (format, case)) in cases.into_iter().enumerate() {
            let (head_dim, n_heads, n_kv_heads, rope_dim, pairs, norm, biases, kinds) = case;
            let heads =
                Heads { head_dim, n_heads, n_kv_heads, rope_dim, pairs, norm, biases, kinds };
            let n_rows = 1 + i % 4;
            heads.check(device, format, n_rows, 256, 5e-6, |weights, first_head, input, finish| {
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
    let matrix = Matrix::random(&device, Format::BF16, 8, 8, 1);
    let odd = Matrix::random(&device, Format::BF16, 8, 12, 1);
    let (input, out) = (device.upload(&[0.0f32; 64]), device.upload(&[0.0f32; 64]));
    let store = FinishKind::Store(Finish::to(out.address(), 8));
    let gated = FinishKind::Gated(Finish::to(out.address(), 8), Act::F32);
    let why = |weights: &[Weights], n_rows: usize, finish: &FinishKind| {
        launch(&device, weights, input.address(), n_rows, finish).unwrap_err().to_string()
    };
    assert!(why(&[matrix.weights], 5, &store).contains("5 rows, expected at most 4"));
    assert!(why(&[matrix.weights], 1, &gated).contains("1 matrices, expected 2"));
    assert!(why(&[odd.weights], 1, &store).contains("n_in is 12, expected a multiple of 8"));
    let norm = Norm { kind: NormKind::Layer, ..Norm::default() };
    let layer = launch_normed(&device, &[matrix.weights], input.address(), Some(&norm), 1, &store);
    assert!(layer.unwrap_err().to_string().contains("a norm in front that is not RMS"));
    launch(&device, &[matrix.weights], input.address(), 0, &store).unwrap();
    assert_eq!(device.download(&out), [0.0; 64]);
}
