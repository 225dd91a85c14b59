//! Tiles to work items: who does what, and where partial results go.
//!
//! Wide tiles that are long beside a block's fair share are cut into equal pieces, and each goes to the block that has
//! least so far, the longest first. Narrow tiles then fill all blocks to the same level: laid one behind the other
//! they are cut where a block is full, so that a block shares at most two tiles with others.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::geometry::{Capacity, Geometry, UNIT};
use super::tables::{Item, Merge, NONE, Part, PlanError, lane_rows};
use super::tiles::{Role, Tile, Tiles};
use super::tree::Tree;

/// Work that an item brings besides its units, in units: its start and its end.
const ITEM_COST: u64 = 1;
/// No block is given less than that, so that little work is not cut into dust.
const MIN_SHARE: u64 = 3;

/// The items of one shape in one step, in memory that is reserved once.
#[derive(Debug)]
pub struct Schedule {
    /// By block.
    pub narrow: Vec<Item>,
    /// Where each block's begin, and the end.
    pub narrow_first: Vec<u32>,
    pub wide: Vec<Item>,
    pub wide_first: Vec<u32>,
    pub merges: Vec<Merge>,
    pub parts: Vec<Part>,
    /// Vectors of partial results in use.
    pub n_partials: u32,
    max_partials: u32,
    /// Vectors that prefixes and what is merged with them still need.
    n_reserved: u64,
    /// Partial results of the prefixes' tiles.
    prefix_parts: Vec<Part>,
    /// Items as they are made, with their block.
    made: Vec<(u32, Item)>,
    loads: Vec<u64>,
    heap: BinaryHeap<Reverse<(u64, u32)>>,
}

impl Schedule {
    pub fn new(capacity: &Capacity, n_blocks: u32, max_partials: u32) -> Self {
        let n_blocks = n_blocks as usize;
        Self {
            narrow: Vec::with_capacity(capacity.narrow_items),
            narrow_first: Vec::with_capacity(n_blocks + 1),
            wide: Vec::with_capacity(capacity.wide_items),
            wide_first: Vec::with_capacity(n_blocks + 1),
            merges: Vec::with_capacity(capacity.merges),
            parts: Vec::with_capacity(capacity.parts),
            n_partials: 0,
            max_partials,
            n_reserved: 0,
            prefix_parts: Vec::with_capacity(capacity.prefix_parts),
            made: Vec::with_capacity(capacity.wide_items),
            loads: vec![0; n_blocks],
            heap: BinaryHeap::with_capacity(n_blocks),
        }
    }

    /// Replaces the items by those of `tiles`.
    pub fn build(&mut self, tree: &Tree, tiles: &Tiles, g: &Geometry) -> Result<(), PlanError> {
        self.narrow.clear();
        self.narrow_first.clear();
        self.wide.clear();
        self.wide_first.clear();
        self.merges.clear();
        self.parts.clear();
        self.made.clear();
        self.prefix_parts.clear();
        self.prefix_parts.resize(tiles.n_prefix_parts as usize, Part::default());
        self.loads.fill(0);
        self.n_partials = 0;
        self.n_reserved = tiles.shared_vectors;
        let fits = self.narrow.capacity()
            >= tiles.narrow.len() * g.n_lanes as usize + self.loads.len()
            && self.wide.capacity() >= tiles.wide.len() * g.n_lanes as usize + self.loads.len();
        if !fits {
            return Err(PlanError::TooManyItems);
        }
        self.add_wide(tree, tiles, g)?;
        self.add_narrow(tree, tiles, g)
    }

    fn share(&self, work: u64) -> u64 {
        work.div_ceil(self.loads.len() as u64).max(MIN_SHARE)
    }

    // ---- wide tiles -------------------------------------------------------------------------------------------------

    fn add_wide(&mut self, tree: &Tree, tiles: &Tiles, g: &Geometry) -> Result<(), PlanError> {
        if !tiles.wide.is_empty() {
            let piece = self.piece_units(tiles, g);
            for tile in &tiles.wide {
                for lane in 0..g.n_lanes {
                    self.cut_wide(tree, tiles, g, tile, lane, piece)?;
                }
            }
            self.assign_wide();
        }
        let n_blocks = self.loads.len() as u32;
        let mut i = 0;
        for block in 0..n_blocks {
            self.wide_first.push(i as u32);
            while self.made.get(i).is_some_and(|made| made.0 == block) {
                self.wide.push(self.made[i].1);
                i += 1;
            }
        }
        self.wide_first.push(i as u32);
        Ok(())
    }

    /// The length, in units, above which wide tiles are cut: a fair share, or more where the partial results would
    /// not have room.
    fn piece_units(&self, tiles: &Tiles, g: &Geometry) -> u64 {
        let lanes = u64::from(g.n_lanes);
        let work_of = |tiles: &[Tile]| -> u64 {
            tiles.iter().map(|tile| u64::from(tile.n_units()) + ITEM_COST).sum::<u64>() * lanes
        };
        let share = self.share(work_of(&tiles.wide) + work_of(&tiles.narrow));
        let n_blocks = self.loads.len() as u64;
        let narrow_rows = tiles.narrow.iter().map(|tile| tile.n_rows).max().unwrap_or(0);
        let for_narrow = 2 * n_blocks * u64::from(narrow_rows * g.width);
        let room = u64::from(self.max_partials).saturating_sub(tiles.shared_vectors + for_narrow);
        let mut piece = share.saturating_sub(ITEM_COST).max(1);
        let longest = tiles.wide.iter().map(Tile::n_units).max().unwrap_or(0);
        while piece < u64::from(longest) {
            let needed = |tile: &Tile| match n_pieces(tile, piece) {
                0 | 1 => 0,
                n => n * u64::from(tile.n_rows * g.width),
            };
            if tiles.wide.iter().map(needed).sum::<u64>() * lanes <= room {
                return piece;
            }
            piece += piece.div_ceil(2);
        }
        u64::from(longest)
    }

    fn cut_wide(
        &mut self,
        tree: &Tree,
        tiles: &Tiles,
        g: &Geometry,
        tile: &Tile,
        lane: u32,
        piece: u64,
    ) -> Result<(), PlanError> {
        let n = n_pieces(tile, piece);
        let stride = tile.n_rows * g.width;
        let is_partial = n > 1 || tile.role != Role::Whole;
        let mut part = Part { first: self.n_partials, n: 0, stride };
        let units = u64::from(tile.n_units());
        self.unreserve(tile, stride);
        if self.made.len() + n as usize > self.made.capacity() {
            return Err(PlanError::TooManyItems);
        }
        for i in 0..n {
            let from = tile.begin + (units * i / n) as u32 * UNIT;
            let to = tile.begin + (units * (i + 1) / n) as u32 * UNIT;
            let partial = if is_partial { self.take_partial(&mut part)? } else { NONE };
            self.made.push((0, item(tile, lane, from, to.min(tile.end), partial)));
        }
        if is_partial {
            self.finish_tile(tree, tiles, g, tile, lane, part)?;
        }
        Ok(())
    }

    /// Gives each item to the block that has least so far, the longest first; leaves them sorted by block.
    fn assign_wide(&mut self) {
        let units = |item: &Item| (item.end - item.begin).div_ceil(UNIT);
        self.made.sort_unstable_by_key(|(_, item)| {
            (Reverse(units(item)), item.row, item.lane_rows, item.begin)
        });
        self.heap.clear();
        self.heap.extend((0..self.loads.len() as u32).map(|block| Reverse((0, block))));
        for (block, item) in &mut self.made {
            if let Some(mut least) = self.heap.peek_mut() {
                *block = least.0.1;
                least.0.0 += u64::from(units(item)) + ITEM_COST;
                self.loads[*block as usize] = least.0.0;
            }
        }
        self.made
            .sort_unstable_by_key(|(block, item)| (*block, item.row, item.lane_rows, item.begin));
    }

    // ---- narrow tiles -----------------------------------------------------------------------------------------------

    fn add_narrow(&mut self, tree: &Tree, tiles: &Tiles, g: &Geometry) -> Result<(), PlanError> {
        let cost_of = |tile: &Tile| match tile.n_units() {
            0 => 0,
            n => u64::from(n) + ITEM_COST,
        };
        let narrow = tiles.narrow.iter().map(cost_of).sum::<u64>() * u64::from(g.n_lanes);
        let level = self.share(narrow + self.loads.iter().sum::<u64>());
        let mut filler = Filler { block: 0, free: 0, level, slack: (level / 16).max(1) };
        filler.free = level.saturating_sub(self.loads[0]) as i64;
        self.narrow_first.push(0);
        for tile in &tiles.narrow {
            for lane in 0..g.n_lanes {
                self.fill(tree, tiles, g, tile, lane, &mut filler)?;
            }
        }
        while self.narrow_first.len() <= self.loads.len() {
            self.narrow_first.push(self.narrow.len() as u32);
        }
        Ok(())
    }

    /// Puts a tile where there is room, and what does not fit into the next blocks.
    fn fill(
        &mut self,
        tree: &Tree,
        tiles: &Tiles,
        g: &Geometry,
        tile: &Tile,
        lane: u32,
        filler: &mut Filler,
    ) -> Result<(), PlanError> {
        let vectors = tile.n_rows * g.width;
        let mut is_partial = tile.role != Role::Whole;
        let mut part = Part { first: self.n_partials, n: 0, stride: vectors };
        let mut begin = tile.begin;
        self.unreserve(tile, vectors);
        while begin < tile.end {
            let rest = u64::from((tile.end - begin).div_ceil(UNIT));
            let may_cut = u64::from(self.n_partials) + self.n_reserved + u64::from(2 * vectors)
                <= u64::from(self.max_partials);
            let end = match filler.take(rest, may_cut, self.loads.len()) {
                0 => {
                    filler.next_block(&self.loads);
                    self.narrow_first.push(self.narrow.len() as u32);
                    continue;
                }
                units if units == rest => tile.end,
                units => begin + units as u32 * UNIT,
            };
            is_partial |= end < tile.end;
            let partial = if is_partial { self.take_partial(&mut part)? } else { NONE };
            self.narrow.push(item(tile, lane, begin, end, partial));
            begin = end;
        }
        if is_partial {
            self.finish_tile(tree, tiles, g, tile, lane, part)?;
        }
        Ok(())
    }

    // ---- partial results --------------------------------------------------------------------------------------------

    /// A tile that needs room in any case is about to take it.
    fn unreserve(&mut self, tile: &Tile, vectors: u32) {
        if tile.role != Role::Whole {
            self.n_reserved = self.n_reserved.saturating_sub(u64::from(vectors));
        }
    }

    fn take_partial(&mut self, part: &mut Part) -> Result<u32, PlanError> {
        let first = self.n_partials;
        part.n += 1;
        self.n_partials += part.stride;
        if self.n_partials > self.max_partials { Err(PlanError::TooManyItems) } else { Ok(first) }
    }

    /// Notes how a tile's partial results are merged, or for a prefix where they are.
    fn finish_tile(
        &mut self,
        tree: &Tree,
        tiles: &Tiles,
        g: &Geometry,
        tile: &Tile,
        lane: u32,
        part: Part,
    ) -> Result<(), PlanError> {
        let mut prefix = match tile.role {
            Role::Prefix { first_part } => {
                self.prefix_parts[(first_part + lane) as usize] = part;
                return Ok(());
            }
            Role::Whole => NONE,
            Role::Rest { prefix } => prefix,
        };
        debug_assert!((tile.row + tile.n_rows) as usize <= tree.rows.len());
        let innermost = prefix;
        let (mut row, end) = (tile.row, tile.row + tile.n_rows);
        while row < end {
            let first_part = self.parts.len() as u32;
            let mut next = end.min(row + g.narrow_rows);
            let add = |parts: &mut Vec<Part>, part: &Part, from: u32| {
                if parts.len() == parts.capacity() {
                    return Err(PlanError::TooManyItems);
                }
                parts.push(Part { first: part.first + (row - from) * g.width, ..*part });
                Ok(())
            };
            if part.n > 0 {
                add(&mut self.parts, &part, tile.row)?;
            }
            prefix = innermost;
            while prefix != NONE {
                let shared = &tiles.prefixes[prefix as usize];
                let number = (row - shared.first_row) / shared.tile_rows;
                let from = shared.first_row + number * shared.tile_rows;
                next = next.min(from + shared.tile_rows);
                let index = shared.first_part + number * g.n_lanes + lane;
                let part = self.prefix_parts[index as usize];
                if part.n > 0 {
                    add(&mut self.parts, &part, from)?;
                }
                prefix = shared.outer;
            }
            if self.merges.len() == self.merges.capacity() {
                return Err(PlanError::TooManyItems);
            }
            let n_parts = self.parts.len() as u32 - first_part;
            let lane_rows = lane_rows(lane, next - row);
            self.merges.push(Merge { row, lane_rows, first_part, n_parts });
            row = next;
        }
        Ok(())
    }
}

fn n_pieces(tile: &Tile, piece: u64) -> u64 {
    u64::from(tile.n_units()).div_ceil(piece.max(1))
}

fn item(tile: &Tile, lane: u32, begin: u32, end: u32, partial: u32) -> Item {
    Item {
        row: tile.row,
        lane_rows: lane_rows(lane, tile.n_rows),
        node: tile.node,
        begin,
        end,
        partial,
        min_position: tile.min_position,
        max_position: tile.max_position,
    }
}

/// Fills block after block up to a level.
struct Filler {
    block: usize,
    /// What the block may still take; below 0 when it has taken more, which the next one makes up for.
    free: i64,
    level: u64,
    /// A block may have that much more or less, where that saves a cut.
    slack: u64,
}

impl Filler {
    /// How many of the `rest` units of a tile the block takes; 0: it is full.
    fn take(&mut self, rest: u64, may_cut: bool, n_blocks: usize) -> u64 {
        let is_last = self.block + 1 == n_blocks;
        let (free, slack) = (self.free - ITEM_COST as i64, self.slack as i64);
        let taken = if is_last || free + slack >= rest as i64 {
            rest
        } else if free <= slack {
            return 0;
        } else if may_cut {
            free as u64
        } else {
            rest
        };
        self.free -= (taken + ITEM_COST) as i64;
        taken
    }

    fn next_block(&mut self, loads: &[u64]) {
        self.block += 1;
        self.free = self.free.min(self.level as i64) + self.level as i64 - loads[self.block] as i64;
    }
}
