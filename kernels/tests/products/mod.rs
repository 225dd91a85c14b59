//! A product kernel with everything that can be asked of it, against f64 arithmetic.
#![allow(dead_code)] // each test uses its part

use half::{bf16, f16};
use larder_kernels::driver::Result;
use larder_kernels::format::{Format, Weights};
use larder_kernels::product::{Act, Activation, Finish, FinishKind};

use crate::common::{Buffer, Device, Random, assert_close, to_bf16, to_f16};
use crate::twins;
use crate::weights::Matrix;

/// A kernel: `launch(device, weights, f32 rows, n_rows, finish)`.
pub trait Kernel {
    fn launch(
        &self,
        device: &Device,
        weights: &[Weights],
        rows: u64,
        n_rows: usize,
        finish: &FinishKind,
    ) -> Result<()>;

    /// What the kernel makes of a weight.
    fn weight(&self, _format: Format, value: f64) -> f64 {
        value
    }

    /// The activation next to `value` that the kernel takes as it is.
    fn activation(&self, _format: Format, value: f32) -> f32 {
        value
    }
}

impl<F: Fn(&Device, &[Weights], u64, usize, &FinishKind) -> Result<()>> Kernel for F {
    fn launch(
        &self,
        device: &Device,
        weights: &[Weights],
        rows: u64,
        n_rows: usize,
        finish: &FinishKind,
    ) -> Result<()> {
        self(device, weights, rows, n_rows, finish)
    }
}

/// Random rows that the kernel takes as they are.
fn rows(kernel: &dyn Kernel, format: Format, random: &mut Random, n: usize) -> Vec<f32> {
    random.values(n).into_iter().map(|value| kernel.activation(format, value)).collect()
}

/// Of a product: rows of the input, and of the weights with their elements.
pub type Sizes = (usize, usize, usize);

/// `x · matrix` in f64.
pub fn product(kernel: &dyn Kernel, matrix: &Matrix, x: &[f64], n_in: usize) -> Vec<f64> {
    let weights = weights_of(kernel, matrix);
    let dot = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
    x.chunks(n_in).flat_map(|x| weights.chunks(n_in).map(move |w| dot(x, w))).collect()
}

fn weights_of(kernel: &dyn Kernel, matrix: &Matrix) -> Vec<f64> {
    let format = matrix.weights.format;
    matrix.values.iter().map(|&value| kernel.weight(format, value)).collect()
}

pub fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// Rows of `leading` with `values` in front and `rest` behind.
fn spread(values: &[f64], n: usize, leading: usize, rest: f64) -> Vec<f64> {
    let row = |row: &[f64]| [row.to_vec(), vec![rest; leading - n]].concat();
    values.chunks(n).flat_map(row).collect()
}

/// Plain values.
pub fn check_store(
    device: &Device,
    kernel: &dyn Kernel,
    format: Format,
    (n_rows, n_out, n_in): Sizes,
    tolerance: f64,
) {
    let matrix = Matrix::random(device, format, n_out, n_in, 1);
    let x = rows(kernel, format, &mut Random::new(2), n_rows * n_in);
    let out = device.output::<f32>(n_rows * n_out);
    let kind = FinishKind::Store(Finish::to(out.address(), n_out as u32));
    kernel.launch(device, &[matrix.weights], device.upload(&x).address(), n_rows, &kind).unwrap();
    let expected = product(kernel, &matrix, &to_f64(&x), n_in);
    assert_close(&device.download(&out), &expected, tolerance);
}

/// Bias, multiplier, cap, and rows that are apart; then the same added to what is there.
pub fn check_endings(
    device: &Device,
    kernel: &dyn Kernel,
    format: Format,
    (n_rows, n_out, n_in): Sizes,
    tolerance: f64,
) {
    let matrix = Matrix::random(device, format, n_out, n_in, 1);
    let mut random = Random::new(2);
    let x = rows(kernel, format, &mut random, n_rows * n_in);
    let bias = random.values(n_out);
    let (input, bias_device) = (device.upload(&x), device.upload(&bias));
    let (multiplier, leading) = (0.75f32, n_out + 3);
    let y = product(kernel, &matrix, &to_f64(&x), n_in);
    // Some values are far beyond the cap, some far below it.
    let cap = (y.iter().fold(0.0, |most: f64, y| most.max(y.abs())) as f32) / 2.0;
    let y = y.iter().enumerate().map(|(i, y)| (y + f64::from(bias[i % n_out])) * 0.75);
    for residual in [false, true] {
        let out = device.upload(&vec![3.0f32; n_rows * leading]);
        let finish = Finish {
            bias: bias_device.address(),
            multiplier,
            cap: if residual { 0.0 } else { cap },
            ..Finish::to(out.address(), leading as u32)
        };
        let kind = if residual { FinishKind::Residual(finish) } else { FinishKind::Store(finish) };
        kernel.launch(device, &[matrix.weights], input.address(), n_rows, &kind).unwrap();
        let capped = |y: f64| f64::from(cap) * (y / f64::from(cap)).tanh();
        let value = |y: f64| if residual { 3.0 + y } else { capped(y) };
        let expected: Vec<f64> = y.clone().map(value).collect();
        let expected = spread(&expected, n_out, leading, 3.0);
        assert_close(&device.download(&out), &expected, tolerance);
    }
}

/// Gate and up, into rows of each type.
pub fn check_gated(
    device: &Device,
    kernel: &dyn Kernel,
    format: Format,
    sizes: Sizes,
    tolerance: f64,
) {
    check_gated_into::<f32>(device, kernel, format, sizes, tolerance, Act::F32, <[f32]>::to_vec);
    check_gated_into::<f16>(device, kernel, format, sizes, tolerance + 5e-4, Act::F16, to_f16);
    check_gated_into::<bf16>(device, kernel, format, sizes, tolerance + 4e-3, Act::BF16, to_bf16);
}

fn check_gated_into<T: Copy + Into<f64>>(
    device: &Device,
    kernel: &dyn Kernel,
    format: Format,
    (n_rows, n_out, n_in): Sizes,
    tolerance: f64,
    act: Act,
    to_act: impl Fn(&[f32]) -> Vec<T>,
) {
    let matrices = [1, 2].map(|seed| Matrix::random(device, format, n_out, n_in, seed));
    let mut random = Random::new(3);
    let x = rows(kernel, format, &mut random, n_rows * n_in);
    let biases = [random.values(n_out), random.values(n_out)];
    let bias_devices = biases.each_ref().map(|bias| device.upload(bias));
    let leading = n_out + 1;
    let out = device.upload(&to_act(&vec![3.0; n_rows * leading]));
    let finish = Finish {
        bias: bias_devices[0].address(),
        up_bias: bias_devices[1].address(),
        activation: Activation::GeluTanh,
        ..Finish::to(out.address(), leading as u32)
    };
    let weights = matrices.each_ref().map(|matrix| matrix.weights);
    let kind = FinishKind::Gated(finish, act);
    kernel.launch(device, &weights, device.upload(&x).address(), n_rows, &kind).unwrap();
    let [gate, up] = matrices.each_ref().map(|matrix| product(kernel, matrix, &to_f64(&x), n_in));
    let expected: Vec<f64> = (0..n_rows * n_out)
        .map(|i| {
            let [gate_bias, up_bias] = biases.each_ref().map(|bias| f64::from(bias[i % n_out]));
            let y = twins::activate(Activation::GeluTanh, gate[i] + gate_bias) * (up[i] + up_bias);
            if act == Act::F16 { y.clamp(-65504.0, 65504.0) } else { y }
        })
        .collect();
    assert_close(&device.download(&out), &spread(&expected, n_out, leading, 3.0), tolerance);
}

/// Some rows and some columns of a matrix, whose other values are NaN to the test.
pub fn check_parts(device: &Device, kernel: &dyn Kernel, format: Format, tolerance: f64) {
    let step = format.column_step() as usize;
    let (n_out, n_in, first_row, n, first) = (21, 3 * step, 7, 11, step);
    let matrix = Matrix::random(device, format, n_out, n_in, 1);
    for n_columns in [step, 2 * step] {
        let x = rows(kernel, format, &mut Random::new(2), n_columns);
        let part = matrix.weights.rows(first_row as u32, n as u32).unwrap();
        let part = part.columns(first as u32, n_columns as u32).unwrap();
        let out = device.output::<f32>(n);
        let kind = FinishKind::Store(Finish::to(out.address(), n as u32));
        kernel.launch(device, &[part], device.upload(&x).address(), 1, &kind).unwrap();
        let values = weights_of(kernel, &matrix);
        let matrix_rows = values.chunks(n_in).skip(first_row).take(n);
        let dot = |w: &[f64]| to_f64(&x).iter().zip(&w[first..]).map(|(x, w)| x * w).sum::<f64>();
        assert_close(&device.download(&out), &matrix_rows.map(dot).collect::<Vec<_>>(), tolerance);
    }
}

/// A row of the input gives the same bits whatever is beside it.
pub fn check_company(device: &Device, kernel: &dyn Kernel, format: Format, n_rows: usize) {
    let (n_out, n_in) = (19, 512);
    let matrix = Matrix::random(device, format, n_out, n_in, 1);
    let x = rows(kernel, format, &mut Random::new(2), n_rows * n_in);
    let input = device.upload(&x);
    let run = |first: usize, n: usize| -> Vec<u32> {
        let out: Buffer<u32> = device.output(n * n_out);
        let kind = FinishKind::Store(Finish::to(out.address(), n_out as u32));
        let at = input.address() + (4 * first * n_in) as u64;
        kernel.launch(device, &[matrix.weights], at, n, &kind).unwrap();
        device.download(&out)
    };
    let all = run(0, n_rows);
    let last = n_rows - 1;
    assert_eq!(run(last, 1), all[last * n_out..], "{format:?}");
}
