//! Large products through cuBLASLt, where the library is there: the shapes are noted while tracing and prepared at
//! create, so that a pass only looks them up.

use super::Cuda;
use super::device::Ready;
use super::fault::Result;
use super::linear::layout_of;
use super::memory::ALIGNMENT;
use super::products::{Rows, SOME_ROWS};
use crate::area::{Area, Region};
use crate::backend::ops::Linear;
use larder_kernels::blas::{self, Blas, Element, Outcome, Prepared, Shape};
use larder_kernels::driver::{Context, DevicePtr};
use larder_kernels::format::{Format, Weights};

/// What algorithms may use beside the operands. More pays little for the shapes of a chunk.
pub const WORKSPACE_BYTES: usize = 4 << 20;

/// Rows that share an algorithm in the library.
const BUCKET_ROWS: u32 = 64;

/// The library with everything that passes ask of it.
pub struct Large {
    blas: Blas,
    shapes: Vec<(Shape, Prepared)>,
}

impl Large {
    /// Opens the library and chooses the algorithms of all `shapes`. `None` where there is no library.
    pub fn open(context: &Context, shapes: &[Shape], max_rows: u32) -> Result<Option<Large>> {
        let Some(mut blas) = Blas::open(context)? else {
            return Ok(None);
        };
        let mut prepared = Vec::with_capacity(shapes.len());
        for &shape in shapes {
            prepared.push((shape, blas.prepare(shape, max_rows, WORKSPACE_BYTES as u64)?));
        }
        Ok(Some(Large { blas, shapes: prepared }))
    }
}

/// Runs every prepared product once, on whatever the blocks hold: the library loads kernels when they are first used,
/// which takes memory.
pub fn rehearse(ready: &mut Ready, max_rows: u32) -> Result<()> {
    let Ready { large: Some(Large { blas: library, shapes }), memory, stream, .. } = ready else {
        return Ok(());
    };
    for &(shape, prepared) in shapes.iter() {
        for n_rows in (SOME_ROWS..max_rows).step_by(BUCKET_ROWS as usize) {
            let n_rows = max_rows.min(n_rows + BUCKET_ROWS);
            let bytes = |columns: u32, size: u64| {
                let bytes = u64::from(n_rows) * u64::from(columns) * size;
                bytes.next_multiple_of(ALIGNMENT)
            };
            let (input_bytes, out_bytes) = (bytes(shape.input_ld, 2), bytes(shape.out_ld, 4));
            let workspace_bytes = WORKSPACE_BYTES as u64;
            let area = memory.area(input_bytes + out_bytes + workspace_bytes);
            // What is more than a pass ever has at a time is not asked for by any.
            let Ok(input) = area else { continue };
            let operands = blas::Operands {
                input,
                weights: memory.any_matrix(),
                out: input + input_bytes,
                n_rows,
                alpha: 1.0,
                workspace: input + input_bytes + out_bytes,
                workspace_bytes,
            };
            // SAFETY: input, output and workspace lie in the area, and the weights' block has room for each matrix.
            let _ = unsafe { library.matmul(stream, prepared, &operands) }?;
        }
    }
    Ok(())
}

/// Whether matrices of a format can go through the library.
pub fn is_possible(format: Format) -> bool {
    matches!(format, Format::F16 | Format::BF16)
}

/// A product whose rows are `input_ld` elements apart and whose results go to rows `out_ld` apart.
pub fn shape(weights: &Weights, out_ld: u32, out: Element, accumulate: bool) -> Shape {
    Shape {
        n_out: weights.n_out,
        n_in: weights.n_in,
        input_ld: weights.n_in,
        weight_ld: weights.row_elements,
        out_ld,
        input: element(weights.format),
        out,
        accumulate,
    }
}

/// The elements of a 16-bit format, and of the act rows that belong to it.
pub fn element(format: Format) -> Element {
    if format == Format::F16 { Element::F16 } else { Element::Bf16 }
}

/// Asks for the workspace where some of `weights` may go through the library, with up to `max_rows` rows.
pub fn workspace(
    cuda: &Cuda,
    area: &mut Area,
    weights: &[&Linear],
    max_rows: u32,
) -> Result<Option<Region>> {
    let mut wanted = false;
    for linear in weights {
        wanted |= is_possible(layout_of(cuda.plain_weights, linear)?.format());
    }
    let wanted = wanted && max_rows > SOME_ROWS && !cuda.exact;
    Ok(wanted.then(|| area.take("cuBLASLt workspace", WORKSPACE_BYTES)))
}

/// A matrix that has no place yet.
pub fn unplaced(cuda: &Cuda, linear: &Linear) -> Result<Weights> {
    Ok(layout_of(cuda.plain_weights, linear)?.weights(0))
}

/// While tracing: remembers that passes will ask for this product.
pub fn note(cuda: &mut Cuda, weights: &Weights, shape: Shape) {
    if is_possible(weights.format) && !cuda.exact && !cuda.large_shapes.contains(&shape) {
        cuda.large_shapes.push(shape);
    }
}

/// The operands of a product beside the weights.
#[derive(Debug, Clone, Copy)]
pub struct Operands {
    /// Act rows.
    pub input: DevicePtr,
    pub out: DevicePtr,
    pub n_rows: u32,
    pub alpha: f32,
}

/// Enqueues `out = alpha · rows · weightsᵀ (+ out)`, unless the rows are not many, or there is no library or no
/// algorithm: then the caller's own kernel has to.
pub fn try_multiply(
    ready: &mut Ready,
    shape: &Shape,
    weights: &Weights,
    operands: &Operands,
    workspace: Option<&Region>,
) -> Result<bool> {
    if ready.exact {
        return Ok(false);
    }
    let Operands { input, out, n_rows, alpha } = *operands;
    let Ready { large: Some(Large { blas: library, shapes }), memory, stream, .. } = ready else {
        return Ok(false);
    };
    let prepared = shapes.iter().find(|(known, _)| known == shape);
    let (Some(workspace), Some(&(_, prepared)), Rows::Many) =
        (workspace, prepared, Rows::of(n_rows))
    else {
        return Ok(false);
    };
    let operands = blas::Operands {
        input,
        weights: weights.planes[0],
        out,
        n_rows,
        alpha,
        workspace: memory.region(workspace)?,
        workspace_bytes: workspace.bytes(),
    };
    // SAFETY: all addresses are regions of these sizes.
    let outcome = unsafe { library.matmul(stream, prepared, &operands) }?;
    Ok(outcome == Outcome::Enqueued)
}
