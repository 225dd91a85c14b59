//! The gated MLP, a tile of columns at a time: gate and up of the tile, and at once the tile's part of down.

use super::Cuda;
use super::device::Ready;
use super::fault::{Fault, Result};
use super::large;
use super::products::{Input, Rows, Source, multiply, weights_of};
use super::project::{Onto, Part};
use super::tiles::{Gating, Tiles};
use crate::area::{Area, Region};
use crate::backend::ops::{self, MlpOp, Vector};
use larder_kernels::blas::Shape;
use larder_kernels::driver::DevicePtr;
use larder_kernels::format::Weights;
use larder_kernels::norm::{self, GateRows};
use larder_kernels::product::{Act, Activation, Finish, FinishKind};
use std::ops::Range;

/// See [`Backend::mlp`](crate::backend::Backend::mlp).
pub fn mlp(
    cuda: &mut Cuda,
    area: &mut Area,
    op: &MlpOp,
    n_rows: usize,
    x: &mut Region,
) -> Result<()> {
    if op.gate.n_out != op.up.n_out || op.gate.n_out != op.down.n_in {
        return Err(Fault::defect(format!("an MLP of {op:?}")));
    }
    let max_rows = cuda.limits.n_rows;
    let (tiles, gating) = Tiles::of(cuda, op)?;
    let mut input = Input::take(cuda, area, &[&op.gate, &op.up], op.norm.as_ref(), max_rows)?;
    let workspace = large::workspace(cuda, area, &[&op.gate, &op.up, &op.down], max_rows)?;
    let tile = area.take("gated rows", tiles.bytes as usize);
    let onto = Onto::take(cuda, area, &op.down, op.norm_after.as_ref(), op.multiplier);
    if area.is_tracing() {
        note_shapes(cuda, op, &tiles, &onto)?;
    }
    if cuda.launches(area)?.is_some() {
        let weights = [&op.gate, &op.up, &op.down].map(|linear| weights_of(cuda, linear));
        let [gate, up, down] = weights;
        let run = Run {
            op,
            gating,
            weights: [gate?, up?, down?],
            source: Source { x: cuda.ready()?.memory.region(x)?, list: 0, n_rows: n_rows as u32 },
            room: cuda.ready()?.memory.region(&tile)?,
            workspace: workspace.as_ref(),
            exact: cuda.exact,
        };
        run.all(cuda.ready()?, &tiles, &mut input, &onto, x)?;
    }
    input.give(area);
    workspace.into_iter().for_each(|workspace| area.give(workspace));
    area.give(tile);
    onto.give(area);
    Ok(())
}

/// What many rows will ask of the library.
fn note_shapes(cuda: &mut Cuda, op: &MlpOp, tiles: &Tiles, onto: &Onto<'_>) -> Result<()> {
    let [gate, down] = [large::unplaced(cuda, &op.gate)?, large::unplaced(cuda, &op.down)?];
    for columns in tiles.for_rows(cuda.limits.n_rows) {
        let (first, n) = (columns.start, columns.len() as u32);
        large::note(cuda, &gate, gate_shape(&part(gate.rows(first, n))?));
        let down = part(down.columns(first, n))?;
        large::note(cuda, &down, onto.shape(&down, first == 0));
    }
    Ok(())
}

/// Gate and up have act rows as results.
fn gate_shape(weights: &Weights) -> Shape {
    large::shape(weights, weights.n_out, large::element(weights.format), false)
}

fn part<T>(cut: std::result::Result<T, larder_kernels::format::FormatError>) -> Result<T> {
    cut.map_err(|error| Fault::defect(error.to_string()))
}

/// One run of the operation.
struct Run<'a> {
    op: &'a MlpOp,
    gating: Gating,
    /// Gate, up, down.
    weights: [Weights; 3],
    source: Source,
    /// The tile's place.
    room: DevicePtr,
    workspace: Option<&'a Region>,
    exact: bool,
}

impl Run<'_> {
    fn all(
        &self,
        ready: &mut Ready,
        tiles: &Tiles,
        input: &mut Input,
        onto: &Onto<'_>,
        x: &Region,
    ) -> Result<()> {
        let n_rows = self.source.n_rows;
        for columns in tiles.for_rows(n_rows) {
            let rows = self.gated(ready, input, &columns)?;
            let (first, n) = (columns.start, columns.len() as u32);
            let weights = part(self.weights[2].columns(first, n))?;
            onto.add(
                ready,
                x,
                &Part { weights, rows, n_rows, is_first: first == 0 },
                self.workspace,
            )?;
        }
        onto.finish(ready, x, n_rows)
    }

    /// The type that down reads.
    fn act(&self) -> Act {
        match Rows::of(self.source.n_rows) {
            Rows::Many if !self.exact => Act::of(self.weights[2].format),
            _ => Act::F32,
        }
    }

    /// `activation(gate + bias) · (up + bias)` of some columns, as down reads it; where that lies.
    fn gated(
        &self,
        ready: &mut Ready,
        input: &mut Input,
        columns: &Range<u32>,
    ) -> Result<DevicePtr> {
        let (first, n) = (columns.start, columns.len() as u32);
        let weights =
            [part(self.weights[0].rows(first, n))?, part(self.weights[1].rows(first, n))?];
        if self.gating == Gating::Apart {
            return self.gated_apart(ready, input, &weights, first);
        }
        if self.gated_by_library(ready, input, &weights, first)? {
            return Ok(self.room);
        }
        let [bias, up_bias] = self.biases(ready, first)?;
        let activation = activation(self.op.activation);
        let finish = Finish { bias, up_bias, activation, ..Finish::to(self.room, n) };
        let rows = input.rows(ready, weights[0].format, &self.source)?;
        let kind = FinishKind::Gated(finish, self.act());
        multiply(ready, &weights, rows, self.source.n_rows, &kind)?;
        Ok(self.room)
    }

    /// Gate and up through the library, each as act rows; whether it did.
    fn gated_by_library(
        &self,
        ready: &mut Ready,
        input: &mut Input,
        weights: &[Weights; 2],
        first: u32,
    ) -> Result<bool> {
        let (n_rows, n, act) = (self.source.n_rows, weights[0].n_out, self.act());
        let format = weights[0].format;
        let is_many = Rows::of(n_rows) == Rows::Many && !self.exact;
        if !is_many || !large::is_possible(format) || Act::of(format) != act {
            return Ok(false);
        }
        let rows = input.staged(ready, act, &self.source)?;
        let bytes = u64::from(n_rows) * u64::from(n) * act.bytes() as u64;
        for (weights, out) in weights.iter().zip([self.room, self.room + bytes]) {
            let operands = large::Operands { input: rows, out, n_rows, alpha: 1.0 };
            let shape = gate_shape(weights);
            if !large::try_multiply(ready, &shape, weights, &operands, self.workspace)? {
                return Ok(false);
            }
        }
        self.gate(ready, act, [self.room, self.room + bytes], n, first)?;
        Ok(true)
    }

    /// Gate and up one by one, as f32 rows, and then as down reads them.
    fn gated_apart(
        &self,
        ready: &mut Ready,
        input: &mut Input,
        weights: &[Weights; 2],
        first: u32,
    ) -> Result<DevicePtr> {
        let (n_rows, n) = (self.source.n_rows, weights[0].n_out);
        let bytes = u64::from(n_rows) * u64::from(n) * 4;
        let places = [self.room, self.room + bytes];
        for (weights, out) in weights.iter().zip(places) {
            let rows = input.rows(ready, weights.format, &self.source)?;
            let kind = FinishKind::Store(Finish::to(out, n));
            multiply(ready, std::slice::from_ref(weights), rows, n_rows, &kind)?;
        }
        self.gate(ready, Act::F32, places, n, first)?;
        if self.act() == Act::F32 {
            return Ok(self.room);
        }
        let (to, none) = (self.room + 2 * bytes, norm::Norm::default());
        let Ready { kernels, stream, .. } = ready;
        // SAFETY: the room holds the f32 rows of both, and behind them the act rows.
        unsafe {
            norm::norm_rows(kernels, stream, &none, self.act(), self.room, 0, to, n_rows, n)
        }?;
        Ok(to)
    }

    /// `gate = activation(gate + bias) · (up + bias)` in place.
    fn gate(
        &self,
        ready: &Ready,
        act: Act,
        [gate, up]: [DevicePtr; 2],
        n: u32,
        first: u32,
    ) -> Result<()> {
        let [bias, up_bias] = self.biases(ready, first)?;
        let activation = activation(self.op.activation);
        let (out, leading, out_leading) = (gate, n, n);
        let rows = GateRows { gate, up, bias, up_bias, out, leading, out_leading, n, activation };
        // SAFETY: the room holds the rows of both.
        Ok(unsafe {
            norm::gate_act(&ready.kernels, &ready.stream, act, &rows, self.source.n_rows)
        }?)
    }

    /// Of gate and up, from column `first` on; 0: none.
    fn biases(&self, ready: &Ready, first: u32) -> Result<[DevicePtr; 2]> {
        let of = |vector: Option<Vector>| match vector {
            None => Result::Ok(0),
            Some(vector) => Ok(ready.memory.vector(vector)? + u64::from(first) * 4),
        };
        Ok([of(self.op.gate.bias)?, of(self.op.up.bias)?])
    }
}

fn activation(activation: ops::Activation) -> Activation {
    match activation {
        ops::Activation::Silu => Activation::Silu,
        ops::Activation::GeluTanh => Activation::GeluTanh,
        ops::Activation::Gelu => Activation::Gelu,
    }
}
