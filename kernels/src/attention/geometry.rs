//! How query vectors are packed into tiles, and what follows from it for the size of everything.
//!
//! The query heads of one KV head form a group; a row brings one vector per head of the group. Groups of more than
//! [`NARROW`] heads are cut into equal **lanes**, so that a lane is a KV head with at most that many query heads. A
//! tile is some rows of one lane: narrow tiles have up to 16 vectors (one tensor-core tile), wide ones up to 64.

use super::batch::{Limits, Shape};

/// Vectors of a narrow tile.
pub const NARROW: u32 = 16;
/// Vectors of a wide tile.
pub const WIDE: u32 = 64;
/// K and V are read in tiles of that many tokens: the unit of work.
pub const UNIT: u32 = 64;
/// Blocks of the persistent grid per multiprocessor.
pub const BLOCKS_PER_MULTIPROCESSOR: u32 = 2;
/// Query vectors per multiprocessor for whose partial results there is room.
const PARTIALS_PER_MULTIPROCESSOR: u32 = 128;
/// Shared prefixes that are taken together in one step, at most.
pub const MAX_PREFIXES: usize = 64;

/// A shape's packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Query heads of a lane.
    pub width: u32,
    /// Lanes of a KV head.
    pub lanes_per_head: u32,
    /// Lanes of all KV heads.
    pub n_lanes: u32,
    /// Rows of a narrow tile.
    pub narrow_rows: u32,
    /// Rows of a wide tile.
    pub wide_rows: u32,
    pub window: Option<u32>,
}

impl Geometry {
    pub fn of(shape: &Shape) -> Self {
        let group = (shape.n_heads / shape.n_kv_heads.max(1)).max(1);
        let lanes_per_head = group.div_ceil(NARROW);
        let width = group.div_ceil(lanes_per_head);
        Self {
            width,
            lanes_per_head,
            n_lanes: shape.n_kv_heads * lanes_per_head,
            narrow_rows: NARROW / width,
            wide_rows: WIDE / width,
            window: shape.window,
        }
    }

    /// The first position that the query at `position` sees.
    pub fn first_seen(&self, position: u32) -> u32 {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Whether that many rows of one sequence, or of one shared prefix, make wide tiles.
    pub fn is_wide(&self, n_rows: u32) -> bool {
        n_rows > self.narrow_rows
    }

    /// Rows of a tile that holds some of `n_rows`.
    pub fn tile_rows(&self, n_rows: u32) -> u32 {
        if self.is_wide(n_rows) { self.wide_rows } else { self.narrow_rows }
    }
}

/// Blocks of the persistent grid.
pub fn n_blocks(limits: &Limits) -> u32 {
    BLOCKS_PER_MULTIPROCESSOR * limits.n_multiprocessors.max(1)
}

/// Query vectors for whose partial results there is room.
pub fn n_partials(geometry: &Geometry, limits: &Limits) -> u32 {
    let n_multiprocessors = limits.n_multiprocessors.max(1);
    let vectors = limits.max_rows.saturating_mul(geometry.width);
    if vectors <= NARROW {
        // Narrow tiles only: every block has at most two that it shares with others.
        2 * n_blocks(limits) * vectors.max(1)
    } else {
        PARTIALS_PER_MULTIPROCESSOR * n_multiprocessors
    }
}

/// Most entries of each table of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub narrow_tiles: usize,
    pub wide_tiles: usize,
    /// Wide or narrow tiles of shared prefixes, in all lanes.
    pub prefix_parts: usize,
    pub narrow_items: usize,
    pub wide_items: usize,
    pub merges: usize,
    pub parts: usize,
}

impl Capacity {
    pub fn of(geometry: &Geometry, limits: &Limits) -> Self {
        let (rows, blocks) = (limits.max_rows as usize, n_blocks(limits) as usize);
        let n_sequences = rows.min(limits.max_sequences as usize);
        let n_lanes = geometry.n_lanes as usize;
        let width = geometry.width as usize;
        let n_partials = n_partials(geometry, limits) as usize;
        let (narrow_rows, wide_rows) = (geometry.narrow_rows as usize, geometry.wide_rows as usize);
        // A prefix has at least two sequences and needs room for its rows' partial results.
        let prefix_rows = n_partials / (2 * width * n_lanes).max(1);
        let prefixes = MAX_PREFIXES.min(n_sequences.saturating_sub(1)).min(prefix_rows / 2);
        let wide_prefix_tiles = prefixes + prefix_rows / wide_rows;
        let narrow_tiles = n_sequences + prefixes;
        let wide_tiles = n_sequences.min(rows / (narrow_rows + 1)) + rows / wide_rows;
        let wide_tiles = wide_tiles + wide_prefix_tiles;
        // Each partial result of a merge belongs to it alone and has at least one row's vectors.
        let merges = (n_partials / width).min(rows * n_lanes);
        Self {
            narrow_tiles,
            wide_tiles,
            prefix_parts: (prefixes + wide_prefix_tiles) * n_lanes,
            narrow_items: narrow_tiles * n_lanes + blocks,
            // Pieces are at least two thirds of a block's fair share.
            wide_items: wide_tiles * n_lanes + 2 * blocks,
            merges,
            parts: n_partials / width,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(n_heads: u32, n_kv_heads: u32) -> Geometry {
        Geometry::of(&Shape { n_heads, n_kv_heads, head_dim: 64, window: None })
    }

    #[test]
    fn every_head_is_in_one_lane() {
        for group in 1..=130 {
            let geometry = geometry(3 * group, 3);
            assert!(geometry.width <= NARROW && geometry.n_lanes == 3 * geometry.lanes_per_head);
            assert!(geometry.width * geometry.lanes_per_head >= group);
            assert!(geometry.width * (geometry.lanes_per_head - 1) < group);
            assert!(geometry.narrow_rows >= 1 && geometry.wide_rows >= 4);
        }
    }

    #[test]
    fn a_window_begins_at_zero_or_later() {
        let windowed = Geometry { window: Some(4), ..geometry(1, 1) };
        assert_eq!([0, 3, 4, 9].map(|p| windowed.first_seen(p)), [0, 0, 1, 6]);
        assert_eq!(geometry(1, 1).first_seen(9), 0);
    }
}
