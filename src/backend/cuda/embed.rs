//! The first rows: token ids through the embedding table, or embeddings as given.

use super::Cuda;
use super::device::Ready;
use super::fault::{Fault, Result};
use super::products::weights_of;
use super::tables::RowTable;
use crate::area::{Area, Region};
use crate::backend::Output;
use crate::backend::ops::{BatchView, Embedding, RowInput};
use larder_kernels::embed;

/// See [`Backend::embed`](crate::backend::Backend::embed).
pub fn embed(
    cuda: &mut Cuda,
    area: &mut Area,
    embedding: &Embedding,
    batch: &BatchView<'_>,
    x: &mut Region,
) -> Result<()> {
    if cuda.launches(area)?.is_none() {
        return Ok(());
    }
    let table = weights_of(cuda, &embedding.table)?;
    let ready = cuda.ready()?;
    let to = ready.memory.region(x)?;
    if let RowInput::Embeddings(given) = batch.input {
        return copy(ready, given, batch.n_rows * table.n_in as usize, to);
    }
    let Ready { kernels, stream, memory, tables, .. } = ready;
    let ids = tables.rows(memory, RowTable::Tokens)?;
    let n_rows = batch.n_rows as u32;
    // SAFETY: the ids were checked when they were uploaded, and x has room for the rows.
    Ok(unsafe { embed::launch(kernels, stream, &table, ids, embedding.scale, to, n_rows) }?)
}

/// The host's embeddings, by way of the hidden rows' place in pinned memory, which is free until they are fetched.
fn copy(ready: &mut Ready, given: &[f32], n_values: usize, to: u64) -> Result<()> {
    let Ready { stream, memory, tables, .. } = ready;
    let staging = memory.output_mut(Output::Hidden).get_mut(..n_values);
    let (Some(staging), Some(given)) = (staging, given.get(..n_values)) else {
        return Err(Fault::defect(format!("{n_values} values of embeddings")));
    };
    staging.copy_from_slice(given);
    // SAFETY: the next pass waits for this copy before it writes there.
    unsafe { stream.copy_to_device(to, staging.as_ptr().cast(), 4 * n_values as u64) }?;
    tables.mark_copied(stream)
}
