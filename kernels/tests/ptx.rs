//! Each name of `cuda/ptx.cuh` against plain arithmetic: on the emulator this tests the portable half, on a GPU the
//! assembler.
#![cfg(feature = "standin")]

mod common;

use std::ffi::c_void;

use common::{Device, Random, assert_close, for_policies};
use half::{bf16, f16};
use larder_kernels::args;
use larder_kernels::driver::Launch;

fn launch(
    device: &Device,
    name: &str,
    grid: u32,
    block: u32,
    shared: u32,
    args: &mut [*mut c_void],
) {
    let launch =
        Launch { grid: [grid, 1, 1], block: [block, 1, 1], shared_bytes: shared, dependent: true };
    // SAFETY: the arguments are the kernel's, and the buffers live in the callers.
    unsafe { device.kernels.function(name).launch(&device.stream, launch, args) }
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// d[16][8] += a[16][k] b[8][k] by the kernel of that name, with operands that went through `bits` and `value`.
fn check_mma(
    name: &str,
    k: usize,
    bits: impl Fn(f32) -> u32,
    value: impl Fn(f32) -> f64,
    per_word: usize,
) {
    for_policies(|device| {
        let mut random = Random::new(7);
        let (a, b, d) = (random.values(16 * k), random.values(8 * k), random.values(16 * 8));
        let words = |values: &[f32]| -> Vec<u32> {
            let packed = values.chunks(per_word).map(|chunk| {
                chunk.iter().enumerate().fold(0, |word, (i, &it)| word | bits(it) << (16 * i))
            });
            packed.collect()
        };
        let (a_device, b_device, d_device) =
            (device.upload(&words(&a)), device.upload(&words(&b)), device.upload(&d));
        let (pa, pb, pd) = (a_device.address(), b_device.address(), d_device.address());
        launch(device, name, 1, 32, 0, &mut args![pa, pb, pd]);
        let expected: Vec<f64> = (0..16 * 8)
            .map(|i| {
                let products = (0..k).map(|j| value(a[i / 8 * k + j]) * value(b[i % 8 * k + j]));
                f64::from(d[i]) + products.sum::<f64>()
            })
            .collect();
        assert_close(&device.download(&d_device), &expected, 1e-6);
    });
}

#[test]
fn mma_bf16() {
    let bits = |it| u32::from(bf16::from_f32(it).to_bits());
    check_mma("test_mma_bf16", 16, bits, |it| bf16::from_f32(it).to_f64(), 2);
}

#[test]
fn mma_f16() {
    let bits = |it| u32::from(f16::from_f32(it).to_bits());
    check_mma("test_mma_f16", 16, bits, |it| f16::from_f32(it).to_f64(), 2);
}

#[test]
fn mma_f16_of_subnormal_values() {
    let small = |it: f32| f16::from_f32(it * 5e-5);
    check_mma("test_mma_f16", 16, |it| u32::from(small(it).to_bits()), |it| small(it).to_f64(), 2);
}

#[test]
fn mma_tf32() {
    // Whole tf32 values: what a GPU does with further bits is its own matter.
    let round = |it: f32| f32::from_bits(it.to_bits() & 0xffff_e000);
    check_mma("test_mma_tf32", 8, |it| round(it).to_bits(), |it| f64::from(round(it)), 1);
}

#[test]
fn ldmatrix() {
    for_policies(|device| {
        // Element (row, column) of matrix m is m * 64 + row * 8 + column.
        let elements: Vec<u16> = (0..256).collect();
        let (from, to) = (device.upload(&elements), device.output::<u32>(32 * 12));
        let (pa, pb) = (from.address(), to.address());
        launch(device, "test_ldmatrix", 1, 32, 0, &mut args![pa, pb]);
        let registers = device.download(&to);
        for lane in 0..32u32 {
            let (g, t) = (lane / 4, lane % 4 * 2);
            let plain = |m: u32| (m * 64 + g * 8 + t) | (m * 64 + g * 8 + t + 1) << 16;
            let transposed = |m: u32| (m * 64 + t * 8 + g) | (m * 64 + (t + 1) * 8 + g) << 16;
            let mut expected: Vec<u32> = (0..4).map(plain).collect();
            expected.extend((0..4).map(transposed));
            expected.extend((0..2).map(plain));
            expected.extend((0..2).map(transposed));
            assert_eq!(registers[lane as usize * 12..][..12], expected, "lane {lane}");
        }
    });
}

#[test]
fn cp_async_copies_and_fills_with_zeros() {
    for_policies(|device| {
        let count = 96u32;
        let mut random = Random::new(3);
        for n_valid in [0u32, 1, 50, 96] {
            let pieces: Vec<u32> = (0..count * 4).map(|_| random.bits() as u32).collect();
            let words: Vec<u32> = (0..count).map(|_| random.bits() as u32).collect();
            let (from, from_words) = (device.upload(&pieces), device.upload(&words));
            let (to, to_words) =
                (device.output::<u32>(pieces.len()), device.output::<u32>(words.len()));
            let (a, b, c, d) =
                (from.address(), from_words.address(), to.address(), to_words.address());
            launch(device, "test_cp_async", 1, count, count * 20, &mut args![a, b, c, d, n_valid]);
            let n_valid = n_valid as usize;
            let zeros_from = |values: &[u32], n: usize| -> Vec<u32> {
                values.iter().enumerate().map(|(i, &it)| if i < n { it } else { 0 }).collect()
            };
            assert_eq!(device.download(&to), zeros_from(&pieces, n_valid * 4));
            assert_eq!(device.download(&to_words), zeros_from(&words, n_valid));
        }
    });
}

#[test]
fn load_streaming() {
    for_policies(|device| {
        let values: Vec<u32> = (0..64 * 4u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        let (from, to) = (device.upload(&values), device.output::<u32>(values.len()));
        let (pa, pb) = (from.address(), to.address());
        launch(device, "test_load_streaming", 1, 64, 0, &mut args![pa, pb]);
        assert_eq!(device.download(&to), values);
    });
}

#[test]
fn block_reductions() {
    for_policies(|device| {
        for block in [32u32, 96, 1024] {
            let grid = 3;
            let values = Random::new(u64::from(block)).values((grid * block) as usize);
            let input = device.upload(&values);
            let (sums, maxima) =
                (device.output::<f32>(values.len()), device.output::<f32>(values.len()));
            let (a, b, c) = (input.address(), sums.address(), maxima.address());
            launch(device, "test_block_reductions", grid, block, 0, &mut args![a, b, c]);
            let per_block = |reduce: &dyn Fn(&[f32]) -> f64| -> Vec<f64> {
                let blocks = values.chunks(block as usize);
                blocks.flat_map(|it| vec![reduce(it); it.len()]).collect()
            };
            let sum = per_block(&|it| it.iter().map(|&x| f64::from(x)).sum());
            let max = per_block(&|it| f64::from(it.iter().copied().fold(f32::MIN, f32::max)));
            assert_close(&device.download(&sums), &sum, 1e-5);
            assert_close(&device.download(&maxima), &max, 0.0);
        }
    });
}
