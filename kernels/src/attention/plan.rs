//! The planner: a batch to tables.

use super::batch::{Batch, Limits, Shape};
use super::geometry::{Capacity, Geometry, n_blocks, n_partials};
use super::schedule::Schedule;
use super::tables::{Head, Image, PlanError};
use super::tiles::{Sharing, Tiles};
use super::tree::Tree;

/// Shorter prefixes are not taken together.
const MIN_SHARED_TOKENS: u32 = 128;
/// Bytes of K and V that a shared prefix must save in a layer: about 2 µs of an H100's bandwidth, the price of the
/// merge.
const MIN_SAVED_BYTES: u64 = 6 << 20;

/// What a step's tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Bytes in use at the image's beginning: all that must be uploaded.
    pub bytes: u64,
}

/// Makes the tables of each step; allocates nothing after [`Planner::new`].
#[derive(Debug)]
pub struct Planner {
    tree: Tree,
    shapes: Vec<ShapePlan>,
}

/// The plan of one shape.
#[derive(Debug)]
pub(super) struct ShapePlan {
    pub geometry: Geometry,
    pub sharing: Sharing,
    pub tiles: Tiles,
    pub schedule: Schedule,
    max_shared_vectors: u64,
}

impl Planner {
    /// For the distinct shapes of a model's layers.
    pub fn new(shapes: &[Shape], limits: &Limits) -> Self {
        let plans = shapes.iter().map(|shape| ShapePlan::new(shape, limits));
        Self { tree: Tree::new(limits), shapes: plans.collect() }
    }

    /// Bytes of the tables on the device, and of the image on the host.
    pub fn table_bytes(shapes: &[Shape], limits: &Limits) -> u64 {
        super::tables::table_bytes(shapes, limits)
    }

    /// When prefixes are taken once for all their sequences, instead of when that is thought to pay. A prefix of no
    /// tokens never is.
    pub fn set_sharing(&mut self, sharing: Sharing) {
        self.shapes.iter_mut().for_each(|shape| shape.sharing = sharing);
    }

    /// Writes the tables of `batch` to `image`, which has [`Planner::table_bytes`].
    pub fn plan(&mut self, batch: &impl Batch, image: &mut [u8]) -> Result<Planned, PlanError> {
        self.tree.build(batch)?;
        let mut image = Image::new(image, self.shapes.len());
        let tree = &self.tree;
        let common = Head {
            nodes: image.push(&tree.nodes)?,
            runs: image.push(&tree.runs)?,
            rows: image.push(&tree.rows)?,
            padding: image.push(&tree.padding)?,
            n_padding: tree.padding.len() as u32,
            ..Head::default()
        };
        for (i, shape) in self.shapes.iter_mut().enumerate() {
            shape.build(tree)?;
            let schedule = &shape.schedule;
            let head = Head {
                narrow_first: image.push(&schedule.narrow_first)?,
                narrow_items: image.push(&schedule.narrow)?,
                wide_first: image.push(&schedule.wide_first)?,
                wide_items: image.push(&schedule.wide)?,
                merges: image.push(&schedule.merges)?,
                n_merges: schedule.merges.len() as u32,
                parts: image.push(&schedule.parts)?,
                ..common
            };
            image.set_head(i, head)?;
        }
        Ok(Planned { bytes: image.len() })
    }
}

impl ShapePlan {
    fn new(shape: &Shape, limits: &Limits) -> Self {
        let geometry = Geometry::of(shape);
        let capacity = Capacity::of(&geometry, limits);
        let n_nodes = 2 * limits.max_rows.min(limits.max_sequences) as usize;
        let max_partials = n_partials(&geometry, limits);
        // K and V of a token, 16 bits each.
        let token_bytes = 4 * u64::from(shape.n_kv_heads) * u64::from(shape.head_dim);
        let min_saved_tokens = MIN_SAVED_BYTES.div_ceil(token_bytes.max(1));
        Self {
            geometry,
            sharing: Sharing { min_tokens: MIN_SHARED_TOKENS, min_saved_tokens },
            tiles: Tiles::new(capacity.narrow_tiles, capacity.wide_tiles, n_nodes),
            schedule: Schedule::new(&capacity, n_blocks(limits), max_partials),
            max_shared_vectors: u64::from(max_partials) / 2,
        }
    }

    fn build(&mut self, tree: &Tree) -> Result<(), PlanError> {
        self.tiles.build(tree, &self.geometry, self.sharing, self.max_shared_vectors);
        self.schedule.build(tree, &self.tiles, &self.geometry)
    }
}

/// Bytes of the partial results of a layer of this shape: for each vector the largest score, the sum of the
/// exponentials, and the sum of the values.
pub fn partial_bytes(shape: &Shape, limits: &Limits) -> u64 {
    let n = u64::from(n_partials(&Geometry::of(shape), limits));
    stats_bytes(shape, limits) + n * 4 * u64::from(shape.head_dim)
}

/// Bytes of the largest scores and sums, which come first.
pub(super) fn stats_bytes(shape: &Shape, limits: &Limits) -> u64 {
    let n = u64::from(n_partials(&Geometry::of(shape), limits));
    (n * 8).next_multiple_of(16)
}
