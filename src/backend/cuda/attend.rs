//! Attention over the KV repo: the work list was planned and uploaded when the pass began.

use super::Cuda;
use super::device::Ready;
use super::fault::{Fault, Result};
use super::memory::kind;
use super::tables::attention_limits;
use crate::area::{Area, Region};
use crate::backend::ops::{AttendOp, KvLayout};
use crate::error::Error;
use crate::ids::Layer;
use larder_kernels::attention::{self, Attend, Shape};
use larder_kernels::kv::KvRows;

/// Whether there are kernels for these K and V.
pub fn check(kv: &KvLayout) -> std::result::Result<(), Error> {
    let (k, v) = (kind(kv.k_type), kind(kv.v_type));
    let refused = kv.layers.iter().find(|heads| !KvRows::is_supported(k, v, heads.head_dim));
    let multiple = k.head_dim_multiple().max(v.head_dim_multiple());
    match refused {
        None => Ok(()),
        Some(heads) => Err(Error::Unsupported(format!(
            "heads of {} elements with {:?} K and {:?} V: on CUDA devices a head is a multiple of \
             {multiple}, at most {}",
            heads.head_dim,
            kv.k_type,
            kv.v_type,
            larder_kernels::kv::MAX_HEAD_DIM
        ))),
    }
}

/// The different kinds of attention of a model's layers, and which one each layer has.
pub fn shapes(layers: &[AttendOp]) -> (Vec<Shape>, Vec<u32>) {
    let mut shapes: Vec<Shape> = Vec::new();
    let index_of = |op: &AttendOp| {
        let shape = Shape {
            n_heads: op.heads.n_heads,
            n_kv_heads: op.heads.n_kv_heads,
            head_dim: op.heads.head_dim,
            window: op.window,
        };
        let known = shapes.iter().position(|known| *known == shape);
        known.unwrap_or_else(|| {
            shapes.push(shape);
            shapes.len() - 1
        }) as u32
    };
    let of_layers = layers.iter().map(index_of).collect();
    (shapes, of_layers)
}

/// See [`Backend::attend`](crate::backend::Backend::attend).
pub fn attend(
    cuda: &mut Cuda,
    area: &mut Area,
    op: &AttendOp,
    layer: Layer,
    q: &mut Region,
) -> Result<()> {
    let index = cuda.shape_of_layer.get(layer.0 as usize).copied();
    let index = index.ok_or_else(|| Fault::defect(format!("no attention of {layer:?}")))?;
    let shape = cuda.shapes[index as usize];
    let limits = attention_limits(cuda.n_multiprocessors(), &cuda.limits);
    let bytes = attention::partial_bytes(&shape, &limits);
    let partials = area.take("partial attention", bytes as usize);
    if let Some(Ready { kernels, stream, memory, tables, .. }) = cuda.launches(area)? {
        let attend = Attend {
            q: memory.region(q)?,
            kv: memory.kv(layer)?,
            tables: tables.attention(memory)?,
            shape_index: index,
            shape,
            partials: memory.region(&partials)?,
            scale: op.scale,
            softcap: op.softcap,
        };
        // SAFETY: all addresses are regions of these sizes, and the tables are those of this pass.
        unsafe { attention::attend(kernels, stream, &attend, &limits) }?;
    }
    area.give(partials);
    Ok(())
}
