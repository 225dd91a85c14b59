//! Norm, projections, q/k norm and RoPE. K and V go from the products' tiles straight to their slots.

use super::Cuda;
use super::device::Ready;
use super::fault::{Fault, Result};
use super::large;
use super::products::{Input, Rows, Source, multiply, norm_of, weights_of};
use super::tables::RowTable;
use crate::area::{Area, Region};
use crate::backend::ops::{Linear, QkvOp, RopePairs};
use crate::ids::Layer;
use larder_kernels::blas::{Element, Shape};
use larder_kernels::format::Weights;
use larder_kernels::product::{self, Act, FinishKind, QkvFinish};
use larder_kernels::rope;

/// The rows of an operation.
pub struct QkvRows<'a> {
    pub rope_table: Option<&'a Region>,
    pub n_rows: usize,
    pub x: &'a Region,
    pub q: &'a mut Region,
}

/// See [`Backend::qkv`](crate::backend::Backend::qkv).
pub fn qkv(
    cuda: &mut Cuda,
    area: &mut Area,
    op: &QkvOp,
    layer: Layer,
    rows: QkvRows<'_>,
) -> Result<()> {
    let linears = [&op.q, &op.k, &op.v];
    let mut input = Input::take(cuda, area, &linears, op.norm.as_ref(), cuda.limits.n_rows)?;
    let workspace = large::workspace(cuda, area, &[&op.q], cuda.limits.n_rows)?;
    if area.is_tracing() {
        // The one product that may go through the library: q, which is finished in place.
        let weights = large::unplaced(cuda, &op.q)?;
        large::note(cuda, &weights, q_shape(&weights));
    }
    if cuda.launches(area)?.is_some() {
        launch(cuda, op, layer, rows, &mut input, workspace.as_ref())?;
    }
    input.give(area);
    workspace.into_iter().for_each(|workspace| area.give(workspace));
    Ok(())
}

fn q_shape(weights: &Weights) -> Shape {
    large::shape(weights, weights.n_out, Element::F32, false)
}

fn launch(
    cuda: &mut Cuda,
    op: &QkvOp,
    layer: Layer,
    rows: QkvRows<'_>,
    input: &mut Input,
    workspace: Option<&Region>,
) -> Result<()> {
    let linears = [&op.q, &op.k, &op.v];
    let mut weights = [weights_of(cuda, &op.q)?; 3];
    for (weights, linear) in weights.iter_mut().zip(linears) {
        *weights = weights_of(cuda, linear)?;
    }
    let ready = cuda.ready()?;
    let finish = finish(ready, op, layer, &rows)?;
    let source = Source { x: ready.memory.region(rows.x)?, list: 0, n_rows: rows.n_rows as u32 };
    let mut first = 0;
    if q_apart(ready, &weights[0], input, &source, &finish, workspace)? {
        first = 1;
    }
    // Matrices of one format in one launch.
    while first < weights.len() {
        let format = weights[first].format;
        let n = weights[first..].iter().take_while(|weights| weights.format == format).count();
        let kind = FinishKind::Qkv(with_heads(finish, op, first));
        let input = input.rows(ready, format, &source)?;
        multiply(ready, &weights[first..first + n], input, source.n_rows, &kind)?;
        first += n;
    }
    Ok(())
}

/// q through the library; whether it did.
fn q_apart(
    ready: &mut Ready,
    weights: &Weights,
    input: &mut Input,
    source: &Source,
    finish: &QkvFinish,
    workspace: Option<&Region>,
) -> Result<bool> {
    let is_many = Rows::of(source.n_rows) == Rows::Many && !ready.exact;
    if !is_many || !large::is_possible(weights.format) {
        return Ok(false);
    }
    let rows = input.staged(ready, Act::of(weights.format), source)?;
    let operands =
        large::Operands { input: rows, out: finish.q, n_rows: source.n_rows, alpha: 1.0 };
    let done = large::try_multiply(ready, &q_shape(weights), weights, &operands, workspace)?;
    if done {
        // SAFETY: q holds the rows' products.
        unsafe { rope::finish_q(&ready.kernels, &ready.stream, finish, source.n_rows) }?;
    }
    Ok(done)
}

/// Everything but which heads the matrices of a launch are.
fn finish(ready: &Ready, op: &QkvOp, layer: Layer, rows: &QkvRows<'_>) -> Result<QkvFinish> {
    let Ready { memory, tables, .. } = ready;
    let bias = |linear: &Linear| memory.optional(linear.bias);
    let rope_table = match (&op.rope, rows.rope_table) {
        (None, _) => 0,
        (Some(_), Some(table)) => memory.region(table)?,
        (Some(_), None) => return Err(Fault::defect("RoPE without its table".into())),
    };
    Ok(QkvFinish {
        q: memory.region(rows.q)?,
        slots: tables.rows(memory, RowTable::Slots)?,
        rope_table,
        bias: [bias(&op.q)?, bias(&op.k)?, bias(&op.v)?],
        q_norm: norm_of(ready, op.q_norm.as_ref())?,
        k_norm: norm_of(ready, op.k_norm.as_ref())?,
        kv: memory.kv(layer)?,
        n_heads: op.heads.n_heads,
        rope_dim: op.rope.map_or(0, |rope| rope.dim),
        rope_pairs: match op.rope.map(|rope| rope.pairs) {
            Some(RopePairs::Adjacent) => product::RopePairs::Adjacent,
            _ => product::RopePairs::Halves,
        },
        first_head: [0; 3],
    })
}

/// For the matrices from number `first` on.
fn with_heads(finish: QkvFinish, op: &QkvOp, first: usize) -> QkvFinish {
    let (n_q, n_kv) = (op.heads.n_heads, op.heads.n_kv_heads);
    let heads = [0, n_q, n_q + n_kv];
    let mut first_head = [0; 3];
    first_head.iter_mut().zip(&heads[first..]).for_each(|(to, head)| *to = *head);
    QkvFinish { first_head, ..finish }
}
