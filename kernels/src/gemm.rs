//! Products of many rows on tensor cores (`cuda/gemm*.cu`): the path of quantised weights, of K and V, and of
//! everything where cuBLASLt is missing.

mod check;
mod shape;

use crate::args;
use crate::driver::{DevicePtr, Launch, Result, Stream};
use crate::format::{Format, Weights};
use crate::modules::Kernels;
use crate::product::{Act, Finish, FinishKind, QkvFinish};

pub(crate) use check::check;
pub use check::input_multiple;
use check::refuse;
use shape::Shape;
pub use shape::Tiles;

/// The parameter of the kernels; `Gemm` of gemm.cuh.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gemm {
    weights: [Weights; 3],
    input: DevicePtr,
    finish: Finish,
    qkv: QkvFinish,
    /// As `FinishKind` of gemm.cuh counts.
    kind: u32,
    /// Of the rows that a gated product writes.
    act: Act,
    n_rows: u32,
    /// Columns of a block's tile, of each of gate and up.
    n_columns: u32,
}

const _: () = assert!(size_of::<Gemm>() == 3 * 48 + 64 + 176);

/// `weights · input` and then `finish`, for any number of rows. `input`: act rows `[n_rows][n_in]` of
/// [`Act::of`] the format, aligned to 16 bytes, with `n_in` a multiple of [`input_multiple`]. The matrices are one;
/// gate and up; or with [`FinishKind::Qkv`] up to three that hold whole heads, of at most 256 elements; all of
/// `format`. Other sizes are refused.
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
    let n_multiprocessors = kernels.info().n_multiprocessors;
    let tiles = Tiles::choose(n_multiprocessors, weights, format, n_rows, finish);
    // SAFETY: as the caller says.
    unsafe { launch_tiled(kernels, stream, weights, format, input, n_rows, finish, tiles) }
}

/// [`launch`] with tiles of the caller's choice. Large ones are not for heads above 128 elements.
///
/// # Safety
/// As [`launch`].
#[allow(clippy::too_many_arguments)]
pub unsafe fn launch_tiled(
    kernels: &Kernels,
    stream: &Stream,
    weights: &[Weights],
    format: Format,
    input: DevicePtr,
    n_rows: u32,
    finish: &FinishKind,
    tiles: Tiles,
) -> Result<()> {
    check(weights, format, finish)?;
    if n_rows == 0 {
        return Ok(());
    }
    let shape = Shape::of(format, tiles);
    let Ok(grid) = u32::try_from(shape.blocks(weights, n_rows, finish)) else {
        return Err(refuse("more tiles than a launch has blocks"));
    };
    let gemm = parameter(weights, input, n_rows, shape.tile_columns(finish), finish);
    let launch = Launch {
        grid: [grid, 1, 1],
        block: [shape.threads, 1, 1],
        shared_bytes: shape.shared_bytes(format, finish),
        dependent: true,
    };
    // SAFETY: the parameter is the kernels'; the addresses as the caller says.
    unsafe {
        kernels.function(shape::kernel(format, tiles)).launch(stream, launch, &mut args![gemm])
    }
}

fn parameter(
    weights: &[Weights],
    input: DevicePtr,
    n_rows: u32,
    n_columns: u32,
    finish: &FinishKind,
) -> Gemm {
    let (no_values, no_heads) = (Finish::to(0, 0), QkvFinish::default());
    let (kind, finish, qkv, act) = match *finish {
        FinishKind::Store(finish) => (0, finish, no_heads, Act::F32),
        FinishKind::Residual(finish) => (1, finish, no_heads, Act::F32),
        FinishKind::Gated(finish, act) => (2, finish, no_heads, act),
        FinishKind::Qkv(qkv) => (3, no_values, qkv, Act::F32),
    };
    // Matrices that are not there are never read.
    let matrix = |i: usize| weights[i.min(weights.len() - 1)];
    let weights = [matrix(0), matrix(1), matrix(2)];
    Gemm { weights, input, finish, qkv, kind, act, n_rows, n_columns }
}
