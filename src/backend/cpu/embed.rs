//! The first rows: token ids through the embedding table, or embeddings as given.

use super::Cpu;
use super::matmul::{Weights, weight_row};
use super::memory::Parts;
use crate::area::{Area, Region};
use crate::backend::ops::{BatchView, Embedding, RowInput};
use crate::error::{Error, Result};

/// See [`Backend::embed`](crate::backend::Backend::embed).
pub fn embed(
    cpu: &Cpu,
    area: &mut Area,
    embedding: &Embedding,
    batch: &BatchView<'_>,
    x: &mut Region,
) -> Result<()> {
    if area.is_tracing() {
        return Ok(());
    }
    let memory = cpu.memory()?;
    let (table, x) = (&embedding.table, memory.region_mut::<f32>(x));
    let hidden = table.n_in as usize;
    let tokens = match batch.input {
        RowInput::Tokens(tokens) => tokens,
        RowInput::Embeddings(given) => {
            let n = batch.n_rows * hidden;
            x[..n].copy_from_slice(&given[..n]);
            return Ok(());
        }
    };
    if let Some(token) = tokens[..batch.n_rows].iter().find(|token| token.0 >= table.n_out) {
        return Err(Error::InvalidArgument(format!(
            "token {} is not in the vocabulary of {}",
            token.0, table.n_out
        )));
    }
    let weights = Weights { dtype: table.dtype, n_in: hidden, bytes: memory.linear(table) };
    let x = Parts::new(x);
    cpu.pool.run(batch.n_rows, &|row, _| {
        // SAFETY: every task has its own row; the table is supported by this processor.
        let to = unsafe { x.part(row * hidden, hidden) };
        // SAFETY: as above.
        unsafe { weight_row(cpu.kernels, &weights, tokens[row].0 as usize, to) };
        if embedding.scale != 1.0 {
            to.iter_mut().for_each(|value| *value *= embedding.scale);
        }
    })
}
