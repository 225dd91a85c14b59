//! Rows of a file into planes.

use half::f16;

use super::{Format, FormatError, Layout};

/// Bytes to copy into one plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Piece {
    /// Where they lie in the buffer.
    pub from: usize,
    /// Where they go, from the matrix's first byte on.
    pub to: u64,
    pub bytes: usize,
}

/// The pieces of some rows, one per plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces {
    pieces: [Piece; 4],
    n: usize,
}

impl std::ops::Deref for Pieces {
    type Target = [Piece];

    fn deref(&self) -> &[Piece] {
        &self.pieces[..self.n]
    }
}

impl Pieces {
    /// Rows `first_row .. first_row + n_rows` in a buffer that has room for them, its bytes cleared.
    pub(super) fn new(
        layout: &Layout,
        first_row: u32,
        n_rows: usize,
        buffer: &mut [u8],
    ) -> Result<Self, FormatError> {
        if (layout.n_out.checked_sub(first_row)).is_none_or(|left| n_rows > left as usize) {
            return Err(FormatError::Rows { first: first_row, n: n_rows, n_out: layout.n_out });
        }
        let expected = layout.packed_bytes(n_rows);
        if buffer.len() < expected {
            let found = buffer.len();
            return Err(FormatError::Bytes { what: "buffer for packed rows", found, expected });
        }
        buffer[..expected].fill(0);
        let mut pieces = [Piece::default(); 4];
        let mut from = 0;
        for (piece, plane) in pieces.iter_mut().zip(layout.planes()) {
            let bytes = plane.row_bytes as usize * n_rows;
            let to = plane.offset + u64::from(first_row) * plane.row_bytes;
            *piece = Piece { from, to, bytes };
            from += bytes.next_multiple_of(16);
        }
        Ok(Self { pieces, n: layout.planes().len() })
    }

    /// Row `row` of these in each plane.
    pub(super) fn row<'a>(&self, layout: &Layout, row: usize, buffer: &'a mut [u8]) -> Row<'a> {
        let mut rest = buffer;
        let mut at = 0;
        let mut planes: [&mut [u8]; 4] = Default::default();
        for ((plane, piece), place) in layout.planes().iter().zip(self.iter()).zip(&mut planes) {
            let row_bytes = plane.row_bytes as usize;
            let (_, behind) = rest.split_at_mut(piece.from + row * row_bytes - at);
            let (own, behind) = behind.split_at_mut(row_bytes);
            (*place, rest, at) = (own, behind, piece.from + (row + 1) * row_bytes);
        }
        Row { planes }
    }
}

/// One row in each plane.
pub(super) struct Row<'a> {
    pub planes: [&'a mut [u8]; 4],
}

/// Arranges whole rows of a file (GGUF blocks, or plain elements) as the device wants them. `buffer` has room for
/// [`Layout::packed_bytes`]; each of the pieces then goes to its place in the matrix. `first_row` says where the rows
/// belong.
pub fn pack_rows(
    layout: &Layout,
    first_row: u32,
    file_rows: &[u8],
    buffer: &mut [u8],
) -> Result<Pieces, FormatError> {
    let format = layout.format;
    if matches!(format, Format::F8E4M3 | Format::I8) {
        return Err(FormatError::NotInFiles { format });
    }
    let row_bytes = layout.file_row_bytes();
    if !file_rows.len().is_multiple_of(row_bytes) {
        return Err(FormatError::NotWholeRows { found: file_rows.len(), row_bytes });
    }
    let pieces = Pieces::new(layout, first_row, file_rows.len() / row_bytes, buffer)?;
    for (i, file_row) in file_rows.chunks_exact(row_bytes).enumerate() {
        let [quants, second, third, fourth] = pieces.row(layout, i, buffer).planes;
        let blocks = file_row.chunks_exact(format.file_block_bytes()).enumerate();
        match format {
            Format::F32 | Format::F16 | Format::BF16 => {
                quants[..row_bytes].copy_from_slice(file_row)
            }
            Format::F8E4M3 | Format::I8 => {}
            Format::Q8_0 => {
                for (i, block) in blocks {
                    second[2 * i..2 * i + 2].copy_from_slice(&block[..2]);
                    put_bytes(quants, i, |e| block[2 + e]);
                }
            }
            Format::Q4_0 => {
                for (i, block) in blocks {
                    second[2 * i..2 * i + 2].copy_from_slice(&block[..2]);
                    put_nibbles(quants, i, |e| block[2 + e % 16] >> (4 * (e / 16)));
                }
            }
            Format::Q4_K => {
                for (i, block) in blocks {
                    second[16 * i..16 * i + 16].copy_from_slice(&block[..16]);
                    for part in 0..8 {
                        let quant = |e| block[16 + 32 * (part / 2) + e] >> (4 * (part % 2));
                        put_nibbles(quants, 8 * i + part, quant);
                    }
                }
            }
            Format::Q6_K => {
                for (i, block) in blocks {
                    third[16 * i..16 * i + 16].copy_from_slice(&block[192..208]);
                    fourth[2 * i..2 * i + 2].copy_from_slice(&block[208..210]);
                    for part in 0..8 {
                        let (half, k) = (part / 4, part % 4);
                        let low = |e| block[64 * half + 32 * (k % 2) + e] >> (4 * (k / 2));
                        let high = |e| block[128 + 32 * half + e] >> (2 * k);
                        put_nibbles(quants, 8 * i + part, low);
                        put_pairs(second, 8 * i + part, high);
                    }
                }
            }
        }
    }
    Ok(pieces)
}

/// The lane of an element of a block of 32, and which of the lane's eight it is.
fn place(e: usize) -> (usize, usize) {
    (e % 16 / 4, e / 16 * 4 + e % 4)
}

/// 32 bytes: block `block` of a row of 8-bit quants. In a lane's words of four, pairs of neighbours are 16 bits apart.
pub(super) fn put_bytes(quants: &mut [u8], block: usize, quant: impl Fn(usize) -> u8) {
    const ORDER: [usize; 4] = [0, 2, 1, 3];
    let chunk = &mut quants[64 * (block / 2)..][..64];
    for e in 0..32 {
        let (lane, j) = place(e);
        chunk[16 * lane + 8 * (block % 2) + j / 4 * 4 + ORDER[j % 4]] = quant(e);
    }
}

/// 32 nibbles: block `block` of a row of 4-bit quants, one word per lane. Pairs of neighbours are 16 bits apart.
fn put_nibbles(quants: &mut [u8], block: usize, quant: impl Fn(usize) -> u8) {
    let chunk = &mut quants[64 * (block / 4)..][..64];
    for e in 0..32 {
        let (lane, j) = place(e);
        let nibble = j / 2 + 4 * (j % 2);
        chunk[16 * lane + 4 * (block % 4) + nibble / 2] |= (quant(e) & 15) << (4 * (nibble % 2));
    }
}

/// 32 pairs of bits: block `block` of a row of Q6_K's high bits. A word holds two blocks; the second's fields lie above
/// the first's in each half of the word, so that neighbours are 16 bits apart here, too.
fn put_pairs(bits: &mut [u8], block: usize, pair: impl Fn(usize) -> u8) {
    let chunk = &mut bits[32 * (block / 4)..][..32];
    for e in 0..32 {
        let (lane, j) = place(e);
        let bit = 16 * (j % 2) + 2 * (4 * (block % 2) + j / 2);
        chunk[8 * lane + 4 * (block % 4 / 2) + bit / 8] |= (pair(e) & 3) << (bit % 8);
    }
}

/// Bytes of an f16 scale.
pub(super) fn f16_bytes(value: f16) -> [u8; 2] {
    value.to_bits().to_le_bytes()
}
