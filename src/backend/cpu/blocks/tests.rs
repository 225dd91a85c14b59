//! Every type's values, in every variant, against those of the Python package gguf (tests/data/blocks).

use crate::backend::cpu::dispatch::Kernels;
use crate::backend::cpu::matmul::dequantise_row;
use crate::dtype::DType;
use half::{bf16, f16};
use std::path::Path;

fn fixture(dtype: DType, extension: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/blocks");
    std::fs::read(folder.join(format!("{dtype:?}.{extension}"))).unwrap()
}

fn dequantised(kernels: &Kernels, dtype: DType, bytes: &[u8], n: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; n];
    // SAFETY: the variant is supported.
    unsafe { dequantise_row(kernels, dtype, bytes, &mut values) };
    values
}

/// Equal in value: only the sign of a zero may differ. Products of scale and weight are exact in f32, and a
/// minimum is one rounding more, so no order of operations can differ in the last place.
#[test]
fn quantised_values_are_those_of_gguf() {
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantised()) {
        let bytes = fixture(dtype, "bin");
        let want: Vec<f32> = fixture(dtype, "f32")
            .chunks_exact(4)
            .map(|v| f32::from_le_bytes(v.try_into().unwrap()))
            .collect();
        assert!(want.len() >= 4 * dtype.block_len());
        for kernels in Kernels::supported() {
            let got = dequantised(kernels, dtype, &bytes, want.len());
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!(got == want, "{} {dtype:?}[{i}]: {got}, not {want}", kernels.name);
            }
        }
    }
}

#[test]
fn plain_values_keep_their_bits() {
    let f16s: Vec<u16> = (0..=u16::MAX).filter(|&v| !f16::from_bits(v).is_nan()).collect();
    let bytes: Vec<u8> = f16s.iter().flat_map(|v| v.to_le_bytes()).collect();
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for kernels in Kernels::supported() {
        let got = dequantised(kernels, DType::F16, &bytes, f16s.len());
        for (&bits, got) in f16s.iter().zip(got) {
            assert_eq!(got.to_bits(), f16::from_bits(bits).to_f32().to_bits(), "{}", kernels.name);
        }
        let got = dequantised(kernels, DType::BF16, &all, 1 << 16);
        for (bits, got) in (0..=u16::MAX).zip(got) {
            assert_eq!(got.to_bits() >> 16, u32::from(bits), "{}", kernels.name);
            assert!(got.is_nan() == bf16::from_bits(bits).is_nan());
        }
        let values: Vec<f32> = (0..13).map(|i| i as f32 / 3.0).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(dequantised(kernels, DType::F32, &bytes, 13), values);
    }
}
