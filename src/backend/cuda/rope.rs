//! Rotary position encoding: the table of a batch.

use super::Cuda;
use super::device::Ready;
use super::fault::{Fault, Result};
use super::tables::RowTable;
use crate::area::{Area, Region};
use crate::backend::ops::Rope;
use larder_kernels::rope;

/// See [`Backend::rope_table`](crate::backend::Backend::rope_table).
pub fn rope_table(
    cuda: &mut Cuda,
    area: &mut Area,
    rope: &Rope,
    n_rows: usize,
    table: &mut Region,
) -> Result<()> {
    let Some(Ready { kernels, stream, memory, tables, .. }) = cuda.launches(area)? else {
        return Ok(());
    };
    let frequencies = rope.inverse_frequencies;
    if frequencies.len.checked_mul(2) != Some(rope.dim) {
        return Err(Fault::defect(format!("{} frequencies of {rope:?}", frequencies.len)));
    }
    let positions = tables.rows(memory, RowTable::Positions)?;
    // SAFETY: the table has room for [rows][pairs][2], and the others were uploaded.
    Ok(unsafe {
        rope::rope_table(
            kernels,
            stream,
            positions,
            memory.vector(frequencies)?,
            rope.magnitude,
            memory.region(table)?,
            n_rows as u32,
            frequencies.len,
        )
    }?)
}
