//! Random weight matrices of every format on the device, with the values that they stand for.
#![allow(dead_code)] // each test uses its part

use half::{bf16, f16};
use larder_kernels::format::{Format, Layout, Pieces, Weights, pack_rows, quantise_rows};

use crate::common::{Buffer, Device, Random};

/// A matrix `[n_out][n_in]`.
pub struct Matrix {
    pub weights: Weights,
    pub values: Vec<f64>,
    _bytes: Buffer<u8>,
}

impl Matrix {
    pub fn random(device: &Device, format: Format, n_out: usize, n_in: usize, seed: u64) -> Self {
        let layout = Layout::new(format, n_out as u32, n_in as u32).unwrap();
        let mut random = Random::new(seed);
        let mut buffer = vec![0; layout.packed_bytes(n_out)];
        let (pieces, values) = match format {
            Format::F8E4M3 | Format::I8 => {
                let values = random.values(n_out * n_in);
                let pieces = quantise_rows(&layout, 0, &values, &mut buffer).unwrap();
                let most = if format == Format::I8 { 127.0 } else { 448.0 };
                let rows = values.chunks(n_in).flat_map(|row| by_row(row, most));
                (pieces, rows.collect())
            }
            _ => {
                let mut file = Vec::new();
                let mut values = Vec::new();
                for _ in 0..n_out * n_in / format.block_len() as usize {
                    block(format, &mut random, &mut file, &mut values);
                }
                (pack_rows(&layout, 0, &file, &mut buffer).unwrap(), values)
            }
        };
        let bytes = device.upload(&assembled(&layout, &pieces, &buffer));
        Self { weights: layout.weights(bytes.address()), values, _bytes: bytes }
    }
}

fn assembled(layout: &Layout, pieces: &Pieces, buffer: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; layout.bytes() as usize];
    for piece in pieces.iter() {
        bytes[piece.to as usize..][..piece.bytes]
            .copy_from_slice(&buffer[piece.from..][..piece.bytes]);
    }
    bytes
}

/// One scale per row, by the definition: the largest magnitude becomes `most`.
fn by_row(row: &[f32], most: f32) -> Vec<f64> {
    let largest = row.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / most;
    let quant = |value: f32| {
        if most == 127.0 { f64::from(value.round_ties_even()) } else { nearest_e4m3(value) }
    };
    row.iter().map(|&value| quant(value / scale) * f64::from(scale)).collect()
}

/// Of all e4m3 numbers the nearest; of two, the even one.
fn nearest_e4m3(value: f32) -> f64 {
    let number = |bits: u8| {
        let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
        let magnitude = match exponent {
            0 => mantissa / 8.0 * 2f64.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
        };
        if bits >> 7 == 1 { -magnitude } else { magnitude }
    };
    let finite = (0..=255u8).filter(|bits| bits & 0x7f != 0x7f);
    let away = |bits: u8| (number(bits) - f64::from(value)).abs();
    let best = finite.min_by(|&a, &b| away(a).total_cmp(&away(b)).then((a & 1).cmp(&(b & 1))));
    number(best.unwrap())
}

/// A random block of a file, and its values by the definition of the format.
fn block(format: Format, random: &mut Random, file: &mut Vec<u8>, values: &mut Vec<f64>) {
    let mut bytes = |n: usize| -> Vec<u8> { (0..n).map(|_| random.bits() as u8).collect() };
    // Scales of about 2^-8.
    let scale = |bits: u8| f16::from_f32((1.0 + f32::from(bits) / 256.0) / 256.0);
    match format {
        Format::F32 => {
            let value = random.value();
            file.extend(value.to_le_bytes());
            values.push(value.into());
        }
        Format::F16 => {
            let value = f16::from_f32(random.value());
            file.extend(value.to_le_bytes());
            values.push(value.into());
        }
        Format::BF16 => {
            let value = bf16::from_f32(random.value());
            file.extend(value.to_le_bytes());
            values.push(value.into());
        }
        Format::F8E4M3 | Format::I8 => unreachable!("not in files"),
        Format::Q8_0 => {
            let (d, quants) = (scale(bytes(1)[0]), bytes(32));
            file.extend(d.to_le_bytes());
            file.extend(&quants);
            values.extend(quants.iter().map(|&quant| d.to_f64() * f64::from(quant as i8)));
        }
        Format::Q4_0 => {
            let (d, quants) = (scale(bytes(1)[0]), bytes(16));
            file.extend(d.to_le_bytes());
            file.extend(&quants);
            let value = |nibble: u8| d.to_f64() * (f64::from(nibble) - 8.0);
            values.extend(quants.iter().map(|&byte| value(byte & 15)));
            values.extend(quants.iter().map(|&byte| value(byte >> 4)));
        }
        Format::Q4_K => {
            let (heads, scales, quants) = (bytes(2), bytes(12), bytes(128));
            let (d, dmin) = (scale(heads[0]), scale(heads[1]));
            file.extend(d.to_le_bytes());
            file.extend(dmin.to_le_bytes());
            file.extend(&scales);
            file.extend(&quants);
            for part in 0..8 {
                let (factor, least) = match part {
                    0..4 => (scales[part] & 63, scales[part + 4] & 63),
                    _ => (
                        (scales[part + 4] & 15) | (scales[part - 4] >> 6) << 4,
                        (scales[part + 4] >> 4) | (scales[part] >> 6) << 4,
                    ),
                };
                let factor = d.to_f64() * f64::from(factor);
                let least = dmin.to_f64() * f64::from(least);
                values.extend(
                    quants[32 * (part / 2)..][..32]
                        .iter()
                        .map(|&byte| factor * f64::from(byte >> (4 * (part % 2)) & 15) - least),
                );
            }
        }
        Format::Q6_K => {
            let (low, high, scales) = (bytes(128), bytes(64), bytes(16));
            let d = scale(bytes(1)[0]);
            file.extend(&low);
            file.extend(&high);
            file.extend(&scales);
            file.extend(d.to_le_bytes());
            for i in 0..256 {
                let (half, part, e) = (i / 128, i % 128 / 32, i % 32);
                let nibble = low[64 * half + 32 * (part % 2) + e] >> (4 * (part / 2)) & 15;
                let pair = high[32 * half + e] >> (2 * part) & 3;
                let quant = f64::from(nibble | pair << 4) - 32.0;
                values.push(d.to_f64() * f64::from(scales[i / 16] as i8) * quant);
            }
        }
    }
}
