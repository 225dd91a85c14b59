//! Products of one to four rows of f32 with a matrix, at the speed of memory (`cuda/gemv*.cu`).

use crate::driver::{DevicePtr, Result, Stream};
use crate::format::{Format, Weights};
use crate::modules::Kernels;
use crate::norm::Norm;
use crate::product::FinishKind;
use crate::product::launch::{Rows, Shape};

/// The most rows of a launch.
pub const MAX_ROWS: u32 = 4;

/// Four lanes go through a chunk, so a warp through eight.
const SHAPE: Shape =
    Shape { name: "gemv", unit: 4, sum_rows: MAX_ROWS, most_rows: MAX_ROWS, chunks_at_once: 8 };

/// `weights · norm(input)` and then `finish`. `input`: f32 `[n_rows][n_in]`, aligned to 16 bytes, with at most
/// [`MAX_ROWS`] rows; `norm`: an RMS norm in front. The matrices are as for [`gemm::launch`](crate::gemm::launch).
/// Other sizes are refused.
///
/// # Safety
/// The addresses hold what is said here until the launch has run.
#[allow(clippy::too_many_arguments, reason = "what the kernel reads and writes")]
pub unsafe fn launch(
    kernels: &Kernels,
    stream: &Stream,
    weights: &[Weights],
    format: Format,
    input: DevicePtr,
    norm: Option<&Norm>,
    n_rows: u32,
    finish: &FinishKind,
) -> Result<()> {
    let [one, two, four] = names(format);
    let (kernel, sum_rows) = match n_rows {
        0 => return Ok(()),
        1 => (one, 1),
        2 => (two, 2),
        3..=MAX_ROWS => (four, 4),
        _ => return Err(SHAPE.refuse(&format!("{n_rows} rows, expected at most {MAX_ROWS}"))),
    };
    let shape = Shape { sum_rows, ..SHAPE };
    let rows = Rows { input, n_rows, norm };
    // SAFETY: as the caller says.
    unsafe { shape.launch(kernels, stream, kernel, weights, rows, finish) }
}

/// The kernels for one, two and up to four rows.
fn names(format: Format) -> [&'static str; 3] {
    macro_rules! of {
        ($name:literal) => {
            [
                concat!("gemv_", $name, "_1"),
                concat!("gemv_", $name, "_2"),
                concat!("gemv_", $name, "_4"),
            ]
        };
    }
    match format {
        Format::F32 => of!("f32"),
        Format::F16 => of!("f16"),
        Format::BF16 => of!("bf16"),
        Format::F8E4M3 => of!("f8e4m3"),
        Format::I8 => of!("i8"),
        Format::Q8_0 => of!("q8_0"),
        Format::Q4_0 => of!("q4_0"),
        Format::Q4_K => of!("q4_k"),
        Format::Q6_K => of!("q6_k"),
    }
}
