//! Rotary position encoding: the table of a batch, and turning a head.

use super::Cpu;
use super::memory::Parts;
use crate::area::{Area, Region};
use crate::backend::ops::{BatchView, Rope, RopePairs};
use crate::error::{Error, Result};

/// See [`Backend::rope_table`](crate::backend::Backend::rope_table).
pub fn rope_table(
    cpu: &Cpu,
    area: &mut Area,
    rope: &Rope,
    batch: &BatchView<'_>,
    table: &mut Region,
) -> Result<()> {
    if area.is_tracing() {
        return Ok(());
    }
    let memory = cpu.memory()?;
    let frequencies = memory.vector(rope.inverse_frequencies);
    let dim = rope.dim as usize;
    if 2 * frequencies.len() != dim {
        return Err(Error::Internal(format!(
            "rope of {dim} elements has {} frequencies",
            frequencies.len()
        )));
    }
    let table = Parts::new(memory.region_mut::<f32>(table));
    cpu.pool.run(batch.n_rows, &|row, _| {
        // SAFETY: every task has its own row.
        let to = unsafe { table.part(row * dim, dim) };
        let position = batch.positions[row] as f32;
        for (pair, frequency) in to.chunks_exact_mut(2).zip(frequencies) {
            let (sin, cos) = (position * frequency).sin_cos();
            pair.copy_from_slice(&[cos * rope.magnitude, sin * rope.magnitude]);
        }
    })
}

/// Turns the pairs of `values` by the row of the table, `[dim / 2][cos, sin]`.
pub fn rotate(pairs: RopePairs, table: &[f32], values: &mut [f32]) {
    let turns = table.chunks_exact(2).map(|turn| (turn[0], turn[1]));
    let turn = |a: &mut f32, b: &mut f32, (cos, sin): (f32, f32)| {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    };
    match pairs {
        RopePairs::Halves => {
            let (low, high) = values.split_at_mut(table.len() / 2);
            low.iter_mut().zip(high).zip(turns).for_each(|((a, b), t)| turn(a, b, t));
        }
        RopePairs::Adjacent => {
            let (pairs, _) = values.as_chunks_mut::<2>();
            pairs.iter_mut().zip(turns).for_each(|([a, b], t)| turn(a, b, t));
        }
    }
}
