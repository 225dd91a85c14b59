//! Rotary position encoding: the table of a batch, and q that came raw out of a product.

use crate::args;
use crate::driver::{DevicePtr, Launch, Result, Stream};
use crate::modules::Kernels;
use crate::product::QkvFinish;

/// `table [n_rows][n_pairs][2] = (cos, sin)(positions[row] · frequencies[i]) · magnitude`. Positions are u32
/// `[n_rows]`, frequencies f32 `[n_pairs]`, of which there are half as many as elements turn.
///
/// # Safety
/// The addresses hold what is said here until the launch has run.
#[allow(clippy::too_many_arguments)]
pub unsafe fn rope_table(
    kernels: &Kernels,
    stream: &Stream,
    positions: DevicePtr,
    frequencies: DevicePtr,
    magnitude: f32,
    table: DevicePtr,
    n_rows: u32,
    n_pairs: u32,
) -> Result<()> {
    let (n, threads) = (u64::from(n_rows) * u64::from(n_pairs), 128);
    if n == 0 {
        return Ok(());
    }
    let launch = Launch {
        grid: [u32::try_from(n.div_ceil(threads)).unwrap_or(u32::MAX), 1, 1],
        block: [threads as u32, 1, 1],
        shared_bytes: 0,
        dependent: true,
    };
    // SAFETY: the parameters are the kernel's; the addresses as the caller says.
    unsafe {
        kernels.function("rope_table").launch(
            stream,
            launch,
            &mut args![positions, frequencies, table, n_rows, n_pairs, magnitude],
        )
    }
}

/// Bias, norm and RoPE over `finish.q`, f32 `[n_rows][n_heads · head_dim]`, in place. Nothing of K and V is used
/// but `finish.kv.head_dim`, at most 256.
///
/// # Safety
/// As [`rope_table`].
pub unsafe fn finish_q(
    kernels: &Kernels,
    stream: &Stream,
    finish: &QkvFinish,
    n_rows: u32,
) -> Result<()> {
    if n_rows == 0 {
        return Ok(());
    }
    let heads_per_block = 4;
    let launch = Launch {
        grid: [n_rows, finish.n_heads.div_ceil(heads_per_block), 1],
        block: [32 * heads_per_block, 1, 1],
        shared_bytes: 0,
        dependent: true,
    };
    let finish = *finish;
    // SAFETY: the parameters are the kernel's; the addresses as the caller says.
    unsafe { kernels.function("finish_q").launch(stream, launch, &mut args![finish]) }
}
