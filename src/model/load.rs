//! Reading the weights into a backend, piece by piece through one small staging buffer.
#![forbid(unsafe_code)]

use half::{bf16, f16};

use super::weights::{LoadItem, Model};
use crate::backend::Backend;
use crate::backend::ops::Linear;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::{Checkpoint, TensorInfo};

/// A good size for the staging buffer.
pub const STAGING_BYTES: usize = 4 << 20;

/// Called with (done, total) bytes; `false` stops the load.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

impl Model {
    /// Bytes of the staging buffer that [`load`](Self::load) takes for a wish of `staging_bytes`: whole rows.
    pub fn staging_bytes(&self, staging_bytes: usize) -> usize {
        let row = |item: &LoadItem| match item {
            LoadItem::Linear { linear, .. } => row_bytes(linear).unwrap_or(0),
            LoadItem::Vector { .. } | LoadItem::Values { .. } => 0,
        };
        self.items.iter().map(row).max().unwrap_or(0).max(staging_bytes)
    }

    /// Reads every weight of `checkpoint` and writes it to `backend`, whose blocks are reserved.
    ///
    /// # Errors
    /// `Io` when a file cannot be read, `Cancelled` when `progress` says so, and what the backend reports.
    pub fn load<B: Backend>(
        &self,
        checkpoint: &Checkpoint,
        backend: &mut B,
        staging_bytes: usize,
        progress: Progress<'_>,
    ) -> Result<()> {
        let mut staging = vec![0; self.staging_bytes(staging_bytes)];
        let total = self.items.iter().map(|item| file_bytes(item, checkpoint)).sum();
        let mut done = 0;
        let mut report = |bytes: u64| {
            done += bytes;
            match progress(done, total) {
                true => Ok(()),
                false => Err(Error::Cancelled("the load was stopped by its callback".into())),
            }
        };
        report(0)?;
        for item in &self.items {
            match item {
                LoadItem::Linear { linear, tensor, first_row } => {
                    let tensor = find(checkpoint, tensor)?;
                    let mut rows = LinearRows { linear, tensor, first_row: *first_row };
                    rows.load(checkpoint, backend, &mut staging, &mut report)?;
                }
                LoadItem::Vector { vector, tensor, first, offset } => {
                    let tensor = find(checkpoint, tensor)?;
                    let mut values = read_floats(checkpoint, tensor, *first, vector.len)?;
                    values.iter_mut().for_each(|value| *value += offset);
                    backend.write_vector(*vector, &values)?;
                    report(file_bytes(item, checkpoint))?;
                }
                LoadItem::Values { vector, values } => backend.write_vector(*vector, values)?,
            }
        }
        Ok(())
    }
}

/// A weight matrix and the rows of a tensor that it is.
struct LinearRows<'a> {
    linear: &'a Linear,
    tensor: &'a TensorInfo,
    first_row: u32,
}

impl LinearRows<'_> {
    fn load<B: Backend>(
        &mut self,
        checkpoint: &Checkpoint,
        backend: &mut B,
        staging: &mut [u8],
        report: &mut impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let row_bytes = row_bytes(self.linear)?;
        let rows_at_once = (staging.len() / row_bytes).max(1);
        let n_out = self.linear.n_out as usize;
        for row in (0..n_out).step_by(rows_at_once) {
            let n_rows = rows_at_once.min(n_out - row);
            let piece = staging.get_mut(..n_rows * row_bytes).ok_or_else(too_small)?;
            let first_byte = (u64::from(self.first_row) + row as u64) * row_bytes as u64;
            checkpoint.read(self.tensor, first_byte, piece)?;
            backend.write_linear(self.linear, row as u32, piece)?;
            report(piece.len() as u64)?;
        }
        Ok(())
    }
}

/// `n` elements from `first` on of a tensor of F32, F16 or BF16.
pub(super) fn read_floats(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    first: u32,
    n: u32,
) -> Result<Vec<f32>> {
    let size = match tensor.dtype {
        DType::F32 => 4,
        DType::F16 | DType::BF16 => 2,
        other => {
            let text = format!("tensor {:?} is {other:?}, expected F32, F16 or BF16", tensor.name);
            return Err(Error::Unsupported(text));
        }
    };
    let mut bytes = vec![0; n as usize * size];
    checkpoint.read(tensor, u64::from(first) * size as u64, &mut bytes)?;
    let pair = |bytes: &[u8]| [bytes[0], bytes[1]];
    Ok(match tensor.dtype {
        DType::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes(pair(b)).to_f32()).collect(),
        DType::BF16 => {
            bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(pair(b)).to_f32()).collect()
        }
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    })
}

/// Bytes of one row in the file; at least 1.
fn row_bytes(linear: &Linear) -> Result<usize> {
    let bytes = linear.dtype.row_bytes(u64::from(linear.n_in));
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| {
        Error::BadModel(format!(
            "rows of {} are no whole blocks of {:?}",
            linear.n_in, linear.dtype
        ))
    })
}

/// Bytes that an item reads.
fn file_bytes(item: &LoadItem, checkpoint: &Checkpoint) -> u64 {
    match item {
        LoadItem::Linear { linear, .. } => {
            u64::from(linear.n_out) * row_bytes(linear).unwrap_or(0) as u64
        }
        LoadItem::Vector { vector, tensor, .. } => {
            let dtype = checkpoint.tensor(tensor).map_or(DType::F32, |tensor| tensor.dtype);
            u64::from(vector.len) * dtype.block_bytes() as u64
        }
        LoadItem::Values { .. } => 0,
    }
}

fn find<'a>(checkpoint: &'a Checkpoint, name: &str) -> Result<&'a TensorInfo> {
    let gone = || Error::Internal(format!("tensor {name:?} was in another checkpoint"));
    checkpoint.tensor(name).ok_or_else(gone)
}

fn too_small() -> Error {
    Error::Internal("the staging buffer is smaller than a row".into())
}
