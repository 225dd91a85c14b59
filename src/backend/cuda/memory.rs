//! The blocks of an engine on the device and the pinned one on the host: the one place where offsets become
//! addresses. Every access is checked against its block. Three device blocks, and one block of pinned host memory.

use super::blocks;
use super::fault::{Fault, Result};
use crate::area::Region;
use crate::backend::ops::{KvLayout, Linear, Vector};
use crate::backend::{BlockSizes, Output, PassLimits, Startup};
use crate::dtype::KvType;
use crate::ids::Layer;
use crate::options::Hooks;
use larder_kernels::driver::{Context, DeviceBlock, DevicePtr, PinnedBlock, Stream};
use larder_kernels::format::Layout;
use larder_kernels::kv::{KvKind, KvRows};
use std::ops::Range;

/// Of every region, table and part: what the widest copies and cuBLASLt like best.
pub const ALIGNMENT: u64 = 256;

/// Bytes through which weights pass, at least.
const STAGING_BYTES: u64 = 2 << 20;

/// Weights, KV repo, compute area with the tables behind it, and pinned memory.
pub struct Memory {
    weights: DeviceBlock,
    /// Its addresses are in `layers`.
    _kv_repo: DeviceBlock,
    area: DeviceBlock,
    pinned: PinnedBlock,
    /// First byte of the tables in the area's block.
    tables: u64,
    parts: PinnedParts,
    layers: Vec<KvRows>,
}

impl Memory {
    /// Takes the blocks; the token proves that this happens at create. The KV repo is zeroed on `stream`.
    pub fn take(
        _startup: Startup,
        context: &Context,
        stream: &Stream,
        sizes: &BlockSizes,
        parts: PinnedParts,
        layout: &KvLayout,
        hooks: &Hooks,
    ) -> Result<Memory> {
        if sizes.kv_repo_bytes < layout.total_bytes() || sizes.pinned_bytes < parts.bytes() {
            return Err(Fault::defect(format!("blocks of {sizes:?} are too small")));
        }
        let allocator = hooks.allocator.as_ref();
        let device = |what: &str, bytes: u64| blocks::device(context, what, bytes, allocator);
        let weights = device("the weights", sizes.weights_bytes)?;
        let kv_repo = device("the KV repo", sizes.kv_repo_bytes)?;
        let area = device("the compute area", sizes.compute_area_bytes)?;
        let pinned = blocks::pinned(context, sizes.pinned_bytes, allocator)?;
        // SAFETY: all of a block that nobody else knows yet.
        unsafe { stream.fill(kv_repo.address(), 0, kv_repo.bytes())? };
        let layers = layer_rows(kv_repo.address(), layout);
        let tables = sizes.compute_area_bytes - sizes.tables_bytes;
        Ok(Memory { weights, _kv_repo: kv_repo, area, pinned, tables, parts, layers })
    }

    /// Heap bytes beside the blocks.
    pub fn heap_bytes(layout: &KvLayout) -> u64 {
        (layout.layers.len() * size_of::<KvRows>()) as u64
    }

    /// An f32 vector of the weights.
    pub fn vector(&self, vector: Vector) -> Result<DevicePtr> {
        within(&self.weights, vector.offset, u64::from(vector.len) * 4)
    }

    /// As [`vector`](Self::vector); 0 where there is none.
    pub fn optional(&self, vector: Option<Vector>) -> Result<DevicePtr> {
        vector.map_or(Ok(0), |vector| self.vector(vector))
    }

    /// The address of a weight matrix.
    pub fn matrix(&self, linear: &Linear, layout: &Layout) -> Result<DevicePtr> {
        within(&self.weights, linear.offset, layout.bytes())
    }

    /// The address of a region of the compute area.
    pub fn region(&self, region: &Region) -> Result<DevicePtr> {
        within(&self.area, region.offset(), region.bytes())
    }

    /// The address of `bytes` bytes at `offset` of the tables.
    pub fn table(&self, offset: u64, bytes: u64) -> Result<DevicePtr> {
        within(&self.area, self.tables + offset, bytes)
    }

    /// The first `bytes` of the compute area.
    pub fn area(&self, bytes: u64) -> Result<DevicePtr> {
        within(&self.area, 0, bytes)
    }

    /// Where some matrix lies, with room for any other one.
    pub fn any_matrix(&self) -> DevicePtr {
        self.weights.address()
    }

    /// K and V of one layer.
    pub fn kv(&self, layer: Layer) -> Result<KvRows> {
        let rows = self.layers.get(layer.0 as usize);
        rows.copied().ok_or_else(|| Fault::defect(format!("no K and V of {layer:?}")))
    }

    /// What the tables are built in before they are uploaded.
    pub fn tables_image(&mut self) -> &mut [u8] {
        let range = self.parts.tables.clone();
        self.part_mut(range)
    }

    /// Where sampling is fed and read.
    pub fn sampling(&mut self) -> &mut [u8] {
        let range = self.parts.sampling.clone();
        self.part_mut(range)
    }

    /// Where weights wait for their copy; the outputs lie there later.
    pub fn staging(&mut self) -> &mut [u8] {
        let range = self.parts.logits.start..self.parts.staging_end;
        self.part_mut(range)
    }

    /// Rows that were or will be fetched.
    pub fn output(&self, output: Output) -> &[f32] {
        let bytes = self.part(self.parts.output(output));
        // SAFETY: parts are aligned, and any bytes are an f32.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 4) }
    }

    /// As [`output`](Self::output), to write.
    pub fn output_mut(&mut self, output: Output) -> &mut [f32] {
        let bytes = self.part_mut(self.parts.output(output));
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / 4) }
    }

    fn part(&self, range: Range<usize>) -> &[u8] {
        // SAFETY: parts lie inside of the block (`take`), which is initialised; the device writes there only
        // between a copy's launch and the wait behind it, while nobody borrows it.
        unsafe { std::slice::from_raw_parts(self.pinned.address().add(range.start), range.len()) }
    }

    fn part_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        // SAFETY: as in `part`, and the borrow is exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.pinned.address().add(range.start), range.len())
        }
    }
}

/// Where everything lies in the pinned block. Weights pass through the outputs' place at load.
#[derive(Debug, Clone)]
pub struct PinnedParts {
    tables: Range<usize>,
    sampling: Range<usize>,
    logits: Range<usize>,
    hidden: Range<usize>,
    staging_end: usize,
}

impl PinnedParts {
    /// Places for tables of this size and the outputs of a pass within `limits`.
    pub fn new(tables_bytes: u64, sampling_bytes: u64, limits: &PassLimits) -> PinnedParts {
        let mut end = 0;
        let mut place = |bytes: u64| {
            let start = end as usize;
            end += bytes.next_multiple_of(ALIGNMENT);
            start..start + bytes as usize
        };
        let rows = |n: u32, columns: u32| u64::from(n) * u64::from(columns) * 4;
        let tables = place(tables_bytes);
        let sampling = place(sampling_bytes);
        let logits = place(rows(limits.n_logits_rows, limits.vocab_size));
        let hidden = place(rows(limits.n_rows, limits.hidden_size));
        let staging_end = hidden.end.max(logits.start + STAGING_BYTES as usize);
        PinnedParts { tables, sampling, logits, hidden, staging_end }
    }

    /// Of the whole block.
    pub fn bytes(&self) -> u64 {
        self.staging_end as u64
    }

    fn output(&self, output: Output) -> Range<usize> {
        match output {
            Output::Logits => self.logits.clone(),
            Output::Hidden => self.hidden.clone(),
        }
    }
}

/// K and V of every layer, one behind the other.
fn layer_rows(first: DevicePtr, layout: &KvLayout) -> Vec<KvRows> {
    let (k, v) = (kind(layout.k_type), kind(layout.v_type));
    let mut base = first;
    let rows = layout.layers.iter().enumerate().map(|(layer, heads)| {
        let rows = KvRows::new(base, k, v, heads.n_kv_heads, heads.head_dim);
        base += layout.row_bytes(layer) * (layout.total_tokens + 1);
        rows
    });
    rows.collect()
}

/// The kernels' word for a K/V type.
pub fn kind(kv_type: KvType) -> KvKind {
    match kv_type {
        KvType::F32 => KvKind::F32,
        KvType::F16 => KvKind::F16,
        KvType::BF16 => KvKind::BF16,
        KvType::Int8 => KvKind::Int8,
        KvType::Fp8 => KvKind::Fp8,
    }
}

/// The address of `bytes` bytes at `offset`, checked.
fn within(block: &DeviceBlock, offset: u64, bytes: u64) -> Result<DevicePtr> {
    match offset.checked_add(bytes) {
        Some(end) if end <= block.bytes() => Ok(block.address() + offset),
        _ => Err(Fault::defect(format!(
            "{bytes} bytes at {offset} lie outside of a device block of {}",
            block.bytes()
        ))),
    }
}
