//! The embedding gather: every format, decoded element by element.
#![cfg(feature = "standin")]

mod common;
mod weights;

use common::{Device, assert_close, for_policies};
use larder_kernels::embed;
use larder_kernels::format::{Format, Layout, Pieces, Weights, pack_rows, quantise_rows};
use weights::Matrix;

/// Rows `ids` of a table.
fn rows_of(device: &Device, table: &Weights, ids: &[u32], scale: f32) -> Vec<f32> {
    let ids_device = device.upload(ids);
    let x = device.output::<f32>(ids.len() * table.n_in as usize);
    let (kernels, stream) = (&device.kernels, &device.stream);
    // SAFETY: the buffers have these sizes and live until the download; the ids are the table's.
    unsafe {
        let n_rows = ids.len() as u32;
        embed::launch(kernels, stream, table, ids_device.address(), scale, x.address(), n_rows)
    }
    .unwrap();
    device.download(&x)
}

#[test]
fn every_format() {
    for_policies(|device| {
        for format in Format::ALL {
            let lengths: &[usize] = match format.block_len() {
                1 => &[1, 7, 64, 96, 1000],
                32 => &[32, 96, 2080],
                _ => &[256, 1280],
            };
            for &n_in in lengths {
                let table = Matrix::random(device, format, 11, n_in, 1);
                let ids = [10, 0, 3, 3, 7];
                for scale in [1.0f32, 22.5] {
                    let expected: Vec<f64> = ids
                        .iter()
                        .flat_map(|&id| &table.values[id as usize * n_in..][..n_in])
                        .map(|value| value * f64::from(scale))
                        .collect();
                    let actual = rows_of(device, &table.weights, &ids, scale);
                    assert_close(&actual, &expected, 2e-7);
                }
            }
        }
        let none = Matrix::random(device, Format::BF16, 1, 8, 1);
        assert!(rows_of(device, &none.weights, &[], 1.0).is_empty());
    });
}

const N_ROWS: usize = 8;
const N_IN: usize = 512;

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/../tests/data/blocks/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn fixture_values(name: &str) -> Vec<f32> {
    let bytes = fixture(&format!("{name}.f32"));
    bytes.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// All rows of a matrix that is packed in two parts.
fn decoded(
    device: &Device,
    layout: &Layout,
    mut pack: impl FnMut(u32, usize, &mut [u8]) -> Pieces,
) -> Vec<f32> {
    let mut bytes = vec![0xff; layout.bytes() as usize];
    for (first, n) in [(0, 3), (3, N_ROWS - 3)] {
        let mut buffer = vec![0xff; layout.packed_bytes(n)];
        for piece in pack(first as u32, n, &mut buffer).iter() {
            bytes[piece.to as usize..][..piece.bytes]
                .copy_from_slice(&buffer[piece.from..][..piece.bytes]);
        }
    }
    let matrix = device.upload(&bytes);
    let ids: Vec<u32> = (0..N_ROWS as u32).collect();
    rows_of(device, &layout.weights(matrix.address()), &ids, 1.0)
}

/// Blocks with extreme scales and quants, and the values that the Python package `gguf` gives.
#[test]
fn blocks_of_files_decode_as_gguf_says() {
    let device = common::device();
    for (format, name) in [
        (Format::Q8_0, "Q8_0"),
        (Format::Q4_0, "Q4_0"),
        (Format::Q4_K, "Q4_K"),
        (Format::Q6_K, "Q6_K"),
    ] {
        let layout = Layout::new(format, N_ROWS as u32, N_IN as u32).unwrap();
        let file = fixture(&format!("{name}.bin"));
        let row_bytes = layout.file_row_bytes();
        let actual = decoded(&device, &layout, |first, n, buffer| {
            let rows = &file[first as usize * row_bytes..][..n * row_bytes];
            pack_rows(&layout, first, rows, buffer).unwrap()
        });
        // Every product in a value is exact, so that there is one rounding in each.
        assert_eq!(actual, fixture_values(name), "{name}");
    }
}

/// Types whose values are small multiples of a scale come through Q8_0 as they were.
#[test]
fn five_bit_and_table_types_are_exact_as_q8_0() {
    let device = common::device();
    for name in ["Q5_0", "IQ4_NL"] {
        let layout = Layout::new(Format::Q8_0, N_ROWS as u32, N_IN as u32).unwrap();
        let values = fixture_values(name);
        let actual = decoded(&device, &layout, |first, n, buffer| {
            let rows = &values[first as usize * N_IN..][..n * N_IN];
            quantise_rows(&layout, first, rows, buffer).unwrap()
        });
        assert_eq!(actual, values, "{name}");
    }
}

/// The others lose at most half a step: 1 / 254 of a block's largest magnitude, and the rounding of the scale.
#[test]
fn other_types_lose_little_as_q8_0() {
    let device = common::device();
    for name in ["Q4_1", "Q5_1", "Q2_K", "Q3_K", "Q5_K", "IQ4_XS", "MXFP4"] {
        let layout = Layout::new(Format::Q8_0, N_ROWS as u32, N_IN as u32).unwrap();
        // Without the rows of extremes, whose values no f16 scale reaches.
        let mut values = fixture_values(name);
        values[6 * N_IN..].fill(0.25);
        let actual = decoded(&device, &layout, |first, n, buffer| {
            let rows = &values[first as usize * N_IN..][..n * N_IN];
            quantise_rows(&layout, first, rows, buffer).unwrap()
        });
        for (actual, expected) in actual.chunks(32).zip(values.chunks(32)) {
            let expected: Vec<f64> = expected.iter().map(|&value| value.into()).collect();
            assert_close(actual, &expected, 0.5 / 127.0 + 1e-3);
        }
    }
}
