//! The gated MLP, some rows at a time, so that the wide tensor between is `tile_rows · n_intermediate`.

use super::Cpu;
use super::linear::{Input, PANEL_ROWS, Product, Source, TILE_ROWS, ThreadRoom, panels};
use super::matmul::Output;
use super::memory::Parts;
use super::project::Down;
use crate::area::{Area, Region};
use crate::backend::ops::MlpOp;
use crate::error::{Error, Result};

/// See [`Backend::mlp`](crate::backend::Backend::mlp).
pub fn mlp(
    cpu: &Cpu,
    area: &mut Area,
    op: &MlpOp,
    n_rows: usize,
    tile_rows: usize,
    x: &mut Region,
) -> Result<()> {
    if tile_rows == 0 || op.gate.n_out != op.up.n_out || op.gate.n_out != op.down.n_in {
        return Err(Error::Internal(format!("an MLP of tiles of {tile_rows} rows: {op:?}")));
    }
    let down =
        Down { weight: &op.down, norm_after: op.norm_after.as_ref(), multiplier: op.multiplier };
    let (mark, mut first) = (area.mark(), 0);
    loop {
        area.rewind(mark);
        let n = tile_rows.min(n_rows - first);
        let mut wide = area.take("gated rows", 4 * n * op.gate.n_out as usize);
        gated(cpu, area, op, (first, n), x, &mut wide)?;
        down.rows(cpu, area, n, (&wide, 0), (x, first))?;
        area.give(wide);
        first += n;
        if first >= n_rows || area.is_tracing() {
            return Ok(());
        }
    }
}

/// `wide [n][n_intermediate] = activation(gate(norm(x))) · up(norm(x))`; a panel of both by the same task.
fn gated(
    cpu: &Cpu,
    area: &mut Area,
    op: &MlpOp,
    (first, n): (usize, usize),
    x: &Region,
    wide: &mut Region,
) -> Result<()> {
    let (weights, source) = ([&op.gate, &op.up], Source::From(first));
    let mut input = Input::take(cpu, area, &weights, op.norm.as_ref(), n, source);
    let mut room = ThreadRoom::take(cpu, area, &weights, TILE_ROWS.min(n) * PANEL_ROWS);
    if !area.is_tracing() {
        let memory = cpu.memory()?;
        let x = memory.region(x);
        input.fill(cpu, memory, op.norm.as_ref(), source, x)?;
        let [gate, up] = weights.map(|weight| Product::new(cpu, memory, weight, &input, x));
        let (rooms, n_wide) = (room.rooms(memory), op.gate.n_out as usize);
        let wide = Parts::new(&mut memory.region_mut::<f32>(wide)[..n * n_wide]);
        panels(cpu, n_wide, n, &|columns, tokens, thread| {
            // SAFETY: the running task of the thread; its part of `wide` is these columns of these rows, and
            // their last element is inside.
            unsafe {
                let (scratch, tile) = rooms.of(thread);
                let width = columns.len();
                let tile = &mut tile[..tokens.len() * width];
                let out = Output { first: tile.as_mut_ptr(), stride: width };
                up.run(cpu, columns.clone(), tokens.clone(), scratch, out);
                let at = wide.address(tokens.start * n_wide + columns.start);
                let out = Output { first: at, stride: n_wide };
                gate.run(cpu, columns.clone(), tokens.clone(), scratch, out);
                for (row, up) in tokens.zip(tile.chunks_exact(width)) {
                    let gate = wide.part(row * n_wide + columns.start, width);
                    (cpu.kernels.gate_row)(gate, up, op.activation);
                }
            }
        })?;
    }
    input.give(area);
    room.give(area);
    Ok(())
}
