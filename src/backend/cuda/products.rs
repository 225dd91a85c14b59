//! Products of activations with weights: the rows that they read, and which kernel computes one.
//!
//! Up to [`SOME_ROWS`] rows are read as f32, up to [`FEW_ROWS`] of them normed by the kernel itself. More are first
//! converted, with their norm, to the type that the weights' format wants; unless exact activations are asked for.
//! Results of a row may differ in the last bits from one class of batch sizes to the other, never with what else is in
//! the batch.

use super::Cuda;
use super::device::Ready;
use super::fault::Result;
use super::linear::layout_of;
use crate::area::{Area, Region};
use crate::backend::ops::{Linear, Norm};
use larder_kernels::driver::DevicePtr;
use larder_kernels::format::{Format, Weights};
use larder_kernels::norm::{self, NormKind};
use larder_kernels::product::{Act, Finish, FinishKind, QkvFinish};
use larder_kernels::{gemm, gemv, small};

/// Rows of `gemv`.
pub const FEW_ROWS: u32 = 4;
/// Rows of `small`.
pub const SOME_ROWS: u32 = 64;

/// Classes of row counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    Few,
    Some,
    Many,
}

impl Rows {
    pub fn of(n_rows: u32) -> Rows {
        if n_rows <= FEW_ROWS {
            Rows::Few
        } else if n_rows <= SOME_ROWS {
            Rows::Some
        } else {
            Rows::Many
        }
    }
}

/// A norm with its vectors' addresses.
pub fn norm_of(ready: &Ready, norm: Option<&Norm>) -> Result<norm::Norm> {
    Ok(match norm {
        None => norm::Norm::default(),
        Some(Norm::Rms { weight, eps }) => norm::Norm {
            weight: ready.memory.vector(*weight)?,
            bias: 0,
            kind: NormKind::Rms,
            eps: *eps,
        },
        Some(Norm::Layer { weight, bias, eps }) => norm::Norm {
            weight: ready.memory.vector(*weight)?,
            bias: ready.memory.optional(*bias)?,
            kind: NormKind::Layer,
            eps: *eps,
        },
    })
}

/// The rows that an operation's products read, and room for them in another type.
pub struct Input {
    region: Region,
    norm: Option<Norm>,
    n_in: u32,
    /// What lies in the region.
    staged: Option<Act>,
}

impl Input {
    /// Asks for the room of inputs of `weights`, which have as many columns; for the most rows, whatever the batch.
    pub fn take(
        cuda: &Cuda,
        area: &mut Area,
        weights: &[&Linear],
        norm: Option<&Norm>,
        max_rows: u32,
    ) -> Result<Input> {
        let n_in = weights[0].n_in;
        let f32_rows = if cuda.exact { max_rows } else { SOME_ROWS.min(max_rows) };
        let mut bytes = u64::from(f32_rows) * 4;
        for linear in weights {
            let format = layout_of(cuda.plain_weights, linear)?.format();
            bytes = bytes.max(u64::from(max_rows) * Act::of(format).bytes() as u64);
        }
        let region = area.take("act rows", (bytes * u64::from(n_in)) as usize);
        Ok(Input { region, norm: norm.copied(), n_in, staged: None })
    }

    pub fn give(self, area: &mut Area) {
        area.give(self.region);
    }

    /// The rows as `act`, normed.
    pub fn staged(&mut self, ready: &Ready, act: Act, source: &Source) -> Result<DevicePtr> {
        let to = ready.memory.region(&self.region)?;
        if self.staged != Some(act) {
            let norm = norm_of(ready, self.norm.as_ref())?;
            let Ready { kernels, stream, .. } = ready;
            let Source { x, list, n_rows } = *source;
            // SAFETY: x holds the rows, and the region has room for them.
            unsafe {
                norm::norm_rows(kernels, stream, &norm, act, x, list, to, n_rows, self.n_in)?;
            }
            self.staged = Some(act);
        }
        Ok(to)
    }

    /// What a product with weights of `format` reads, and the norm that is still to be applied.
    pub fn rows(
        &mut self,
        ready: &Ready,
        format: Format,
        source: &Source,
    ) -> Result<(DevicePtr, Option<norm::Norm>)> {
        let rows = Rows::of(source.n_rows);
        if rows == Rows::Many && !ready.exact {
            return Ok((self.staged(ready, Act::of(format), source)?, None));
        }
        let norm = norm_of(ready, self.norm.as_ref())?;
        match norm.kind {
            NormKind::None if source.list == 0 => Ok((source.x, None)),
            NormKind::Rms if source.list == 0 && rows == Rows::Few => Ok((source.x, Some(norm))),
            _ => Ok((self.staged(ready, Act::F32, source)?, None)),
        }
    }
}

/// f32 rows that an operation begins with.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    pub x: DevicePtr,
    /// Which rows of `x` they are, u32; 0: the first ones.
    pub list: DevicePtr,
    pub n_rows: u32,
}

/// A weight matrix as kernels take it.
pub fn weights_of(cuda: &mut Cuda, linear: &Linear) -> Result<Weights> {
    let layout = layout_of(cuda.plain_weights, linear)?;
    Ok(layout.weights(cuda.ready()?.memory.matrix(linear, &layout)?))
}

/// `finish(rows · weightsᵀ)` for matrices of one format, over what [`Input::rows`] gave: few f32 rows, or act rows.
pub fn multiply(
    ready: &Ready,
    weights: &[Weights],
    (rows, norm): (DevicePtr, Option<norm::Norm>),
    n_rows: u32,
    finish: &FinishKind,
) -> Result<()> {
    let Ready { kernels, stream, .. } = ready;
    let format = weights[0].format;
    // SAFETY: all addresses are regions of these sizes.
    Ok(unsafe {
        match Rows::of(n_rows) {
            Rows::Few => {
                gemv::launch(kernels, stream, weights, format, rows, norm.as_ref(), n_rows, finish)
            }
            Rows::Some if format != Format::F32 => {
                small::launch(kernels, stream, weights, format, rows, n_rows, finish)
            }
            Rows::Many if ready.exact && format != Format::F32 => {
                return exact(ready, weights, rows, n_rows, finish);
            }
            _ => gemm::launch(kernels, stream, weights, format, rows, n_rows, finish),
        }
    }?)
}

/// Many f32 rows, as many at once as keep their precision.
fn exact(
    ready: &Ready,
    weights: &[Weights],
    rows: DevicePtr,
    n_rows: u32,
    finish: &FinishKind,
) -> Result<()> {
    let format = weights[0].format;
    for first in (0..n_rows).step_by(SOME_ROWS as usize) {
        let at = rows + u64::from(first) * u64::from(weights[0].n_in) * 4;
        let (n, finish) = (SOME_ROWS.min(n_rows - first), from_row(finish, first));
        // SAFETY: all addresses are regions of these sizes.
        unsafe { small::launch(&ready.kernels, &ready.stream, weights, format, at, n, &finish) }?;
    }
    Ok(())
}

/// The same with row `first` as the first one.
fn from_row(finish: &FinishKind, first: u32) -> FinishKind {
    let bytes = |elements: u32, size: usize| u64::from(first) * u64::from(elements) * size as u64;
    let moved =
        |finish: &Finish, size| Finish { out: finish.out + bytes(finish.leading, size), ..*finish };
    match finish {
        FinishKind::Store(finish) => FinishKind::Store(moved(finish, 4)),
        FinishKind::Residual(finish) => FinishKind::Residual(moved(finish, 4)),
        FinishKind::Gated(finish, act) => FinishKind::Gated(moved(finish, act.bytes()), *act),
        FinishKind::Qkv(qkv) => FinishKind::Qkv(QkvFinish {
            q: qkv.q + bytes(qkv.n_heads * qkv.kv.head_dim, 4),
            slots: qkv.slots + bytes(1, 4),
            rope_table: match qkv.rope_table {
                0 => 0,
                table => table + bytes(qkv.rope_dim, 4),
            },
            ..*qkv
        }),
    }
}
