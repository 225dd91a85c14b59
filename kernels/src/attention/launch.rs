//! The launches of one layer's attention.

use super::batch::{Limits, Shape};
use super::geometry::{Geometry, WIDE, n_blocks};
use super::plan::stats_bytes;
use crate::args;
use crate::driver::{DevicePtr, Launch, Result, Stream};
use crate::kv::{KvKind, KvRows};
use crate::modules::Kernels;

/// Attention of one layer over the tables of a step.
#[derive(Debug, Clone, Copy)]
pub struct Attend {
    /// f32 `[rows][n_heads * head_dim]`; the output takes its place. Rows that no sequence has become zero.
    pub q: DevicePtr,
    /// The layer's rows of the KV repo, with the shape's KV heads.
    pub kv: KvRows,
    /// Where the image of [`Planner::plan`](super::Planner::plan) was uploaded.
    pub tables: DevicePtr,
    /// The shape's number among those that the planner was made for.
    pub shape_index: u32,
    pub shape: Shape,
    /// [`partial_bytes`](super::partial_bytes) of scratch.
    pub partials: DevicePtr,
    /// Factor of q · k.
    pub scale: f32,
    /// `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// The same struct as in attend.cuh.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Parameters {
    q: DevicePtr,
    tables: DevicePtr,
    stats: DevicePtr,
    values: DevicePtr,
    kv: KvRows,
    shape_index: u32,
    n_heads: u32,
    group: u32,
    width: u32,
    lanes_per_head: u32,
    window: u32,
    n_buffers: u32,
    scale: f32,
    softcap: f32,
    unused: u32,
}

const _: () = assert!(size_of::<Parameters>() == 128);

const THREADS: u32 = 128;
/// Tokens of a tile of K or V in the kernels for f32.
const F32_TOKENS: u32 = 32;
/// Vectors that they take at a time.
const F32_VECTORS: u32 = 8;

/// Enqueues the attention of one layer. The launches depend on shape and limits only, never on the batch, so that
/// they can be captured.
///
/// # Safety
/// The addresses are device memory of the stated sizes, the tables are those of a planner with the same limits and
/// with this shape at this index, every slot in them is in the KV repo, and nothing else uses the memory at that
/// point of the stream.
pub unsafe fn attend(
    kernels: &Kernels,
    stream: &Stream,
    attend: &Attend,
    limits: &Limits,
) -> Result<()> {
    let geometry = Geometry::of(&attend.shape);
    let shape = &attend.shape;
    let (kernel, n_buffers, shared_bytes) =
        choose(&attend.kv, shape.head_dim, kernels.info().shared_bytes_per_block);
    let parameters = Parameters {
        q: attend.q,
        tables: attend.tables,
        stats: attend.partials,
        values: attend.partials + stats_bytes(shape, limits),
        kv: attend.kv,
        shape_index: attend.shape_index,
        n_heads: shape.n_heads,
        group: shape.n_heads / shape.n_kv_heads,
        width: geometry.width,
        lanes_per_head: geometry.lanes_per_head,
        window: shape.window.unwrap_or(0),
        n_buffers,
        scale: attend.scale,
        softcap: attend.softcap.unwrap_or(0.0),
        unused: 0,
    };
    let launch = Launch {
        grid: [n_blocks(limits), 1, 1],
        block: [THREADS, 1, 1],
        shared_bytes,
        dependent: true,
    };
    // SAFETY: the kernels' only parameter, and memory as the caller says.
    unsafe {
        kernels.function(kernel).launch(stream, launch, &mut args![parameters])?;
        let launch = Launch { shared_bytes: 0, ..launch };
        kernels.function("attend_merge").launch(stream, launch, &mut args![parameters])
    }
}

/// The kernel for these rows, how many buffers it has for tiles of K or V, and its shared memory.
fn choose(kv: &KvRows, head_dim: u32, max_shared: u32) -> (&'static str, u32, u32) {
    let is = |kind: KvKind| kv.k_kind == kind as u32 || kv.v_kind == kind as u32;
    if is(KvKind::F32) {
        let tile = F32_TOKENS * (head_dim + 4);
        let rest = F32_VECTORS * (head_dim + F32_TOKENS + 4) + F32_TOKENS;
        return ("attend_f32", 1, 4 * (tile + rest));
    }
    let (kernel, padded) = match head_dim {
        ..=64 => ("attend_64", 64),
        65..=128 => ("attend_128", 128),
        _ => ("attend_256", 256),
    };
    let has_scales = is(KvKind::Int8) || is(KvKind::Fp8);
    let bytes = |n_buffers: u32| {
        let tile = WIDE * padded * 2;
        let slots = SLOT_TILES * WIDE * 4 * if has_scales { 3 } else { 1 };
        tile + n_buffers * tile + slots
    };
    // Two blocks on a multiprocessor, each of which loses some to the driver, or else one.
    let fits_twice = |&n: &u32| 2 * (bytes(n) + RESERVED) <= max_shared + RESERVED;
    let fits = |&n: &u32| bytes(n) <= max_shared;
    let n = [6, 4, 2].into_iter().find(fits_twice);
    let n = n.or_else(|| [6, 4, 2].into_iter().find(fits)).unwrap_or(2);
    (kernel, n, bytes(n))
}

/// Tiles whose slots and scales are kept.
const SLOT_TILES: u32 = 4;
/// Shared memory of a block that the driver takes.
const RESERVED: u32 = 1024;
