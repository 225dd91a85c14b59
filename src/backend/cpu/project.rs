//! A projection that is added to the residual: attention's output, and the last third of the MLP.

use super::Cpu;
use super::linear::{Input, PANEL_ROWS, Product, Source, TILE_ROWS, ThreadRoom, panels};
use super::matmul::Output;
use super::memory::Parts;
use super::norm::Normer;
use crate::area::{Area, Region};
use crate::backend::ops::{Linear, Norm, ProjectOp};
use crate::error::Result;

/// Rows that wait for their norm at once.
const NORMED_ROWS: usize = 128;

/// See [`Backend::project_residual`](crate::backend::Backend::project_residual).
pub fn project_residual(
    cpu: &Cpu,
    area: &mut Area,
    op: &ProjectOp,
    n_rows: usize,
    input: &Region,
    x: &mut Region,
) -> Result<()> {
    let down = Down::of(op);
    if op.norm_after.is_none() {
        return down.rows(cpu, area, n_rows, (input, 0), (x, 0));
    }
    let (mark, mut first) = (area.mark(), 0);
    loop {
        area.rewind(mark);
        let n = NORMED_ROWS.min(n_rows - first);
        down.rows(cpu, area, n, (input, first), (x, first))?;
        first += n;
        if first >= n_rows || area.is_tracing() {
            return Ok(());
        }
    }
}

/// `x += norm_after(weight · input + bias) · multiplier` for some rows.
pub struct Down<'a> {
    pub weight: &'a Linear,
    pub norm_after: Option<&'a Norm>,
    pub multiplier: f32,
}

impl<'a> Down<'a> {
    fn of(op: &'a ProjectOp) -> Down<'a> {
        Down { weight: &op.weight, norm_after: op.norm_after.as_ref(), multiplier: op.multiplier }
    }

    /// `n` rows, from the given row of the input and of x on.
    pub fn rows(
        &self,
        cpu: &Cpu,
        area: &mut Area,
        n: usize,
        (from, first_from): (&Region, usize),
        (x, first_x): (&mut Region, usize),
    ) -> Result<()> {
        let (weights, source) = ([self.weight], Source::From(first_from));
        let n_out = self.weight.n_out as usize;
        let mut input = Input::take(cpu, area, &weights, None, n, source);
        let mut room = ThreadRoom::take(cpu, area, &weights, TILE_ROWS.min(n) * PANEL_ROWS);
        let wants_rows = self.norm_after.is_some();
        let mut rows = wants_rows.then(|| area.take("projected rows", 4 * n * n_out));
        if !area.is_tracing() {
            let memory = cpu.memory()?;
            let from = memory.region(from);
            let x = Parts::new(
                &mut memory.region_mut::<f32>(x)[first_x * n_out..(first_x + n) * n_out],
            );
            input.fill(cpu, memory, None, source, from)?;
            let product = Product::new(cpu, memory, self.weight, &input, from);
            let rooms = room.rooms(memory);
            let rows = rows.as_mut().map(|rows| Parts::new(memory.region_mut::<f32>(rows)));
            self.multiply(cpu, n, &product, &rooms, rows.as_ref().unwrap_or(&x), wants_rows)?;
            if let (Some(norm), Some(rows)) = (self.norm_after, &rows) {
                let norm = Normer::of(memory, norm);
                cpu.pool.run(n, &|row, _| {
                    // SAFETY: every task has its own row of both.
                    unsafe {
                        let projected = rows.part(row * n_out, n_out);
                        norm.apply_in_place(cpu.kernels, projected);
                        let to = x.part(row * n_out, n_out);
                        (cpu.kernels.blend_row)(to, 1.0, projected, self.multiplier);
                    }
                })?;
            }
        }
        input.give(area);
        room.give(area);
        rows.into_iter().for_each(|rows| area.give(rows));
        Ok(())
    }

    /// The product over all panels, written to `to [n][n_out]` or added to it.
    fn multiply(
        &self,
        cpu: &Cpu,
        n: usize,
        product: &Product<'_>,
        rooms: &super::linear::Rooms<'_>,
        to: &Parts<'_, f32>,
        write: bool,
    ) -> Result<()> {
        let n_out = self.weight.n_out as usize;
        panels(cpu, n_out, n, &|columns, tokens, thread| {
            // SAFETY: the running task of the thread; its part of `to` is these columns of these rows.
            unsafe {
                let (scratch, tile) = rooms.of(thread);
                let width = columns.len();
                let tile = &mut tile[..tokens.len() * width];
                let out = Output { first: tile.as_mut_ptr(), stride: width };
                product.run(cpu, columns.clone(), tokens.clone(), scratch, out);
                for (row, from) in tokens.zip(tile.chunks_exact(width)) {
                    let to = to.part(row * n_out + columns.start, width);
                    if write {
                        to.copy_from_slice(from);
                    } else {
                        (cpu.kernels.blend_row)(to, 1.0, from, self.multiplier);
                    }
                }
            }
        })
    }
}
