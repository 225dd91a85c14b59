//! Every type's values, in every variant, against those of the Python package gguf (tests/data/blocks).

use super::pack::{Cut, TILE, pack, packed_bytes, unpack};
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

/// Random rows as in the file.
fn random_rows(n_bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut byte = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..n_bytes).map(|_| byte()).collect()
}

fn lengths(dtype: DType) -> Vec<usize> {
    match dtype.block_len() {
        1 => vec![1, 2, 3, 63, 1030],
        len => vec![len, 2 * len, 9 * len],
    }
}

#[test]
fn packed_rows_come_back_as_they_were() {
    for dtype in DType::ALL {
        for n_in in lengths(dtype) {
            let row_bytes = dtype.row_bytes(n_in as u64).unwrap() as usize;
            for n_rows in [1, TILE - 1, TILE, TILE + 1, 3 * TILE] {
                let file = random_rows(n_rows * row_bytes);
                let bytes = packed_bytes(dtype, n_rows as u64, n_in as u64).unwrap() as usize;
                let tile_bytes = Cut::of(dtype).tile_bytes(n_in);
                assert_eq!(bytes, n_rows.div_ceil(TILE) * tile_bytes);
                let mut tiles = vec![0; bytes];
                for (rows, tile) in
                    file.chunks(TILE * row_bytes).zip(tiles.chunks_exact_mut(tile_bytes))
                {
                    // In two pieces, the last one first.
                    let (n, cut) = (rows.len() / row_bytes, rows.len() / row_bytes / 3);
                    pack(dtype, n_in, &rows[cut * row_bytes..], tile, cut..n);
                    pack(dtype, n_in, &rows[..cut * row_bytes], tile, 0..cut);
                }
                for (i, row) in file.chunks_exact(row_bytes).enumerate() {
                    let tile = &tiles[i / TILE * tile_bytes..][..tile_bytes];
                    let mut back = vec![0xAA; row_bytes];
                    unpack(dtype, tile, i % TILE, 0, &mut back);
                    assert!(back == row, "{dtype:?} {n_in}: row {i} of {n_rows}");
                }
                check_padding(dtype, n_rows, &tiles[bytes - tile_bytes..], row_bytes);
            }
        }
    }
}

/// Rows that the matrix does not have are zeros.
fn check_padding(dtype: DType, n_rows: usize, tile: &[u8], row_bytes: usize) {
    let mut row = vec![0xAA; row_bytes];
    for r in (n_rows - 1) % TILE + 1..TILE {
        unpack(dtype, tile, r, 0, &mut row);
        assert!(row.iter().all(|&byte| byte == 0), "{dtype:?}: row {r} of {n_rows}");
    }
}

/// A matrix takes what its rows have in the file, but for whole tiles and whole pairs of bf16.
#[test]
fn packed_matrices_are_as_large_as_in_the_file() {
    for dtype in DType::ALL {
        for n_in in lengths(dtype).into_iter().filter(|n_in| n_in % 2 == 0) {
            let row = dtype.row_bytes(n_in as u64).unwrap();
            assert_eq!(packed_bytes(dtype, 48, n_in as u64), Some(48 * row));
            assert_eq!(packed_bytes(dtype, 33, n_in as u64), Some(48 * row));
        }
        assert_eq!(packed_bytes(dtype, u64::MAX, 256), None);
    }
    assert_eq!(packed_bytes(DType::Q4_K, 16, 128), None);
}

#[test]
fn any_blocks_of_a_row_can_be_read() {
    for dtype in [DType::Q4_0, DType::Q5_1, DType::F16] {
        let n_in = 7 * dtype.block_len();
        let row_bytes = dtype.row_bytes(n_in as u64).unwrap() as usize;
        let file = random_rows(TILE * row_bytes);
        let mut tile = vec![0; Cut::of(dtype).tile_bytes(n_in)];
        pack(dtype, n_in, &file, &mut tile, 0..TILE);
        let block_bytes = dtype.block_bytes();
        let mut back = vec![0; 2 * block_bytes];
        unpack(dtype, &tile, 5, 3, &mut back);
        assert_eq!(back, file[5 * row_bytes + 3 * block_bytes..][..2 * block_bytes]);
    }
}
