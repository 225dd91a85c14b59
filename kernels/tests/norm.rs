//! Norms, the gather of rows and the gate of an MLP against f64 arithmetic.
#![cfg(feature = "standin")]

mod common;
mod twins;

use common::{Buffer, Device, Random, assert_close, for_policies, to_bf16, to_f16};
use half::{bf16, f16};
use larder_kernels::norm::{self, GateRows, Norm, NormKind};
use larder_kernels::product::{Act, Activation};
use twins::NormTwin;

const KINDS: [NormKind; 3] = [NormKind::None, NormKind::Rms, NormKind::Layer];

/// A norm on the device, with the buffers that it names.
fn random_norm(
    device: &Device,
    kind: NormKind,
    n: usize,
    with_bias: bool,
) -> (Norm, NormTwin, [Buffer<f32>; 2]) {
    let mut random = Random::new(3);
    let twin = NormTwin {
        kind,
        weight: random.values(n),
        bias: if with_bias { random.values(n) } else { Vec::new() },
        eps: 1e-5,
    };
    let (weight, bias) = (device.upload(&twin.weight), device.upload(&twin.bias));
    let norm = Norm {
        weight: if kind == NormKind::None { 0 } else { weight.address() },
        bias: if with_bias { bias.address() } else { 0 },
        kind,
        eps: twin.eps,
    };
    (norm, twin, [weight, bias])
}

/// What norm_rows gives, read as f64.
fn norm_rows(
    device: &Device,
    norm: &Norm,
    act: Act,
    x: &Buffer<f32>,
    rows: Option<&[u32]>,
    (n_rows, n): (usize, usize),
) -> Vec<f64> {
    let rows = rows.map(|rows| device.upload(rows));
    let run = |out: u64| {
        // SAFETY: the buffers have these sizes and live until the download.
        unsafe {
            norm::norm_rows(
                &device.kernels,
                &device.stream,
                norm,
                act,
                x.address(),
                rows.as_ref().map_or(0, Buffer::address),
                out,
                n_rows as u32,
                n as u32,
            )
        }
        .unwrap();
    };
    match act {
        Act::F32 => {
            let out = device.output::<f32>(n_rows * n);
            run(out.address());
            device.download(&out).into_iter().map(f64::from).collect()
        }
        Act::F16 => {
            let out = device.output::<f16>(n_rows * n);
            run(out.address());
            device.download(&out).into_iter().map(f64::from).collect()
        }
        Act::BF16 => {
            let out = device.output::<bf16>(n_rows * n);
            run(out.address());
            device.download(&out).into_iter().map(f64::from).collect()
        }
    }
}

fn tolerance(act: Act) -> f64 {
    match act {
        Act::F32 => 2e-6,
        Act::F16 => 1e-3,
        Act::BF16 => 5e-3,
    }
}

#[test]
fn rows_become_act_rows() {
    for_policies(|device| {
        for (kind, with_bias) in [
            (NormKind::None, false),
            (NormKind::Rms, false),
            (NormKind::Layer, false),
            (NormKind::Layer, true),
        ] {
            for (n_rows, n) in [(1, 1), (2, 7), (3, 33), (2, 260), (1, 1100)] {
                let (norm, twin, _held) = random_norm(device, kind, n, with_bias);
                let x = Random::new(n as u64).values(n_rows * n);
                let x_device = device.upload(&x);
                let expected: Vec<f64> = x.chunks(n).flat_map(|row| twin.of(row)).collect();
                for act in [Act::F32, Act::F16, Act::BF16] {
                    let actual = norm_rows(device, &norm, act, &x_device, None, (n_rows, n));
                    assert_close(&actual, &expected, tolerance(act));
                }
            }
        }
    });
}

#[test]
fn listed_rows() {
    for_policies(|device| {
        let (n, list) = (40, [4u32, 0, 3, 3]);
        let (norm, twin, _held) = random_norm(device, NormKind::Rms, n, false);
        let x = Random::new(8).values(5 * n);
        let x_device = device.upload(&x);
        let expected: Vec<f64> =
            list.iter().flat_map(|&row| twin.of(&x[row as usize * n..][..n])).collect();
        let actual = norm_rows(device, &norm, Act::F32, &x_device, Some(&list), (list.len(), n));
        assert_close(&actual, &expected, 2e-6);
    });
}

/// Large values: the sum of squares is fine in f32, f16 rows saturate and keep NaN.
#[test]
fn f16_rows_saturate_and_keep_nan() {
    for_policies(|device| {
        let x = [1e6f32, -1e6, 65504.0, 65519.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-9];
        let norm = Norm::default();
        let actual = norm_rows(device, &norm, Act::F16, &device.upload(&x), None, (1, x.len()));
        let most = 65504.0;
        assert_eq!(&actual[..6], &[most, -most, most, most, most, -most]);
        assert!(actual[6].is_nan());
        assert_eq!(actual[7], 0.0);
        let actual = norm_rows(device, &norm, Act::BF16, &device.upload(&x), None, (1, x.len()));
        assert!(actual[4] == f64::INFINITY && actual[6].is_nan());
    });
}

#[test]
fn final_norm_gathers_to_the_front() {
    for_policies(|device| {
        let (n_all, n) = (23, 70);
        let lists: [Vec<u32>; 6] = [
            vec![],
            vec![22],
            vec![0],
            (0..23).collect(),
            vec![0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20, 22],
            (1..23).collect(),
        ];
        for list in &lists {
            for kind in KINDS {
                let (norm, twin, _held) = random_norm(device, kind, n, kind == NormKind::Layer);
                let x = Random::new(5).values(n_all * n);
                let (x_device, rows) = (device.upload(&x), device.upload(list));
                // SAFETY: the buffers have these sizes and live until the download.
                unsafe {
                    norm::final_norm(
                        &device.kernels,
                        &device.stream,
                        &norm,
                        x_device.address(),
                        rows.address(),
                        list.len() as u32,
                        n as u32,
                    )
                }
                .unwrap();
                let listed = list.iter().flat_map(|&row| twin.of(&x[row as usize * n..][..n]));
                let rest = x[list.len() * n..].iter().map(|&value| f64::from(value));
                let expected: Vec<f64> = listed.chain(rest).collect();
                assert_close(&device.download(&x_device), &expected, 2e-6);
            }
        }
    });
}

#[test]
fn norm_residual_adds() {
    for_policies(|device| {
        for kind in KINDS {
            let (n_rows, n, multiplier) = (3, 45, 0.75f32);
            let (norm, twin, _held) = random_norm(device, kind, n, kind == NormKind::Layer);
            let mut random = Random::new(6);
            let (x, y) = (random.values(n_rows * n), random.values(n_rows * n));
            let (x_device, y_device) = (device.upload(&x), device.upload(&y));
            // SAFETY: the buffers have these sizes and live until the download.
            unsafe {
                norm::norm_residual(
                    &device.kernels,
                    &device.stream,
                    &norm,
                    y_device.address(),
                    multiplier,
                    x_device.address(),
                    n_rows as u32,
                    n as u32,
                )
            }
            .unwrap();
            let normed = y.chunks(n).flat_map(|row| twin.of(row));
            let expected: Vec<f64> = x
                .iter()
                .zip(normed)
                .map(|(&x, y)| f64::from(x) + y * f64::from(multiplier))
                .collect();
            assert_close(&device.download(&x_device), &expected, 2e-6);
        }
    });
}

const ACTIVATIONS: [Activation; 3] = [Activation::Silu, Activation::GeluTanh, Activation::Gelu];

/// gate_act over rows of T, with strides that are larger than the rows.
fn check_gate<T: Copy + Into<f64>>(
    device: &Device,
    act: Act,
    to_act: impl Fn(&[f32]) -> Vec<T>,
    (n, leading, out_leading): (usize, usize, usize),
    with_bias: bool,
) {
    let n_rows = 3;
    for activation in ACTIVATIONS {
        let mut random = Random::new(n as u64);
        let mut wide = |len| -> Vec<f32> { random.values(len).iter().map(|it| 6.0 * it).collect() };
        let (gate, up) = (to_act(&wide(n_rows * leading)), to_act(&wide(n_rows * leading)));
        let biases = [wide(n), wide(n)];
        let (gate_device, up_device) = (device.upload(&gate), device.upload(&up));
        let bias_devices = biases.each_ref().map(|bias| device.upload(bias));
        let out = device.upload(&to_act(&vec![7.0; n_rows * out_leading]));
        let rows = GateRows {
            gate: gate_device.address(),
            up: up_device.address(),
            bias: if with_bias { bias_devices[0].address() } else { 0 },
            up_bias: if with_bias { bias_devices[1].address() } else { 0 },
            out: out.address(),
            leading: leading as u32,
            out_leading: out_leading as u32,
            n: n as u32,
            activation,
        };
        // SAFETY: the buffers have these sizes and live until the download.
        unsafe { norm::gate_act(&device.kernels, &device.stream, act, &rows, n_rows as u32) }
            .unwrap();
        let bias =
            |which: usize, i: usize| if with_bias { f64::from(biases[which][i]) } else { 0.0 };
        let mut expected = vec![7.0; n_rows * out_leading];
        for (row, to) in expected.chunks_mut(out_leading).enumerate() {
            for (i, to) in to[..n].iter_mut().enumerate() {
                let at = row * leading + i;
                let (gate, up): (f64, f64) = (gate[at].into(), up[at].into());
                *to = twins::activate(activation, gate + bias(0, i)) * (up + bias(1, i));
            }
        }
        assert_close(&device.download(&out), &expected, tolerance(act));
    }
}

#[test]
fn gates() {
    for_policies(|device| {
        for (n, leading, out_leading, with_bias) in [
            (1, 1, 1, false),
            (13, 13, 13, true),
            (64, 64, 64, false),
            (24, 40, 32, true),
            (2056, 2056, 2056, false),
        ] {
            let sizes = (n, leading, out_leading);
            check_gate(device, Act::F32, <[f32]>::to_vec, sizes, with_bias);
            check_gate(device, Act::F16, to_f16, sizes, with_bias);
            check_gate(device, Act::BF16, to_bf16, sizes, with_bias);
        }
    });
}

#[test]
fn gate_in_place_and_at_extremes() {
    for_policies(|device| {
        for activation in ACTIVATIONS {
            let gate = [-1e4f32, -90.0, -0.0, 0.0, 90.0, 1e4, f32::NAN, 2.0];
            let up = [2.0f32; 8];
            let (gate_device, up_device) = (device.upload(&gate), device.upload(&up));
            let rows = GateRows {
                gate: gate_device.address(),
                up: up_device.address(),
                bias: 0,
                up_bias: 0,
                out: gate_device.address(),
                leading: 8,
                out_leading: 8,
                n: 8,
                activation,
            };
            // SAFETY: the buffers have these sizes and live until the download.
            unsafe { norm::gate_act(&device.kernels, &device.stream, Act::F32, &rows, 1) }.unwrap();
            let actual = device.download(&gate_device);
            assert!(actual[6].is_nan());
            let expected = gate.map(|gate| 2.0 * twins::activate(activation, f64::from(gate)));
            assert_close(&actual[..6], &expected[..6], 1e-6);
            assert_close(&actual[7..], &expected[7..], 1e-6);
        }
    });
}

#[test]
fn nothing_for_no_rows() {
    let device = common::device();
    let x = device.upload(&[1.0f32; 4]);
    let norm = Norm::default();
    // SAFETY: no row is read.
    unsafe {
        let (kernels, stream, at) = (&device.kernels, &device.stream, x.address());
        norm::norm_rows(kernels, stream, &norm, Act::F32, at, 0, at, 0, 4).unwrap();
        norm::final_norm(kernels, stream, &norm, at, at, 0, 4).unwrap();
        norm::norm_residual(kernels, stream, &norm, at, 1.0, at, 0, 4).unwrap();
    }
    assert_eq!(device.download(&x), [1.0; 4]);
}
