//! The tables as the kernels read them (`cuda/attend.cuh`), and how they lie in the image.

use super::batch::{Limits, Shape};
use super::geometry::{Capacity, Geometry, n_blocks};

/// No node, no partial result.
pub const NONE: u32 = u32::MAX;

/// Why a batch has no plan: a defect of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error(
        "a batch of {n_rows} rows and {n_sequences} sequences is larger than what was planned for"
    )]
    TooLarge { n_rows: usize, n_sequences: usize },
    #[error("there is no segment {0}")]
    NoSegment(u32),
    #[error("position {position} of a sequence has no slot")]
    NoSlot { position: u32 },
    #[error("row {0} is not in the batch, or twice")]
    NoRow(u32),
    #[error("the tables need {needed} bytes, the image has {given}")]
    ImageTooSmall { needed: u64, given: usize },
    #[error("more work items than were planned for")]
    TooManyItems,
}

/// Work of one block on one tile: some rows of a lane against some positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Item {
    /// First row, in the order of the table of rows.
    pub row: u32,
    /// Number of rows in the low 8 bits, the lane above.
    pub lane_rows: u32,
    /// A node of the tree in which the last of the positions can be found.
    pub node: u32,
    /// The positions, `begin < end`.
    pub begin: u32,
    pub end: u32,
    /// First vector of the partial results, or [`NONE`]: the output is written.
    pub partial: u32,
    /// Smallest and largest position of the rows.
    pub min_position: u32,
    pub max_position: u32,
}

/// A stretch of positions and their runs of slots, in descending order; what comes before is in the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Node {
    pub first_position: u32,
    pub first_run: u32,
    pub n_runs: u32,
    pub parent: u32,
}

/// Consecutive slots of consecutive positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Run {
    pub first_position: u32,
    pub slot: u32,
}

/// A row of the batch and its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Row {
    pub row: u32,
    pub position: u32,
}

/// Rows of a lane whose output is merged from partial results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Merge {
    pub row: u32,
    /// As in [`Item`]; at most 16 vectors.
    pub lane_rows: u32,
    pub first_part: u32,
    pub n_parts: u32,
}

/// Partial results of the same vectors: at vectors `first`, `first + stride`, ..., `n` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Part {
    pub first: u32,
    pub n: u32,
    pub stride: u32,
}

/// Where a shape's tables lie, as byte offsets from the image's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Head {
    pub nodes: u32,
    pub runs: u32,
    pub rows: u32,
    pub padding: u32,
    pub n_padding: u32,
    /// u32 `[n_blocks + 1]`: the items of block b are `first[b] .. first[b + 1]`.
    pub narrow_first: u32,
    pub narrow_items: u32,
    pub wide_first: u32,
    pub wide_items: u32,
    pub merges: u32,
    pub n_merges: u32,
    pub parts: u32,
    pub unused: [u32; 4],
}

const _: () = assert!(size_of::<Item>() == 32 && size_of::<Merge>() == 16);
const _: () = assert!(size_of::<Part>() == 12 && size_of::<Head>() == 64);

/// Packs number of rows and lane.
pub fn lane_rows(lane: u32, n_rows: u32) -> u32 {
    lane << 8 | n_rows
}

const ALIGNMENT: usize = 16;

fn table_len<T>(n: usize) -> u64 {
    ((n * size_of::<T>()).next_multiple_of(ALIGNMENT)) as u64
}

/// Bytes of the image with all tables full.
pub fn table_bytes(shapes: &[Shape], limits: &Limits) -> u64 {
    let rows = limits.max_rows as usize;
    let n_nodes = 2 * rows.min(limits.max_sequences as usize);
    let common = table_len::<Node>(n_nodes)
        + table_len::<Run>(limits.total_tokens as usize)
        + table_len::<Row>(rows)
        + table_len::<u32>(rows);
    let of_shape = |shape: &Shape| {
        let capacity = Capacity::of(&Geometry::of(shape), limits);
        size_of::<Head>() as u64
            + 2 * table_len::<u32>(n_blocks(limits) as usize + 1)
            + table_len::<Item>(capacity.narrow_items)
            + table_len::<Item>(capacity.wide_items)
            + table_len::<Merge>(capacity.merges)
            + table_len::<Part>(capacity.parts)
    };
    common + shapes.iter().map(of_shape).sum::<u64>()
}

/// Puts tables into the image one behind the other.
pub struct Image<'a> {
    bytes: &'a mut [u8],
    end: usize,
}

/// Plain numbers without padding, as the device reads them.
pub trait Plain: Copy {}
impl Plain for u32 {}
impl Plain for Item {}
impl Plain for Node {}
impl Plain for Run {}
impl Plain for Row {}
impl Plain for Merge {}
impl Plain for Part {}
impl Plain for Head {}

impl<'a> Image<'a> {
    /// With room for `n_heads` heads at its beginning.
    pub fn new(bytes: &'a mut [u8], n_heads: usize) -> Self {
        Self { bytes, end: n_heads * size_of::<Head>() }
    }

    /// Appends a table; returns its offset.
    pub fn push<T: Plain>(&mut self, table: &[T]) -> Result<u32, PlanError> {
        let offset = self.end;
        self.put(offset, table)?;
        self.end = (offset + size_of_val(table)).next_multiple_of(ALIGNMENT);
        u32::try_from(offset).map_err(|_| self.too_small(u64::MAX))
    }

    /// Writes the head of shape `i`.
    pub fn set_head(&mut self, i: usize, head: Head) -> Result<(), PlanError> {
        self.put(i * size_of::<Head>(), &[head])
    }

    /// Bytes in use.
    pub fn len(&self) -> u64 {
        self.end.min(self.bytes.len()) as u64
    }

    fn put<T: Plain>(&mut self, offset: usize, table: &[T]) -> Result<(), PlanError> {
        let end = offset + size_of_val(table);
        let too_small = self.too_small(end as u64);
        let to = self.bytes.get_mut(offset..end).ok_or(too_small)?;
        // SAFETY: plain numbers without padding are readable as bytes.
        let from = unsafe { std::slice::from_raw_parts(table.as_ptr().cast::<u8>(), to.len()) };
        to.copy_from_slice(from);
        Ok(())
    }

    fn too_small(&self, needed: u64) -> PlanError {
        PlanError::ImageTooSmall { needed, given: self.bytes.len() }
    }
}
