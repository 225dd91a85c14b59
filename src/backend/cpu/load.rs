//! Weights on their way from the file into tiles: rows come a piece at a time, and the threads share a piece's tiles.

use super::Cpu;
use super::blocks::pack::{Cut, TILE, pack};
use super::memory::Parts;
use crate::backend::ops::Linear;
use crate::error::{Error, Result};

/// See [`Backend::write_linear`](crate::backend::Backend::write_linear).
pub fn write_linear(cpu: &mut Cpu, linear: &Linear, first_row: usize, bytes: &[u8]) -> Result<()> {
    let (dtype, n_in, n_out) = (linear.dtype, linear.n_in as usize, linear.n_out as usize);
    let row_bytes = dtype.row_bytes(u64::from(linear.n_in)).unwrap_or(0).max(1) as usize;
    let n_rows = bytes.len() / row_bytes;
    if !bytes.len().is_multiple_of(row_bytes) || n_rows > n_out.saturating_sub(first_row) {
        return Err(Error::Internal(format!(
            "{} bytes are no rows from {first_row} on of {linear:?}",
            bytes.len()
        )));
    }
    let (first_tile, end_row) = (first_row / TILE, first_row + n_rows);
    let tile_bytes = Cut::of(dtype).tile_bytes(n_in);
    let Cpu { memory, pool, .. } = cpu;
    let memory =
        memory.as_mut().ok_or_else(|| Error::Internal("the backend has no memory yet".into()))?;
    let tiles = Parts::new(memory.linear_mut(linear));
    pool.run(end_row.div_ceil(TILE) - first_tile, &|task, _| {
        let tile = first_tile + task;
        let rows = first_row.max(tile * TILE)..end_row.min((tile + 1) * TILE);
        let file = &bytes[(rows.start - first_row) * row_bytes..(rows.end - first_row) * row_bytes];
        // SAFETY: every task has its own tile.
        let to = unsafe { tiles.part(tile * tile_bytes, tile_bytes) };
        pack(dtype, n_in, file, to, rows.start - tile * TILE..rows.end - tile * TILE);
    })
}
