//! Token ids to rows of the embedding table (`cuda/embed.cu`).

use crate::args;
use crate::driver::{DevicePtr, Launch, Result, Stream};
use crate::format::{Format, Weights};
use crate::modules::Kernels;

/// `x[r] = scale · table[ids[r]]`: ids u32 `[n_rows]`, each below the table's n_out; x f32 `[n_rows][n_in]`.
///
/// # Safety
/// The addresses hold what is said here until the launch has run.
pub unsafe fn launch(
    kernels: &Kernels,
    stream: &Stream,
    table: &Weights,
    ids: DevicePtr,
    scale: f32,
    x: DevicePtr,
    n_rows: u32,
) -> Result<()> {
    if n_rows == 0 {
        return Ok(());
    }
    let kernel = match table.format {
        Format::F32 => "embed_f32",
        Format::F16 => "embed_f16",
        Format::BF16 => "embed_bf16",
        Format::F8E4M3 => "embed_f8e4m3",
        Format::I8 => "embed_i8",
        Format::Q8_0 => "embed_q8_0",
        Format::Q4_0 => "embed_q4_0",
        Format::Q4_K => "embed_q4_k",
        Format::Q6_K => "embed_q6_k",
    };
    let launch =
        Launch { grid: [n_rows, 1, 1], block: [128, 1, 1], shared_bytes: 0, dependent: true };
    let table = *table;
    // SAFETY: the parameters are the kernel's; the addresses as the caller says.
    unsafe { kernels.function(kernel).launch(stream, launch, &mut args![table, ids, scale, x]) }
}
