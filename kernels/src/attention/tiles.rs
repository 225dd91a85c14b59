//! The tiles of one shape: which prefixes are taken once for all their sequences, and what remains for each.

use super::geometry::{Geometry, MAX_PREFIXES, UNIT};
use super::tables::NONE;
use super::tree::{Leaf, Tree};

/// Some rows against some positions, in every lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    pub row: u32,
    pub n_rows: u32,
    pub node: u32,
    /// The positions; none when `begin >= end`.
    pub begin: u32,
    pub end: u32,
    pub min_position: u32,
    pub max_position: u32,
    pub role: Role,
}

/// What becomes of a tile's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The attention of its rows, alone.
    Whole,
    /// To be merged with the prefixes that its rows share with others, the innermost one first.
    Rest { prefix: u32 },
    /// Part of a shared prefix. Its partial results are known by `first_part + lane`.
    Prefix { first_part: u32 },
}

impl Tile {
    /// Units of work in one lane.
    pub fn n_units(&self) -> u32 {
        self.end.saturating_sub(self.begin).div_ceil(UNIT)
    }
}

/// A prefix that is taken once for all rows of its node.
#[derive(Debug, Clone, Copy)]
pub struct Prefix {
    /// The prefix around this one, or [`NONE`].
    pub outer: u32,
    pub first_row: u32,
    /// Rows of its tiles.
    pub tile_rows: u32,
    /// Partial results of its tile t in lane l: `first_part + t * n_lanes + l`.
    pub first_part: u32,
    end: u32,
}

/// When shared prefixes are taken once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    /// A prefix has at least that many tokens ...
    pub min_tokens: u32,
    /// ... and saves the reading of at least that many: tokens times sequences less one.
    pub min_saved_tokens: u64,
}

/// The tiles of one shape in one step, in memory that is reserved once.
#[derive(Debug)]
pub struct Tiles {
    pub narrow: Vec<Tile>,
    pub wide: Vec<Tile>,
    pub prefixes: Vec<Prefix>,
    /// Vectors of all prefixes' rows and their rests, in all lanes.
    pub shared_vectors: u64,
    /// Tiles times lanes of all prefixes.
    pub n_prefix_parts: u32,
    /// Per node: the innermost prefix that covers its beginning, or [`NONE`].
    prefix_of: Vec<u32>,
}

impl Tiles {
    pub fn new(n_narrow: usize, n_wide: usize, n_nodes: usize) -> Self {
        Self {
            narrow: Vec::with_capacity(n_narrow),
            wide: Vec::with_capacity(n_wide),
            prefixes: Vec::with_capacity(MAX_PREFIXES),
            shared_vectors: 0,
            n_prefix_parts: 0,
            prefix_of: vec![NONE; n_nodes],
        }
    }

    /// Replaces the tiles. Prefixes may take up to `max_shared_vectors`.
    pub fn build(&mut self, tree: &Tree, g: &Geometry, sharing: Sharing, max_shared_vectors: u64) {
        self.narrow.clear();
        self.wide.clear();
        self.prefixes.clear();
        (self.shared_vectors, self.n_prefix_parts) = (0, 0);
        for &node in &tree.order {
            self.visit(tree, g, sharing, max_shared_vectors, node);
        }
        for leaf in &tree.leaves {
            self.add_leaf(g, leaf);
        }
    }

    fn covered(&self, prefix: u32) -> u32 {
        if prefix == NONE { 0 } else { self.prefixes[prefix as usize].end }
    }

    /// Decides whether a node, with what is not yet taken of the nodes above it, is taken as a prefix.
    fn visit(&mut self, tree: &Tree, g: &Geometry, sharing: Sharing, max: u64, node: u32) {
        let branch = &tree.branches[node as usize];
        let outer = match branch.parent {
            NONE => NONE,
            parent => self.prefix_of[parent as usize],
        };
        self.prefix_of[node as usize] = outer;
        if branch.n_sequences < 2 || branch.n_rows < 2 || self.prefixes.len() == MAX_PREFIXES {
            return;
        }
        let begin = self.covered(outer).max(g.first_seen(branch.min_position));
        // A window may leave only some of the sequences: those that see least tell what is saved.
        let seen_by_all = begin.max(g.first_seen(branch.max_position));
        let saved = branch.end.saturating_sub(seen_by_all);
        let is_worth = saved >= sharing.min_tokens
            && u64::from(saved) * u64::from(branch.n_sequences - 1) >= sharing.min_saved_tokens;
        let row_vectors = u64::from(g.width) * u64::from(g.n_lanes);
        // One partial result of the prefix and, unless an outer prefix asks for it already, one of the rest.
        let results = if outer == NONE { 2 } else { 1 };
        let vectors = u64::from(branch.n_rows) * row_vectors * results;
        if !is_worth || self.shared_vectors + vectors > max {
            return;
        }
        self.shared_vectors += vectors;
        let tile_rows = g.tile_rows(branch.n_rows);
        self.prefix_of[node as usize] = self.prefixes.len() as u32;
        self.prefixes.push(Prefix {
            outer,
            first_row: branch.first_row,
            tile_rows,
            first_part: self.n_prefix_parts,
            end: branch.end,
        });
        for first in (0..branch.n_rows).step_by(tile_rows as usize) {
            let n_rows = tile_rows.min(branch.n_rows - first);
            let row = branch.first_row + first;
            let rows = &tree.rows[row as usize..(row + n_rows) as usize];
            let min_position = rows.iter().map(|row| row.position).min().unwrap_or(0);
            let max_position = rows.iter().map(|row| row.position).max().unwrap_or(0);
            let tile = Tile {
                row,
                n_rows,
                node,
                begin: begin.max(g.first_seen(min_position)),
                end: branch.end,
                min_position,
                max_position,
                role: Role::Prefix { first_part: self.n_prefix_parts },
            };
            self.n_prefix_parts += g.n_lanes;
            self.push(g.is_wide(branch.n_rows), tile);
        }
    }

    fn add_leaf(&mut self, g: &Geometry, leaf: &Leaf) {
        let prefix = self.prefix_of[leaf.node as usize];
        let covered = self.covered(prefix);
        let is_wide = g.is_wide(leaf.n_rows);
        let tile_rows = g.tile_rows(leaf.n_rows);
        for first in (0..leaf.n_rows).step_by(tile_rows as usize) {
            let n_rows = tile_rows.min(leaf.n_rows - first);
            let min_position = leaf.first_position + first;
            let max_position = min_position + n_rows - 1;
            let tile = Tile {
                row: leaf.first_row + first,
                n_rows,
                node: leaf.node,
                begin: covered.max(g.first_seen(min_position)),
                end: max_position + 1,
                min_position,
                max_position,
                role: if prefix == NONE { Role::Whole } else { Role::Rest { prefix } },
            };
            self.push(is_wide, tile);
        }
    }

    fn push(&mut self, is_wide: bool, tile: Tile) {
        if is_wide { self.wide.push(tile) } else { self.narrow.push(tile) }
    }
}
