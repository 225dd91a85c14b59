//! A projection that is added to the residual: attention's output, and the last third of the MLP.

use super::Cuda;
use super::device::Ready;
use super::fault::Result;
use super::large;
use super::products::{Input, Source, multiply, norm_of, weights_of};
use crate::area::{Area, Region};
use crate::backend::ops::{Linear, Norm, ProjectOp};
use larder_kernels::blas::{Element, Shape};
use larder_kernels::driver::DevicePtr;
use larder_kernels::format::Weights;
use larder_kernels::norm;
use larder_kernels::product::{Finish, FinishKind};

/// See [`Backend::project_residual`](crate::backend::Backend::project_residual).
pub fn project_residual(
    cuda: &mut Cuda,
    area: &mut Area,
    op: &ProjectOp,
    n_rows: usize,
    from: &Region,
    x: &mut Region,
) -> Result<()> {
    let (linear, max_rows) = (&op.weight, cuda.limits.n_rows);
    let mut input = Input::take(cuda, area, &[linear], None, max_rows)?;
    let workspace = large::workspace(cuda, area, &[linear], max_rows)?;
    let norm_after = op.norm_after.as_ref();
    let onto = Onto::take(cuda, area, linear, norm_after, op.multiplier);
    if area.is_tracing() {
        let weights = large::unplaced(cuda, linear)?;
        large::note(cuda, &weights, onto.shape(&weights, true));
    }
    if cuda.launches(area)?.is_some() {
        let weights = weights_of(cuda, linear)?;
        let ready = cuda.ready()?;
        let source = Source { x: ready.memory.region(from)?, list: 0, n_rows: n_rows as u32 };
        let rows = input.rows(ready, weights.format, &source)?;
        let part = Part { weights, rows: rows.0, n_rows: source.n_rows, is_first: true };
        onto.add(ready, x, &part, workspace.as_ref())?;
        onto.finish(ready, x, source.n_rows)?;
    }
    input.give(area);
    workspace.into_iter().for_each(|workspace| area.give(workspace));
    onto.give(area);
    Ok(())
}

/// `x += norm_after(Σ weights · rows + bias) · multiplier`, a sum over parts of the weight's columns.
pub struct Onto<'a> {
    linear: &'a Linear,
    multiplier: f32,
    /// The norm, and where the sum waits for it.
    apart: Option<(&'a Norm, Region)>,
}

/// Some columns of the weight, and the rows that they meet: few f32 rows, or act rows.
pub struct Part {
    pub weights: Weights,
    pub rows: DevicePtr,
    pub n_rows: u32,
    pub is_first: bool,
}

impl<'a> Onto<'a> {
    /// Asks for the place of a sum that is normed before it is added.
    pub fn take(
        cuda: &Cuda,
        area: &mut Area,
        linear: &'a Linear,
        norm_after: Option<&'a Norm>,
        multiplier: f32,
    ) -> Onto<'a> {
        let bytes = 4 * cuda.limits.n_rows as usize * linear.n_out as usize;
        let apart = norm_after.map(|norm| (norm, area.take("projected rows", bytes)));
        Onto { linear, multiplier, apart }
    }

    pub fn give(self, area: &mut Area) {
        self.apart.into_iter().for_each(|(_, apart)| area.give(apart));
    }

    /// What the library is asked for.
    pub fn shape(&self, weights: &Weights, is_first: bool) -> Shape {
        large::shape(weights, weights.n_out, Element::F32, self.accumulates(is_first))
    }

    fn accumulates(&self, is_first: bool) -> bool {
        self.apart.is_none() || !is_first
    }

    /// Adds one part.
    pub fn add(
        &self,
        ready: &mut Ready,
        x: &Region,
        part: &Part,
        workspace: Option<&Region>,
    ) -> Result<()> {
        let Part { weights, rows, n_rows, is_first } = *part;
        let (out, multiplier) = match &self.apart {
            Some((_, apart)) => (ready.memory.region(apart)?, 1.0),
            None => (ready.memory.region(x)?, self.multiplier),
        };
        let bias = if is_first { ready.memory.optional(self.linear.bias)? } else { 0 };
        if bias == 0 {
            let shape = self.shape(&weights, is_first);
            let operands = large::Operands { input: rows, out, n_rows, alpha: multiplier };
            if large::try_multiply(ready, &shape, &weights, &operands, workspace)? {
                return Ok(());
            }
        }
        let finish = Finish { bias, multiplier, ..Finish::to(out, weights.n_out) };
        let kind = match self.accumulates(is_first) {
            true => FinishKind::Residual(finish),
            false => FinishKind::Store(finish),
        };
        multiply(ready, &[weights], (rows, None), n_rows, &kind)
    }

    /// Norms and adds a sum that waits for that.
    pub fn finish(&self, ready: &Ready, x: &Region, n_rows: u32) -> Result<()> {
        let Some((norm, apart)) = &self.apart else {
            return Ok(());
        };
        let Ready { kernels, stream, memory, .. } = ready;
        let (norm, n) = (norm_of(ready, Some(norm))?, self.linear.n_out);
        let (from, to) = (memory.region(apart)?, memory.region(x)?);
        // SAFETY: both regions have the rows.
        Ok(unsafe {
            norm::norm_residual(kernels, stream, &norm, from, self.multiplier, to, n_rows, n)
        }?)
    }
}
