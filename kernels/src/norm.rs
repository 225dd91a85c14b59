//! Norms over rows, the gather of the rows that go on, and the gate of an MLP over act rows.

use crate::args;
use crate::driver::{DevicePtr, Launch, Result, Stream};
use crate::modules::Kernels;
use crate::product::{Act, Activation};

/// What a norm computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum NormKind {
    /// The values as they are.
    #[default]
    None = 0,
    /// `x / sqrt(mean(x²) + eps) · weight`
    Rms = 1,
    /// `(x − mean) / sqrt(var + eps) · weight + bias`
    Layer = 2,
}

/// A norm over a row or a head; `Norm` of finish.cuh.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct Norm {
    /// f32 `[n]`
    pub weight: DevicePtr,
    /// f32 `[n]`, of [`NormKind::Layer`] only; 0: none.
    pub bias: DevicePtr,
    pub kind: NormKind,
    pub eps: f32,
}

const _: () = assert!(size_of::<Norm>() == 24);

/// `out [n_rows][n] = norm(x [..][n])` as act rows. `rows`, u32 `[n_rows]`, says which row of x each is; 0: row i.
/// Without it, f32 rows may be normed in place.
///
/// # Safety
/// The addresses hold what is said here until the launch has run.
#[allow(clippy::too_many_arguments)]
pub unsafe fn norm_rows(
    kernels: &Kernels,
    stream: &Stream,
    norm: &Norm,
    act: Act,
    x: DevicePtr,
    rows: DevicePtr,
    out: DevicePtr,
    n_rows: u32,
    n: u32,
) -> Result<()> {
    let name = match act {
        Act::BF16 => "norm_rows_bf16",
        Act::F16 => "norm_rows_f16",
        Act::F32 => "norm_rows_f32",
    };
    if n_rows == 0 {
        return Ok(());
    }
    let norm = *norm;
    // SAFETY: the parameters are the kernel's; the addresses as the caller says.
    unsafe {
        kernels.function(name).launch(stream, per_row(n_rows, n), &mut args![x, rows, norm, out, n])
    }
}

/// Moves the listed rows of x `[..][n]` to its front and norms them there. `rows`, u32 `[n_rows]`, ascend.
///
/// # Safety
/// As [`norm_rows`].
pub unsafe fn final_norm(
    kernels: &Kernels,
    stream: &Stream,
    norm: &Norm,
    x: DevicePtr,
    rows: DevicePtr,
    n_rows: u32,
    n: u32,
) -> Result<()> {
    if n_rows == 0 {
        return Ok(());
    }
    // Few threads a block: a column is walked by one thread, so blocks are all the parallelism there is.
    let threads = 64;
    let launch = Launch {
        grid: [n.div_ceil(threads), 1, 1],
        block: [threads, 1, 1],
        shared_bytes: 0,
        dependent: true,
    };
    // SAFETY: the parameters are the kernel's; the addresses as the caller says.
    unsafe {
        kernels.function("gather_rows").launch(stream, launch, &mut args![x, rows, n_rows, n])?;
        norm_rows(kernels, stream, norm, Act::F32, x, 0, x, n_rows, n)
    }
}

/// `x [n_rows][n] += norm(y [n_rows][n]) · multiplier`, all f32.
///
/// # Safety
/// As [`norm_rows`].
#[allow(clippy::too_many_arguments)]
pub unsafe fn norm_residual(
    kernels: &Kernels,
    stream: &Stream,
    norm: &Norm,
    y: DevicePtr,
    multiplier: f32,
    x: DevicePtr,
    n_rows: u32,
    n: u32,
) -> Result<()> {
    if n_rows == 0 {
        return Ok(());
    }
    let norm = *norm;
    // SAFETY: the parameters are the kernel's; the addresses as the caller says.
    unsafe {
        kernels.function("norm_residual").launch(
            stream,
            per_row(n_rows, n),
            &mut args![y, norm, multiplier, x, n],
        )
    }
}

/// One block a row, with about eight values a thread.
fn per_row(n_rows: u32, n: u32) -> Launch {
    let threads = (n / 8).next_multiple_of(32).clamp(32, 1024);
    Launch { grid: [n_rows, 1, 1], block: [threads, 1, 1], shared_bytes: 0, dependent: true }
}

/// Gate and up of some rows, and where `activation(gate + bias) · (up + up_bias)` goes; `GateRows` of gate.cu.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct GateRows {
    /// Act rows `[rows][leading]`.
    pub gate: DevicePtr,
    /// Act rows `[rows][leading]`.
    pub up: DevicePtr,
    /// f32 `[n]` of the gate; 0: none.
    pub bias: DevicePtr,
    /// f32 `[n]` of up; 0: none.
    pub up_bias: DevicePtr,
    /// Act rows `[rows][out_leading]`; may be `gate` when both have the same leading dimension.
    pub out: DevicePtr,
    /// Elements from one row of gate, and of up, to the next.
    pub leading: u32,
    pub out_leading: u32,
    pub n: u32,
    pub activation: Activation,
}

const _: () = assert!(size_of::<GateRows>() == 56);

/// `out = activation(gate + bias) · (up + up_bias)` over act rows, `n_rows` below 65536.
///
/// # Safety
/// As [`norm_rows`].
pub unsafe fn gate_act(
    kernels: &Kernels,
    stream: &Stream,
    act: Act,
    rows: &GateRows,
    n_rows: u32,
) -> Result<()> {
    let (name, wide) = match act {
        Act::BF16 => ("gate_act_bf16", 8),
        Act::F16 => ("gate_act_f16", 8),
        Act::F32 => ("gate_act_f32", 4),
    };
    if n_rows == 0 || rows.n == 0 {
        return Ok(());
    }
    let threads = 256;
    let launch = Launch {
        grid: [rows.n.div_ceil(threads * wide), n_rows, 1],
        block: [threads, 1, 1],
        shared_bytes: 0,
        dependent: true,
    };
    let rows = *rows;
    // SAFETY: the parameters are the kernel's; the addresses as the caller says.
    unsafe { kernels.function(name).launch(stream, launch, &mut args![rows]) }
}
