//! The three blocks of an engine as slices: the one place where offsets become addresses. Every access is checked
//! against its block.

use super::blocks::pack::packed_bytes;
use crate::area::Region;
use crate::backend::block::Block;
use crate::backend::ops::{Heads, KvLayout, Linear, Vector};
use crate::backend::{BlockSizes, Startup};
use crate::error::{Error, Result};
use crate::ids::Layer;
use crate::options::Hooks;
use std::marker::PhantomData;

/// Weights, KV repo and compute area.
#[derive(Debug)]
pub struct Memory {
    weights: Block,
    kv_repo: Block,
    area: Block,
    /// First byte of each layer in the KV repo.
    layers: Vec<u64>,
    layout: KvLayout,
}

impl Memory {
    /// Takes the blocks; the token proves that this happens at create.
    pub fn take(
        _startup: Startup,
        sizes: BlockSizes,
        layout: &KvLayout,
        hooks: &Hooks,
    ) -> Result<Memory> {
        if sizes.kv_repo_bytes < layout.total_bytes() {
            return Err(Error::Internal(format!(
                "the KV repo is given {} bytes, its layout needs {}",
                sizes.kv_repo_bytes,
                layout.total_bytes()
            )));
        }
        if layout.layers.iter().any(|heads| heads.head_dim % 2 != 0) {
            return Err(Error::Unsupported("an odd head size".into()));
        }
        let allocator = hooks.allocator.as_ref();
        let mut layers = Vec::with_capacity(layout.layers.len());
        let mut first = 0;
        for layer in 0..layout.layers.len() {
            layers.push(first);
            first += layout.row_bytes(layer) * (layout.total_tokens + 1);
        }
        Ok(Memory {
            weights: Block::new("the weights", sizes.weights_bytes, allocator)?,
            kv_repo: Block::new("the KV repo", sizes.kv_repo_bytes, allocator)?,
            area: Block::new("the compute area", sizes.compute_area_bytes, allocator)?,
            layers,
            layout: layout.clone(),
        })
    }

    /// Heap bytes beside the blocks.
    pub fn heap_bytes(layout: &KvLayout) -> u64 {
        (layout.layers.len() * (size_of::<u64>() + size_of::<Heads>())) as u64
    }

    /// An f32 vector of the weights.
    pub fn vector(&self, vector: Vector) -> &[f32] {
        let at = within::<f32>(&self.weights, vector.offset, u64::from(vector.len) * 4);
        // SAFETY: checked and aligned; the weights change only through `&mut self`, and any bytes are an f32.
        unsafe { std::slice::from_raw_parts(at, vector.len as usize) }
    }

    /// To write a vector.
    pub fn vector_mut(&mut self, vector: Vector) -> &mut [f32] {
        let at = within::<f32>(&self.weights, vector.offset, u64::from(vector.len) * 4);
        // SAFETY: as in `vector`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(at, vector.len as usize) }
    }

    /// A packed weight matrix.
    pub fn linear(&self, linear: &Linear) -> &[u8] {
        let bytes = linear_bytes(linear);
        let at = within::<u8>(&self.weights, linear.offset, bytes);
        // SAFETY: checked; the weights change only through `&mut self`.
        unsafe { std::slice::from_raw_parts(at, bytes as usize) }
    }

    /// To write a weight matrix.
    pub fn linear_mut(&mut self, linear: &Linear) -> &mut [u8] {
        let bytes = linear_bytes(linear);
        let at = within::<u8>(&self.weights, linear.offset, bytes);
        // SAFETY: checked, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(at, bytes as usize) }
    }

    /// A region of the compute area as values of `T`, which may hold whatever the last user left.
    pub fn region<T: Plain>(&self, region: &Region) -> &[T] {
        let at = within::<T>(&self.area, region.offset(), region.bytes());
        // SAFETY: checked and aligned; a live region overlaps no other (the plan), and while this one is borrowed
        // shared, nobody has it exclusively.
        unsafe { std::slice::from_raw_parts(at, region.bytes() as usize / size_of::<T>()) }
    }

    /// As [`region`](Self::region), to write.
    pub fn region_mut<'r, T: Plain>(&self, region: &'r mut Region) -> &'r mut [T] {
        let at = within::<T>(&self.area, region.offset(), region.bytes());
        // SAFETY: as in `region`; the region, which cannot be copied, is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(at, region.bytes() as usize / size_of::<T>()) }
    }

    /// A region for the host, which has all memory to itself meanwhile.
    pub fn lend<T: Plain>(&mut self, region: &Region) -> &mut [T] {
        let at = within::<T>(&self.area, region.offset(), region.bytes());
        // SAFETY: checked and aligned, and the borrow of all memory is exclusive.
        unsafe { std::slice::from_raw_parts_mut(at, region.bytes() as usize / size_of::<T>()) }
    }

    /// K and V of one layer.
    pub fn kv(&self, layer: Layer) -> KvView<'_> {
        let i = layer.0 as usize;
        let (heads, n_slots) = (self.layout.layers[i], self.layout.total_tokens + 1);
        let row_bytes = self.layout.row_bytes(i);
        KvView {
            base: within::<u8>(&self.kv_repo, self.layers[i], row_bytes * n_slots),
            n_slots: n_slots as usize,
            row_bytes: row_bytes as usize,
            k_bytes: self.layout.k_bytes(i) as usize,
            n_kv_heads: heads.n_kv_heads as usize,
            head_dim: heads.head_dim as usize,
            layout: &self.layout,
        }
    }
}

/// Types for which every bit pattern is a value.
pub trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u32 {}
impl Plain for f32 {}

/// Bytes of a packed matrix.
fn linear_bytes(linear: &Linear) -> u64 {
    packed_bytes(linear.dtype, u64::from(linear.n_out), u64::from(linear.n_in))
        .unwrap_or_else(|| panic!("{linear:?} has no whole rows"))
}

/// The address of `bytes` bytes at `offset`, checked and aligned for `T`.
fn within<T>(block: &Block, offset: u64, bytes: u64) -> *mut T {
    let end = offset.checked_add(bytes);
    assert!(
        end.is_some_and(|end| end <= block.bytes() as u64),
        "{bytes} bytes at {offset} lie outside of a block of {}",
        block.bytes()
    );
    // SAFETY: at most one past the end of the block, by the check.
    let at = unsafe { block.address().as_ptr().add(offset as usize) }.cast::<T>();
    assert!(at.is_aligned(), "offset {offset} is not aligned to {}", align_of::<T>());
    at
}

/// One layer of the KV repo. Who writes a slot has it to itself; that is for the caller to see to.
#[derive(Clone, Copy)]
pub struct KvView<'a> {
    base: *mut u8,
    pub n_slots: usize,
    pub row_bytes: usize,
    k_bytes: usize,
    n_kv_heads: usize,
    head_dim: usize,
    pub layout: &'a KvLayout,
}

// SAFETY: an address with sizes; reads and writes through it are unsafe and keep the rules there.
unsafe impl Send for KvView<'_> {}
// SAFETY: as above.
unsafe impl Sync for KvView<'_> {}

impl KvView<'_> {
    /// K of a head in slot 0; slot `s` is `s * row_bytes` further. Valid for slots below `n_slots`.
    pub fn k(&self, head: usize) -> *mut u8 {
        assert!(head < self.n_kv_heads);
        // SAFETY: inside the first row.
        unsafe { self.base.add(head * self.head_dim * self.layout.k_type.bytes()) }
    }

    /// V of a head in slot 0.
    pub fn v(&self, head: usize) -> *mut u8 {
        assert!(head < self.n_kv_heads);
        let offset = self.k_bytes + head * self.head_dim * self.layout.v_type.bytes();
        // SAFETY: inside the first row.
        unsafe { self.base.add(offset) }
    }
}

/// A slice that several tasks write, each its own part.
#[derive(Clone, Copy)]
pub struct Parts<'a, T> {
    at: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by an unsafe function whose callers keep them disjoint.
unsafe impl<T: Send> Send for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Parts<'a, T> {
        Parts { at: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// `n` elements from `first` on.
    ///
    /// # Safety
    /// While the result lives, nobody else has a part that overlaps it.
    #[allow(clippy::mut_from_ref, reason = "that is what the contract is about")]
    pub unsafe fn part(&self, first: usize, n: usize) -> &'a mut [T] {
        assert!(first <= self.len && n <= self.len - first, "{n} elements at {first}");
        // SAFETY: inside the slice, and disjoint by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(first), n) }
    }

    /// The address of element `first`, for kernels that write with a stride.
    pub fn address(&self, first: usize) -> *mut T {
        assert!(first <= self.len);
        // SAFETY: at most one past the end.
        unsafe { self.at.add(first) }
    }

    pub fn len(&self) -> usize {
        self.len
    }
}
