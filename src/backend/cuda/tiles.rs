//! The MLP's tiles of columns: no tensor of rows × intermediate exists beyond one of them.

use super::Cuda;
use super::fault::Result;
use super::large::is_possible;
use super::linear::layout_of;
use super::products::{FEW_ROWS, Rows, SOME_ROWS};
use crate::backend::ops::MlpOp;
use larder_kernels::product::Act;
use std::ops::Range;

/// Columns of a tile when there are many rows.
const COLUMNS: u64 = 4096;
/// Elements that a tile may always have.
const LEAST_ELEMENTS: u64 = 1 << 20;
/// Columns are cut at multiples of this: every format's step divides it.
const STEP: u64 = 256;

/// How an operation is cut, for every number of rows, and the room that its widest tile takes.
#[derive(Debug, Clone, Copy)]
pub struct Tiles {
    n_columns: u64,
    columns_of_some: u64,
    columns_of_many: u64,
    pub bytes: u64,
}

/// How gate and up meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gating {
    /// One product computes both, or the library each of them, as act rows.
    Together,
    /// They have different formats: f32 rows of each, then the gate, then the conversion.
    Apart,
}

impl Tiles {
    pub fn of(cuda: &Cuda, op: &MlpOp) -> Result<(Tiles, Gating)> {
        let format = |linear| layout_of(cuda.plain_weights, linear).map(|layout| layout.format());
        let (gate, up, down) = (format(&op.gate)?, format(&op.up)?, format(&op.down)?);
        let gating = if gate == up { Gating::Together } else { Gating::Apart };
        let act = if cuda.exact { 4 } else { Act::of(down).bytes() as u64 };
        let [few, some, many] = match gating {
            Gating::Together if is_possible(gate) && !cuda.exact => [4, 4, 2 * act],
            Gating::Together => [4, 4, act],
            Gating::Apart => [8, 8, 8 + act],
        };
        let max_rows = u64::from(cuda.limits.n_rows);
        Ok((Tiles::new(max_rows, u64::from(op.gate.n_out), [few, some, many]), gating))
    }

    /// `element_bytes`: of few, some and many rows.
    fn new(max_rows: u64, n_columns: u64, element_bytes: [u64; 3]) -> Tiles {
        let some_rows = max_rows.min(u64::from(SOME_ROWS)).max(1);
        let elements = LEAST_ELEMENTS.max(COLUMNS * max_rows);
        let columns_of_some = even(n_columns, elements / some_rows);
        let columns_of_many = even(n_columns, COLUMNS);
        let [few, some, many] = element_bytes;
        let bytes = (max_rows.min(u64::from(FEW_ROWS)) * columns_of_some * few)
            .max(some_rows * columns_of_some * some)
            .max(if max_rows > some_rows { max_rows * columns_of_many * many } else { 0 });
        Tiles { n_columns, columns_of_some, columns_of_many, bytes }
    }

    /// The tiles for `n_rows`.
    pub fn for_rows(self, n_rows: u32) -> impl Iterator<Item = Range<u32>> {
        let columns = match Rows::of(n_rows) {
            Rows::Few | Rows::Some => self.columns_of_some,
            Rows::Many => self.columns_of_many,
        };
        let end = self.n_columns;
        (0..end)
            .step_by(columns.max(1) as usize)
            .map(move |first| first as u32..end.min(first + columns) as u32)
    }
}

/// The widest tile of at most about `most` columns such that all have about as many.
fn even(n_columns: u64, most: u64) -> u64 {
    let n_tiles = n_columns.div_ceil(most.max(STEP)).max(1);
    n_columns.div_ceil(n_tiles).next_multiple_of(STEP).min(n_columns.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_all_columns_and_fit() {
        for max_rows in [1, 3, 64, 65, 512, 4096] {
            for n_columns in [1, 255, 256, 257, 4096, 4097, 14336, 200_000] {
                let tiles = Tiles::new(max_rows, n_columns, [4, 4, 4]);
                for n_rows in [1, 4, 5, 64, 65, 512, 4096].into_iter().filter(|&n| n <= max_rows) {
                    let mut end = 0;
                    for tile in tiles.for_rows(n_rows as u32) {
                        assert_eq!(tile.start, end);
                        assert!(tile.start.is_multiple_of(STEP as u32) && !tile.is_empty());
                        assert!(n_rows * tile.len() as u64 * 4 <= tiles.bytes);
                        end = tile.end;
                    }
                    assert_eq!(u64::from(end), n_columns);
                }
            }
        }
    }

    #[test]
    fn a_chunk_of_an_8b_model_has_narrow_tiles_and_a_decode_step_one() {
        let tiles = Tiles::new(512, 14336, [4, 4, 4]);
        assert_eq!(tiles.for_rows(512).collect::<Vec<_>>().len(), 4);
        assert_eq!(tiles.for_rows(64).next(), Some(0..14336));
        assert!(tiles.bytes <= 8 << 20);
    }
}
