//! How weights lie in memory: tiles of 16 rows, packed at load.
//!
//! A block's bytes are cut into **pieces** of 1, 2 or 4 bytes, and the same piece of a tile's 16 rows lies side by
//! side: the piece at byte `o` of row r's block, `s` bytes long, is at byte `16 · o + s · r` of the tile's block. So
//! a tile is one stream from its first weight to its last, of as many bytes as its rows have in the file; numbers
//! of 16 bits come as a vector, words as a vector of [`Words`](super::words::Words), and f32, f16 and bf16 weights
//! with one row in a lane. bf16 is cut into pairs, which are words.
//!
//! Two things take more room than in the file: a matrix is filled up to whole tiles with zeros, and bf16 rows to
//! whole pairs.

use super::with_format;
use crate::dtype::DType;
use std::ops::Range;

/// Weight rows of a tile.
pub const TILE: usize = 16;

/// How a type's blocks are cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Weights of a block.
    pub len: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Bytes of a piece and the number of such pieces, in the block's order.
    pieces: &'static [(usize, usize)],
    /// Where a word with one bit of each of 32 weights lies: bit 4g + j moves to bit g of byte j.
    bits_at: Option<usize>,
}

impl Cut {
    pub fn of(dtype: DType) -> Cut {
        let plain = |len, bytes, pieces| Cut { len, bytes, pieces, bits_at: None };
        with_format!(dtype, F => Cut {
            len: F::LEN,
            bytes: F::BYTES,
            pieces: F::PIECES,
            bits_at: F::BITS_AT,
        }, else match dtype {
            DType::BF16 => plain(2, 4, &[(4, 1)]),
            DType::F16 => plain(1, 2, &[(2, 1)]),
            _ => plain(1, 4, &[(4, 1)]),
        })
    }

    /// Bytes of a tile of rows of `n_in` weights.
    pub const fn tile_bytes(&self, n_in: usize) -> usize {
        TILE * self.bytes * n_in.div_ceil(self.len)
    }
}

/// Bytes of a packed matrix; `None` when rows of `n_in` are no whole blocks or it overflows.
pub fn packed_bytes(dtype: DType, n_out: u64, n_in: u64) -> Option<u64> {
    dtype.row_bytes(n_in)?;
    let cut = Cut::of(dtype);
    let row = n_in.div_ceil(cut.len as u64).checked_mul(cut.bytes as u64)?;
    n_out.checked_next_multiple_of(TILE as u64)?.checked_mul(row)
}

/// Bytes of plain rows that are packed one row after the other, so that the tile's part stays in the cache.
const PLAIN_BYTES: usize = 1024;

/// Packs rows as in the file into `rows` of a tile of `n_in` weights a row.
pub fn pack(dtype: DType, n_in: usize, file: &[u8], tile: &mut [u8], rows: Range<usize>) {
    let cut = Cut::of(dtype);
    let row_bytes = (file.len() / rows.len().max(1)).max(1);
    debug_assert!(tile.len() == cut.tile_bytes(n_in));
    let step = if dtype.is_quantised() { cut.bytes } else { PLAIN_BYTES };
    for (i, to) in tile.chunks_mut(TILE * step).enumerate() {
        for (row, r) in file.chunks_exact(row_bytes).zip(rows.clone()) {
            let from = &row[i * step..row_bytes.min((i + 1) * step)];
            if !dtype.is_quantised() {
                spread(cut.bytes, from, to, r);
                continue;
            }
            let mut at = 0;
            for &(bytes, n) in cut.pieces {
                let end = at + bytes * n;
                spread(bytes, &from[at..end], &mut to[TILE * at..TILE * end], r);
                at = end;
            }
            if let Some(at) = cut.bits_at {
                let word = &mut to[TILE * at + 4 * r..][..4];
                let bits = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                word.copy_from_slice(&[0, 1, 2, 3].map(|j| every_fourth(bits >> j)));
            }
        }
    }
}

/// Blocks `first ..` of row `r` of a tile as in the file, as many as `row` has room for.
pub fn unpack(dtype: DType, tile: &[u8], r: usize, first: usize, row: &mut [u8]) {
    let cut = Cut::of(dtype);
    let tile = &tile[TILE * cut.bytes * first..];
    if !dtype.is_quantised() {
        return collect(cut.bytes, tile, row, r);
    }
    for (from, to) in tile.chunks_exact(TILE * cut.bytes).zip(row.chunks_exact_mut(cut.bytes)) {
        let mut at = 0;
        for &(bytes, n) in cut.pieces {
            let end = at + bytes * n;
            collect(bytes, &from[TILE * at..TILE * end], &mut to[at..end], r);
            at = end;
        }
        if let Some(at) = cut.bits_at {
            let planes = [0, 1, 2, 3].map(|j| in_fourths(to[at + j]) << j);
            to[at..at + 4].copy_from_slice(&planes.iter().fold(0, |a, b| a | b).to_le_bytes());
        }
    }
}

/// Writes the pieces of `row` to row `r`'s places; the last piece may be cut short.
fn spread(bytes: usize, row: &[u8], tile: &mut [u8], r: usize) {
    fn each<const N: usize>(row: &[u8], tile: &mut [u8], r: usize) {
        let mut places = tile.chunks_exact_mut(TILE * N);
        let pieces = row.chunks_exact(N);
        let rest = pieces.remainder();
        for (piece, to) in pieces.zip(&mut places) {
            to[N * r..][..N].copy_from_slice(piece);
        }
        if let (false, Some(to)) = (rest.is_empty(), places.next()) {
            to[N * r..][..rest.len()].copy_from_slice(rest);
        }
    }
    match bytes {
        4 => each::<4>(row, tile, r),
        2 => each::<2>(row, tile, r),
        _ => each::<1>(row, tile, r),
    }
}

/// The inverse of [`spread`].
fn collect(bytes: usize, tile: &[u8], row: &mut [u8], r: usize) {
    fn each<const N: usize>(tile: &[u8], row: &mut [u8], r: usize) {
        for (piece, from) in row.chunks_mut(N).zip(tile.chunks_exact(TILE * N)) {
            piece.copy_from_slice(&from[N * r..][..piece.len()]);
        }
    }
    match bytes {
        4 => each::<4>(tile, row, r),
        2 => each::<2>(tile, row, r),
        _ => each::<1>(tile, row, r),
    }
}

/// Bits 0, 4, … 28 together.
fn every_fourth(bits: u32) -> u8 {
    let bits = bits & 0x1111_1111;
    let bits = (bits | bits >> 3) & 0x0303_0303;
    let bits = (bits | bits >> 6) & 0x000f_000f;
    (bits | bits >> 12) as u8
}

/// The inverse of [`every_fourth`].
fn in_fourths(byte: u8) -> u32 {
    let bits = u32::from(byte);
    let bits = (bits | bits << 12) & 0x000f_000f;
    let bits = (bits | bits << 6) & 0x0303_0303;
    (bits | bits << 3) & 0x1111_1111
}
