//! What products do with their results, on exact f32 products: values one by one, and heads of q, K and V.
#![cfg(feature = "standin")]

mod common;
mod heads;
mod twins;
mod weights;

use common::{Buffer, Device, Random, assert_close, for_policies, to_bf16, to_f16};
use half::{bf16, f16};
use heads::Heads;
use larder_kernels::driver::Result;
use larder_kernels::format::{Format, Weights};
use larder_kernels::gemm;
use larder_kernels::kv::{KvKind, KvRows};
use larder_kernels::norm::NormKind;
use larder_kernels::product::{Act, Activation, Finish, FinishKind, QkvFinish, RopePairs};
use weights::Matrix;

const N_IN: usize = 20;

fn launch(
    device: &Device,
    weights: &[Weights],
    input: &Buffer<f32>,
    n_rows: usize,
    finish: &FinishKind,
) -> Result<()> {
    launch_at(device, weights, input.address(), n_rows, finish)
}

fn launch_at(
    device: &Device,
    weights: &[Weights],
    at: u64,
    n_rows: usize,
    finish: &FinishKind,
) -> Result<()> {
    // SAFETY: the buffers have the sizes that the callers state and live until they download.
    unsafe {
        let (kernels, stream) = (&device.kernels, &device.stream);
        gemm::launch(kernels, stream, weights, Format::F32, at, n_rows as u32, finish)
    }
}

/// `x · matrix` in f64.
fn product(matrix: &Matrix, x: &[f32], n_in: usize) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f64]| x.iter().zip(w).map(|(&x, w)| f64::from(x) * w).sum::<f64>();
    x.chunks(n_in).flat_map(|x| matrix.values.chunks(n_in).map(move |w| dot(x, w))).collect()
}

/// Rows of `leading` with `values` in front and `rest` behind.
fn spread(values: &[f64], n: usize, leading: usize, rest: f64) -> Vec<f64> {
    let row = |row: &[f64]| [row.to_vec(), vec![rest; leading - n]].concat();
    values.chunks(n).flat_map(row).collect()
}

#[test]
fn store_and_residual() {
    for_policies(|device| {
        for (n_rows, n_out, leading, with_bias, cap) in [
            (1, 1, 1, false, 0.0f32),
            (3, 64, 64, true, 0.0),
            (5, 63, 65, true, 2.5),
            (65, 67, 70, false, 0.5),
        ] {
            let mut random = Random::new(n_out as u64);
            let matrix = Matrix::random(device, Format::F32, n_out, N_IN, 1);
            let (x, bias) = (random.values(n_rows * N_IN), random.values(n_out));
            let (input, bias_device) = (device.upload(&x), device.upload(&bias));
            let bias_at = |i: usize| if with_bias { f64::from(bias[i]) } else { 0.0 };
            let multiplier = 0.75f32;
            let finished: Vec<f64> = product(&matrix, &x, N_IN)
                .iter()
                .enumerate()
                .map(|(i, y)| (y + bias_at(i % n_out)) * f64::from(multiplier))
                .collect();
            let before = vec![3.0f32; n_rows * leading];
            for residual in [false, true] {
                let out = device.upload(&before);
                let finish = Finish {
                    out: out.address(),
                    bias: if with_bias { bias_device.address() } else { 0 },
                    multiplier,
                    cap: if residual { 0.0 } else { cap },
                    ..Finish::to(0, leading as u32)
                };
                let kind =
                    if residual { FinishKind::Residual(finish) } else { FinishKind::Store(finish) };
                launch(device, &[matrix.weights], &input, n_rows, &kind).unwrap();
                let value = |&y: &f64| match (residual, f64::from(cap)) {
                    (true, _) => 3.0 + y,
                    (false, 0.0) => y,
                    (false, cap) => cap * (y / cap).tanh(),
                };
                let expected: Vec<f64> = finished.iter().map(value).collect();
                let expected = spread(&expected, n_out, leading, 3.0);
                assert_close(&device.download(&out), &expected, 2e-6);
            }
        }
    });
}

fn check_gated<T: Copy + Into<f64>>(
    device: &Device,
    act: Act,
    to_act: impl Fn(&[f32]) -> Vec<T>,
    tolerance: f64,
    (n_rows, n_out, leading): (usize, usize, usize),
    activation: Activation,
) {
    let mut random = Random::new(n_out as u64);
    let matrices = [1, 2].map(|seed| Matrix::random(device, Format::F32, n_out, N_IN, seed));
    let x = random.values(n_rows * N_IN);
    let biases = [random.values(n_out), random.values(n_out)];
    let bias_devices = biases.each_ref().map(|bias| device.upload(bias));
    let out = device.upload(&to_act(&vec![3.0; n_rows * leading]));
    let finish = Finish {
        bias: bias_devices[0].address(),
        up_bias: bias_devices[1].address(),
        activation,
        ..Finish::to(out.address(), leading as u32)
    };
    let weights = matrices.each_ref().map(|matrix| matrix.weights);
    launch(device, &weights, &device.upload(&x), n_rows, &FinishKind::Gated(finish, act)).unwrap();
    let [gate, up] = matrices.each_ref().map(|matrix| product(matrix, &x, N_IN));
    let expected: Vec<f64> = (0..n_rows * n_out)
        .map(|i| {
            let [gate_bias, up_bias] = biases.each_ref().map(|bias| f64::from(bias[i % n_out]));
            twins::activate(activation, gate[i] + gate_bias) * (up[i] + up_bias)
        })
        .collect();
    assert_close(&device.download(&out), &spread(&expected, n_out, leading, 3.0), tolerance);
}

#[test]
fn gated() {
    for_policies(|device| {
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
            for sizes in [(1, 1, 1), (2, 32, 32), (66, 33, 35), (3, 63, 64)] {
                check_gated(device, Act::F32, <[f32]>::to_vec, 2e-6, sizes, activation);
                check_gated(device, Act::F16, to_f16, 1e-3, sizes, activation);
                check_gated::<bf16>(device, Act::BF16, to_bf16, 5e-3, sizes, activation);
            }
        }
    });
}

#[test]
fn values_too_large_for_f16_saturate() {
    for_policies(|device| {
        let matrices = [1, 2].map(|seed| Matrix::random(device, Format::F32, 8, 4, seed));
        let x = [1e9f32; 4];
        let out = device.output::<f16>(8);
        let finish = Finish::to(out.address(), 8);
        let weights = matrices.each_ref().map(|matrix| matrix.weights);
        let kind = FinishKind::Gated(finish, Act::F16);
        launch(device, &weights, &device.upload(&x), 1, &kind).unwrap();
        assert!(device.download(&out).iter().all(|it| it.is_finite()));
    });
}

#[test]
fn heads_of_all_sizes_and_kinds() {
    use KvKind::{BF16, F16, F32, Fp8, Int8};
    let halves = RopePairs::Halves;
    // head_dim, q heads, kv heads, rope_dim, pairs, norm, biases, kinds of K and V.
    let cases = [
        (16, 5, 2, 16, halves, NormKind::None, false, (F32, F32)),
        (64, 2, 1, 32, RopePairs::Adjacent, NormKind::Rms, true, (BF16, F16)),
        (40, 3, 1, 0, halves, NormKind::Layer, true, (F16, BF16)),
        (80, 2, 2, 80, halves, NormKind::Rms, false, (Int8, Fp8)),
        (256, 1, 1, 64, halves, NormKind::Rms, true, (Fp8, Int8)),
        (136, 1, 2, 136, RopePairs::Adjacent, NormKind::None, false, (F32, BF16)),
    ];
    for_policies(|device| {
        for (head_dim, n_heads, n_kv_heads, rope_dim, pairs, norm, biases, kinds) in cases {
            let heads =
                Heads { head_dim, n_heads, n_kv_heads, rope_dim, pairs, norm, biases, kinds };
            heads.check(
                device,
                Format::F32,
                3,
                N_IN,
                3e-6,
                |weights, first_head, input, finish| {
                    let finish = QkvFinish { first_head, ..*finish };
                    let kind = FinishKind::Qkv(finish);
                    launch_at(device, weights, input.address(), 3, &kind).unwrap();
                },
            );
        }
    });
}

#[test]
fn refusals() {
    let device = common::device();
    let matrix = Matrix::random(&device, Format::F32, 8, 8, 1);
    let odd = Matrix::random(&device, Format::F32, 8, 6, 1);
    let (input, out) = (device.upload(&[0.0f32; 8]), device.upload(&[0.0f32; 8]));
    let store = FinishKind::Store(Finish::to(out.address(), 8));
    let gated = FinishKind::Gated(Finish::to(out.address(), 8), Act::F32);
    let why = |weights: &[Weights], finish: &FinishKind| {
        launch(&device, weights, &input, 1, finish).unwrap_err().to_string()
    };
    assert!(why(&[], &store).contains("0 matrices, expected 1"));
    assert!(why(&[matrix.weights], &gated).contains("1 matrices, expected 2"));
    assert!(why(&[odd.weights], &store).contains("n_in is 6, expected a multiple of 4"));
    assert!(why(&[matrix.weights, odd.weights], &gated).contains("other n_in"));
    let short = matrix.weights.rows(0, 4).unwrap();
    assert!(why(&[matrix.weights, short], &gated).contains("gate has 8 columns and up 4"));
    let heads = |head_dim| {
        let kv = KvRows::new(0, KvKind::F32, KvKind::F32, 1, head_dim);
        FinishKind::Qkv(QkvFinish { kv, n_heads: 1, ..QkvFinish::default() })
    };
    assert!(why(&[matrix.weights], &heads(0)).contains("heads of 0"));
    assert!(why(&[matrix.weights], &heads(264)).contains("heads of 264, expected 1 to 256"));
    assert!(why(&[matrix.weights], &heads(3)).contains("8 columns are no whole heads of 3"));
    launch(&device, &[matrix.weights], &input, 0, &store).unwrap();
    assert_eq!(device.download(&out), [0.0; 8]);
}
