//! The rows of a batch in an order in which sequences with a common beginning are neighbours, cut into tiles.
//!
//! Sequences form a forest: they are leaves below the segments of their chains. In the order of a walk through it,
//! neighbours share at least as much as sequences farther apart. Rows of neighbours that share the first split are put
//! into one tile, which takes each split once for all rows that share it.

use super::slots::Walker;
use super::tile::{SPLIT, TileRow};
use crate::backend::ops::{BatchSequence, BatchView};
use crate::ids::{NO_SEGMENT, Segment};
use arrayvec::ArrayVec;
use std::cmp::Ordering;

/// Rows of a tile, at most.
pub const MAX_TILE_ROWS: usize = 32;

/// See the module.
pub struct Order<'a> {
    batch: &'a BatchView<'a>,
    /// By place: the sequence's number.
    sequences: &'a [u32],
    /// By place: splits, from the first on, shared with the sequence at the place before.
    n_joined: &'a [u32],
    /// By place: rows before it; and their sum.
    first_rows: &'a [u32],
    /// By tile: its first row; and the number of rows.
    tiles: &'a [u32],
}

/// u32 values of the order of a batch of `n_rows`.
pub const fn order_len(n_rows: usize) -> usize {
    4 * (n_rows + 1)
}

impl<'a> Order<'a> {
    /// Tiles of at most `tile_rows` rows, with `memory` of [`order_len`] values. The batch has at most `n_rows` rows
    /// and sequences.
    pub fn new(
        batch: &'a BatchView<'a>,
        n_rows: usize,
        tile_rows: usize,
        memory: &'a mut [u32],
    ) -> Order<'a> {
        let n = batch.sequences.len();
        let (sequences, memory) = memory.split_at_mut(n_rows + 1);
        let (n_joined, memory) = memory.split_at_mut(n_rows + 1);
        let (first_rows, tiles) = memory.split_at_mut(n_rows + 1);
        let (sequences, n_joined) = (&mut sequences[..n], &mut n_joined[..n]);
        let first_rows = &mut first_rows[..n + 1];
        sort(batch, sequences, n_joined, &mut tiles[..n]);
        let mut row = 0;
        for (first_row, &i) in first_rows.iter_mut().zip(sequences.iter()) {
            *first_row = row;
            row += batch.sequences[i as usize].n;
        }
        first_rows[n] = row;
        let n_tiles = cut(n_joined, first_rows, tile_rows, tiles);
        Order { batch, sequences, n_joined, first_rows, tiles: &tiles[..n_tiles + 1] }
    }

    pub fn n_tiles(&self) -> usize {
        self.tiles.len() - 1
    }

    /// Rows in the tiles before tile `tile`.
    pub fn first_row(&self, tile: usize) -> usize {
        self.tiles[tile] as usize
    }

    pub fn rows(&self, tile: usize) -> ArrayVec<TileRow<'a>, MAX_TILE_ROWS> {
        let rows = self.tiles[tile]..self.tiles[tile + 1];
        let mut place = self.first_rows.partition_point(|&first| first <= rows.start) - 1;
        let row = |row: u32| {
            let mut n_joined = u32::MAX;
            while row >= self.first_rows[place + 1] {
                place += 1;
                n_joined = n_joined.min(self.n_joined[place]);
            }
            let sequence = &self.batch.sequences[self.sequences[place] as usize];
            let i = row - self.first_rows[place];
            TileRow {
                row: self.batch.rows[(sequence.first + i) as usize],
                position: sequence.n_tokens - sequence.n + i,
                n_joined,
                walker: Walker::new(self.batch.segments, sequence.last_segment),
            }
        };
        rows.map(row).collect()
    }
}

/// Fills in the order of the sequences and what neighbours share; `keys` has a value for each of them.
fn sort(batch: &BatchView<'_>, order: &mut [u32], n_joined: &mut [u32], keys: &mut [u32]) {
    for (i, sequence) in batch.sequences.iter().enumerate() {
        order[i] = i as u32;
        keys[i] = first_split(batch.segments, sequence);
    }
    let fork = |a: u32, b: u32| {
        Fork::of(batch.segments, &batch.sequences[a as usize], &batch.sequences[b as usize])
    };
    let joined = |a: u32, b: u32| {
        let key = keys[a as usize];
        key != NO_SEGMENT && key == keys[b as usize]
    };
    order.sort_unstable_by(|&a, &b| {
        let of_tree = if a != b && joined(a, b) { fork(a, b).order() } else { Ordering::Equal };
        keys[a as usize].cmp(&keys[b as usize]).then(of_tree).then(a.cmp(&b))
    });
    for place in 0..order.len() {
        let pair = place.checked_sub(1).map(|before| (order[before], order[place]));
        n_joined[place] = match pair {
            Some((a, b)) if joined(a, b) => fork(a, b).n_shared() / SPLIT as u32,
            _ => 0,
        };
    }
}

/// The segment that holds the last position of the first split; sequences that have it in common share the split.
fn first_split(segments: &[Segment], sequence: &BatchSequence) -> u32 {
    if (sequence.n_tokens as usize) < SPLIT {
        return NO_SEGMENT;
    }
    let mut segment = sequence.last_segment;
    while segment != NO_SEGMENT && segments[segment as usize].first_position as usize >= SPLIT {
        segment = segments[segment as usize].parent;
    }
    segment
}

/// Where two chains part: for each the position, and the segment that begins there. A sequence that ends in the last
/// common segment has its end and no segment.
struct Fork([(u32, u32); 2]);

impl Fork {
    fn of(segments: &[Segment], a: &BatchSequence, b: &BatchSequence) -> Fork {
        let mut at = [a.last_segment, b.last_segment];
        let mut fork = [(a.n_tokens, NO_SEGMENT), (b.n_tokens, NO_SEGMENT)];
        let begin = |segment: u32| segments.get(segment as usize).map(|s| s.first_position);
        while at[0] != at[1] {
            // What begins later is not above the other.
            let later = usize::from(begin(at[1]) > begin(at[0]));
            let segment = &segments[at[later] as usize];
            fork[later] = (segment.first_position, at[later]);
            at[later] = segment.parent;
        }
        Fork(fork)
    }

    /// Positions that both have.
    fn n_shared(&self) -> u32 {
        self.0[0].0.min(self.0[1].0)
    }

    fn order(&self) -> Ordering {
        self.0[0].cmp(&self.0[1])
    }
}

/// Writes the first rows of the tiles, each of which has rows of joined sequences only, and the number of all rows.
fn cut(n_joined: &[u32], first_rows: &[u32], tile_rows: usize, tiles: &mut [u32]) -> usize {
    let (mut n_tiles, mut place) = (0, 0);
    while place < n_joined.len() {
        let begin = first_rows[place];
        place += 1;
        while n_joined.get(place).is_some_and(|&n| n > 0) {
            place += 1;
        }
        let n_rows = first_rows[place] - begin;
        let n = n_rows.div_ceil(tile_rows as u32);
        for i in 0..n {
            tiles[n_tiles] = begin + (u64::from(n_rows) * u64::from(i) / u64::from(n)) as u32;
            n_tiles += 1;
        }
    }
    tiles[n_tiles] = first_rows[n_joined.len()];
    n_tiles
}
