//! The final norm, the language-model head, and rows on their way to the host.

use super::Cuda;
use super::device::Ready;
use super::fault::{Fault, Result};
use super::large;
use super::products::{Input, Source, multiply, norm_of, weights_of};
use super::tables::RowTable;
use crate::area::{Area, Region};
use crate::backend::Output;
use crate::backend::ops::{HeadOp, Norm};
use larder_kernels::blas::{Element, Shape};
use larder_kernels::format::Weights;
use larder_kernels::norm;
use larder_kernels::product::{Act, Finish, FinishKind};

/// See [`Backend::final_norm`](crate::backend::Backend::final_norm).
pub fn final_norm(
    cuda: &mut Cuda,
    area: &mut Area,
    norm: &Norm,
    rows: &[u32],
    x: &mut Region,
) -> Result<()> {
    let Some(ready) = cuda.launches(area)? else {
        return Ok(());
    };
    if !rows.is_sorted_by(|a, b| a < b) {
        return Err(Fault::defect("rows of the final norm are not in ascending order".into()));
    }
    let (Norm::Rms { weight, .. } | Norm::Layer { weight, .. }) = norm;
    let norm = norm_of(ready, Some(norm))?;
    let Ready { kernels, stream, memory, tables, .. } = ready;
    let (x, n_rows, n) = (memory.region(x)?, rows.len() as u32, weight.len);
    let is_front = rows.last().is_none_or(|&last| last as usize + 1 == rows.len());
    // SAFETY: x has the rows, and those that are wanted were uploaded when the pass began.
    unsafe {
        if is_front {
            norm::norm_rows(kernels, stream, &norm, Act::F32, x, 0, x, n_rows, n)?;
        } else {
            let list = tables.rows(memory, RowTable::Wanted)?;
            norm::final_norm(kernels, stream, &norm, x, list, n_rows, n)?;
        }
    }
    Ok(())
}

/// See [`Backend::head`](crate::backend::Backend::head).
pub fn head(
    cuda: &mut Cuda,
    area: &mut Area,
    op: &HeadOp,
    rows: &[u32],
    x: &Region,
    logits: &mut Region,
) -> Result<()> {
    let max_rows = cuda.limits.n_logits_rows;
    let mut input = Input::take(cuda, area, &[&op.weight], None, max_rows)?;
    let workspace = large::workspace(cuda, area, &[&op.weight], max_rows)?;
    if area.is_tracing() {
        let weights = large::unplaced(cuda, &op.weight)?;
        large::note(cuda, &weights, shape(&weights));
    } else {
        let weights = weights_of(cuda, &op.weight)?;
        let ready = cuda.ready()?;
        let source = source(ready, rows, x, weights.n_in)?;
        launch(ready, op, &weights, &mut input, &source, logits, workspace.as_ref())?;
    }
    input.give(area);
    workspace.into_iter().for_each(|workspace| area.give(workspace));
    Ok(())
}

fn shape(weights: &Weights) -> Shape {
    large::shape(weights, weights.n_out, Element::F32, false)
}

/// The rows of `x`: one behind the other, or listed on the device.
fn source(ready: &mut Ready, rows: &[u32], x: &Region, n_in: u32) -> Result<Source> {
    let Ready { memory, tables, stream, .. } = ready;
    let (x, n_rows) = (memory.region(x)?, rows.len() as u32);
    let first = rows.first().copied().unwrap_or(0);
    let is_run = rows.iter().zip(first..).all(|(&row, expected)| row == expected);
    if is_run {
        let x = x + u64::from(first) * u64::from(n_in) * 4;
        return Ok(Source { x, list: 0, n_rows });
    }
    Ok(Source { x, list: tables.choose(memory, stream, rows)?, n_rows })
}

fn launch(
    ready: &mut Ready,
    op: &HeadOp,
    weights: &Weights,
    input: &mut Input,
    source: &Source,
    logits: &Region,
    workspace: Option<&Region>,
) -> Result<()> {
    if source.n_rows == 0 {
        return Ok(());
    }
    let out = ready.memory.region(logits)?;
    let (rows, norm) = input.rows(ready, weights.format, source)?;
    if op.softcap.is_none() {
        let n_rows = source.n_rows;
        let operands = large::Operands { input: rows, out, n_rows, alpha: op.multiplier };
        if large::try_multiply(ready, &shape(weights), weights, &operands, workspace)? {
            return Ok(());
        }
    }
    let cap = op.softcap.unwrap_or(0.0);
    let finish = Finish { multiplier: op.multiplier, cap, ..Finish::to(out, weights.n_out) };
    let kind = FinishKind::Store(finish);
    multiply(ready, std::slice::from_ref(weights), (rows, norm), source.n_rows, &kind)
}

/// See [`Backend::fetch`](crate::backend::Backend::fetch).
pub fn fetch(cuda: &mut Cuda, region: &Region, n_values: usize, output: Output) -> Result<()> {
    let Ready { memory, stream, .. } = cuda.ready()?;
    let (from, bytes) = (memory.region(region)?, 4 * n_values as u64);
    let to = memory.output_mut(output).get_mut(..n_values);
    let Some(to) = to.filter(|_| bytes <= region.bytes()) else {
        return Err(Fault::defect(format!("{n_values} values of {region:?} as {output:?}")));
    };
    if bytes > 0 {
        // SAFETY: both have that many bytes, and nobody looks there before the wait below has ended.
        unsafe { stream.copy_to_host(to.as_mut_ptr().cast(), from, bytes) }?;
    }
    Ok(stream.synchronize()?)
}
