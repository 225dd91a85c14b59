//! Values into the 8-bit kinds.

use half::f16;

use super::pack::{Pieces, Row, f16_bytes, put_bytes};
use super::{Format, FormatError, Layout};

/// Largest finite e4m3 number.
const E4M3_MAX: f32 = 448.0;

/// Quantises whole rows of values into `layout`, whose format is F8E4M3 or I8 (a scale per row, so that the row's
/// largest magnitude becomes 448 or 127) or Q8_0 (a scale per 32). Otherwise as [`super::pack_rows`].
///
/// Q8_0 blocks whose values are small multiples of one f16 number are kept exactly, as they come from Q5_0, IQ4_NL and
/// MXFP4.
pub fn quantise_rows(
    layout: &Layout,
    first_row: u32,
    values: &[f32],
    buffer: &mut [u8],
) -> Result<Pieces, FormatError> {
    let (format, n_in) = (layout.format(), layout.n_in() as usize);
    if !matches!(format, Format::F8E4M3 | Format::I8 | Format::Q8_0) {
        return Err(FormatError::NotQuantised { format });
    }
    if !values.len().is_multiple_of(n_in) {
        let (found, row_bytes) = (size_of_val(values), 4 * n_in);
        return Err(FormatError::NotWholeRows { found, row_bytes });
    }
    let pieces = Pieces::new(layout, first_row, values.len() / n_in, buffer)?;
    for (i, row) in values.chunks_exact(n_in).enumerate() {
        if !row.iter().all(|value| value.is_finite()) {
            return Err(FormatError::NotFinite { row: i + first_row as usize });
        }
        let to = pieces.row(layout, i, buffer);
        match format {
            Format::F8E4M3 => by_row(row, to, E4M3_MAX, e4m3_from_f32),
            Format::I8 => by_row(row, to, 127.0, |value| value.round_ties_even() as i8 as u8),
            _ => by_block(row, to),
        }
    }
    Ok(pieces)
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

fn by_row(values: &[f32], to: Row<'_>, most: f32, quantise: impl Fn(f32) -> u8) {
    let [quants, scale, ..] = to.planes;
    let factor = largest(values) / most;
    scale.copy_from_slice(&factor.to_le_bytes());
    for (i, block) in values.chunks(32).enumerate() {
        put_bytes(quants, i, |e| match block.get(e) {
            Some(&value) if factor > 0.0 => quantise((value / factor).clamp(-most, most)),
            _ => 0,
        });
    }
}

fn by_block(values: &[f32], to: Row<'_>) {
    let [quants, scales, ..] = to.planes;
    for (i, block) in values.chunks_exact(32).enumerate() {
        let scale = block_scale(block);
        scales[2 * i..2 * i + 2].copy_from_slice(&f16_bytes(scale));
        let scale = scale.to_f32();
        put_bytes(quants, i, |e| {
            if scale == 0.0 {
                return 0;
            }
            (block[e] / scale).round_ties_even().clamp(-127.0, 127.0) as i8 as u8
        });
    }
}

/// The scale of which all values are exact multiples, if the largest is one of the levels below; else the largest
/// becomes about 127.
fn block_scale(block: &[f32]) -> f16 {
    // Magnitudes in Q5_0 and MXFP4 (the first 16), and in IQ4_NL.
    const LEVELS: [u8; 30] = [
        16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 127, 104, 83, 65, 49, 35, 22, 25,
        38, 53, 69, 89, 113, 118,
    ];
    let largest = largest(block);
    for level in LEVELS {
        let scale = f16::from_f32(largest / f32::from(level));
        let (exact, scale_f32) = (scale.to_f32() * f32::from(level) == largest, scale.to_f32());
        if !exact || scale_f32 == 0.0 {
            continue;
        }
        let multiple = |value: &f32| {
            let quant = (value / scale_f32).round_ties_even();
            quant.abs() <= 127.0 && quant * scale_f32 == *value
        };
        if block.iter().all(multiple) {
            return scale;
        }
    }
    let scale = f16::from_f32(largest / 127.0);
    if scale.is_finite() { scale } else { f16::MAX }
}

/// To the nearest e4m3 number (ties to even); magnitudes above 448 become 448.
pub fn e4m3_from_f32(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = value.abs().min(E4M3_MAX);
    // Numbers below 2^-6 are multiples of 2^-9; others have three bits behind the leading one.
    let exponent = (magnitude.to_bits() >> 23) as i32 - 127;
    let exponent = exponent.max(-6);
    let steps = (magnitude * (2f32).powi(3 - exponent)).round_ties_even() as i32;
    // 8 steps are the leading one, so that a carry into 16 raises the exponent by itself.
    sign | ((exponent + 6) * 8 + steps) as u8
}
