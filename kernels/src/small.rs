//! Products of up to 64 rows with a matrix on tensor cores, at the speed of memory (`cuda/small*.cu`).

use crate::driver::{DevicePtr, Result, Stream};
use crate::format::{Format, Weights};
use crate::modules::Kernels;
use crate::product::FinishKind;
use crate::product::launch::{Rows, Shape};

/// The most rows of a launch.
pub const MAX_ROWS: u32 = 64;

const SHAPE: Shape =
    Shape { name: "small", unit: 16, sum_rows: MAX_ROWS, most_rows: MAX_ROWS, chunks_at_once: 2 };

/// `weights · input` and then `finish`. `input`: f32 `[n_rows][n_in]`, aligned to 16 bytes, with at most [`MAX_ROWS`]
/// rows; they meet the weights as two 16-bit numbers each, so that little of f32's precision is lost. The matrices are as for
/// [`gemm::launch`](crate::gemm::launch), but not F32. Other sizes are refused.
///
/// # Safety
/// The addresses hold what is said here until the launch has run.
pub unsafe fn launch(
    kernels: &Kernels,
    stream: &Stream,
    weights: &[Weights],
    format: Format,
    input: DevicePtr,
    n_rows: u32,
    finish: &FinishKind,
) -> Result<()> {
    let Some(names) = names(format) else {
        return Err(SHAPE.refuse("F32 weights are for gemv and gemm"));
    };
    let (kernel, sum_rows) = match n_rows {
        0 => return Ok(()),
        1..=8 => (names[0], 8),
        9..=16 => (names[1], 16),
        17..=32 => (names[2], 32),
        33..=MAX_ROWS => (names[3], 64),
        _ => return Err(SHAPE.refuse(&format!("{n_rows} rows, expected at most {MAX_ROWS}"))),
    };
    let shape = Shape { sum_rows, ..SHAPE };
    let rows = Rows { input, n_rows, norm: None };
    // SAFETY: as the caller says.
    unsafe { shape.launch(kernels, stream, kernel, weights, rows, finish) }
}

/// The kernels for up to 8, 16, 32 and 64 rows.
fn names(format: Format) -> Option<[&'static str; 4]> {
    macro_rules! of {
        ($name:literal) => {
            [
                concat!("small_", $name, "_8"),
                concat!("small_", $name, "_16"),
                concat!("small_", $name, "_32"),
                concat!("small_", $name, "_64"),
            ]
        };
    }
    Some(match format {
        Format::F32 => return None,
        Format::F16 => of!("f16"),
        Format::BF16 => of!("bf16"),
        Format::F8E4M3 => of!("f8e4m3"),
        Format::I8 => of!("i8"),
        Format::Q8_0 => of!("q8_0"),
        Format::Q4_0 => of!("q4_0"),
        Format::Q4_K => of!("q4_k"),
        Format::Q6_K => of!("q6_k"),
    })
}
