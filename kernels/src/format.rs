//! How weight matrices lie on the device, and how the host packs rows of a file into that.
//!
//! A matrix is a few **planes** (quants, scales, ...), each row-major by output row and aligned to 256 bytes. In the
//! quants' plane a row is made of **chunks** of 64 bytes, of which lane `t` of a group of four threads owns bytes
//! `16 t .. 16 t + 16`: one load each. Rows are padded with zeros to whole chunks.
//!
//! F16 and BF16 keep the order of their elements, and a lane has eight neighbours. The quantised kinds are arranged so
//! that a lane has elements `4 t .. 4 t + 4` of every group of 16, which is what a 16-wide tensor-core step over one
//! scale wants: of a block of 32 it holds the eight elements `16 (j / 4) + 4 t + j % 4`. `cuda/weights.cuh` has the
//! readers.
//!
//! | format | planes (bytes of a row of n elements) |
//! |-|-|
//! | F32, F16, BF16 | elements (4 n, 2 n) |
//! | F8E4M3, I8 | quants (n), an f32 scale |
//! | Q8_0 | quants (n), f16 scales of 32 (n / 16) |
//! | Q4_0 | quants (n / 2), f16 scales of 32 (n / 16) |
//! | Q4_K | quants (n / 2), the block's head: d, dmin, 12 bytes of scales and minima (n / 16) |
//! | Q6_K | low four bits (n / 2), high two (n / 4), i8 scales of 16 (n / 16), f16 d (n / 128) |
#![forbid(unsafe_code)]

mod pack;
mod quantise;

pub use pack::{Piece, Pieces, pack_rows};
pub use quantise::{e4m3_from_f32, quantise_rows};

use crate::driver::DevicePtr;

/// Alignment of planes, and of a matrix.
pub const PLANE_ALIGNMENT: u64 = 256;

/// How the device stores a weight. The numbers are those of `cuda/weights.cuh`.
#[allow(non_camel_case_types, reason = "the names of the GGUF format")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Format {
    F32 = 0,
    F16 = 1,
    BF16 = 2,
    /// 8-bit floats with one scale per output row.
    F8E4M3 = 3,
    /// 8-bit integers with one scale per output row.
    I8 = 4,
    Q8_0 = 5,
    Q4_0 = 6,
    Q4_K = 7,
    Q6_K = 8,
}

/// What is wrong with a matrix or with the bytes that shall fill it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("a matrix of {n_out} x {n_in} has no elements")]
    Empty { n_out: u32, n_in: u32 },
    #[error("rows of {n_in} elements are no whole number of {format:?} blocks of {block_len}")]
    NotWholeBlocks { format: Format, n_in: u32, block_len: u32 },
    #[error("a {format:?} matrix of {n_out} x {n_in} is larger than can be addressed")]
    TooLarge { format: Format, n_out: u32, n_in: u32 },
    #[error("{what}: {found} bytes, expected {expected}")]
    Bytes { what: &'static str, found: usize, expected: usize },
    #[error("{found} bytes are no whole number of rows of {row_bytes}")]
    NotWholeRows { found: usize, row_bytes: usize },
    #[error("rows {first} .. {first} + {n} of a matrix with {n_out}")]
    Rows { first: u32, n: usize, n_out: u32 },
    #[error(
        "columns {first} .. {first} + {n} of {n_in} in {format:?}: they begin and end at multiples of {step}"
    )]
    Columns { format: Format, first: u32, n: u32, n_in: u32, step: u32 },
    #[error("{format:?} is not made by quantising (F8E4M3, I8 and Q8_0 are)")]
    NotQuantised { format: Format },
    #[error("{format:?} rows are not read from a file (they are quantised from values)")]
    NotInFiles { format: Format },
    #[error("row {row} has a value that is not finite")]
    NotFinite { row: usize },
}

impl Format {
    pub const ALL: [Format; 9] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::F8E4M3,
        Format::I8,
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4_K,
        Format::Q6_K,
    ];

    /// As in the names of kernels.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::BF16 => "bf16",
            Format::F8E4M3 => "f8e4m3",
            Format::I8 => "i8",
            Format::Q8_0 => "q8_0",
            Format::Q4_0 => "q4_0",
            Format::Q4_K => "q4_k",
            Format::Q6_K => "q6_k",
        }
    }

    /// Elements that share a scale in the file: a row is a whole number of these.
    pub const fn block_len(self) -> u32 {
        match self {
            Format::F32 | Format::F16 | Format::BF16 | Format::F8E4M3 | Format::I8 => 1,
            Format::Q8_0 | Format::Q4_0 => 32,
            Format::Q4_K | Format::Q6_K => 256,
        }
    }

    /// Bytes of such a block in a GGUF file (one element for the plain kinds).
    pub const fn file_block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::F8E4M3 | Format::I8 => 1,
            Format::Q8_0 => 34,
            Format::Q4_0 => 18,
            Format::Q4_K => 144,
            Format::Q6_K => 210,
        }
    }

    /// Elements of a chunk; rows on the device are padded to whole chunks. (F32's chunk has 128 bytes.)
    pub const fn chunk_len(self) -> u32 {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 32,
            Format::F8E4M3 | Format::I8 | Format::Q8_0 => 64,
            Format::Q4_0 | Format::Q4_K | Format::Q6_K => 128,
        }
    }

    /// Columns at which a matrix can be cut.
    pub const fn column_step(self) -> u32 {
        if self.chunk_len() > self.block_len() { self.chunk_len() } else { self.block_len() }
    }

    /// Bytes of a row of `elements` (whole chunks) in each plane; 0: no such plane.
    const fn plane_row_bytes(self, elements: u64) -> [u64; 4] {
        let n = elements;
        match self {
            Format::F32 => [4 * n, 0, 0, 0],
            Format::F16 | Format::BF16 => [2 * n, 0, 0, 0],
            Format::F8E4M3 | Format::I8 => [n, 4, 0, 0],
            Format::Q8_0 => [n, n / 16, 0, 0],
            Format::Q4_0 | Format::Q4_K => [n / 2, n / 16, 0, 0],
            Format::Q6_K => [n / 2, n / 4, n / 16, n / 128],
        }
    }
}

/// One plane of a matrix: where it begins, and bytes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plane {
    pub offset: u64,
    pub row_bytes: u64,
}

/// A matrix `[n_out, n_in]` on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    format: Format,
    n_out: u32,
    n_in: u32,
    planes: [Plane; 4],
    bytes: u64,
}

impl Layout {
    /// Fails when rows are no whole blocks of the format, the matrix is empty, or its bytes overflow.
    pub fn new(format: Format, n_out: u32, n_in: u32) -> Result<Self, FormatError> {
        if n_out == 0 || n_in == 0 {
            return Err(FormatError::Empty { n_out, n_in });
        }
        let block_len = format.block_len();
        if !n_in.is_multiple_of(block_len) {
            return Err(FormatError::NotWholeBlocks { format, n_in, block_len });
        }
        let too_large = FormatError::TooLarge { format, n_out, n_in };
        // The kernels count elements of a row in u32.
        let elements = n_in.checked_next_multiple_of(format.chunk_len());
        let row_bytes = format.plane_row_bytes(elements.ok_or(too_large.clone())?.into());
        let mut planes = [Plane::default(); 4];
        let mut bytes = 0u64;
        for (plane, row_bytes) in planes.iter_mut().zip(row_bytes) {
            *plane = Plane { offset: bytes, row_bytes };
            bytes = row_bytes
                .checked_mul(n_out.into())
                .and_then(|plane| plane.checked_next_multiple_of(PLANE_ALIGNMENT))
                .and_then(|plane| bytes.checked_add(plane))
                .ok_or(too_large.clone())?;
        }
        Ok(Self { format, n_out, n_in, planes, bytes })
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn n_out(&self) -> u32 {
        self.n_out
    }

    pub fn n_in(&self) -> u32 {
        self.n_in
    }

    /// Elements of a row on the device: `n_in` padded to whole chunks. The leading dimension of a plain matrix.
    pub fn row_elements(&self) -> u32 {
        self.n_in.next_multiple_of(self.format.chunk_len())
    }

    /// Bytes of the matrix, a multiple of [`PLANE_ALIGNMENT`].
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The planes in order.
    pub fn planes(&self) -> &[Plane] {
        let n = self.planes.iter().take_while(|plane| plane.row_bytes != 0).count();
        &self.planes[..n]
    }

    /// Bytes of a row in a file.
    pub fn file_row_bytes(&self) -> usize {
        (self.n_in / self.format.block_len()) as usize * self.format.file_block_bytes()
    }

    /// Bytes of the buffer for packing `n_rows` rows.
    pub fn packed_bytes(&self, n_rows: usize) -> usize {
        self.planes()
            .iter()
            .map(|plane| (plane.row_bytes as usize * n_rows).next_multiple_of(16))
            .sum()
    }

    /// The matrix as kernels see it when it lies at `base`, which is a multiple of [`PLANE_ALIGNMENT`].
    pub fn weights(&self, base: DevicePtr) -> Weights {
        let mut planes = [0; 4];
        for (address, plane) in planes.iter_mut().zip(self.planes()) {
            *address = base + plane.offset;
        }
        Weights {
            planes,
            n_out: self.n_out,
            n_in: self.n_in,
            row_elements: self.row_elements(),
            format: self.format,
        }
    }
}

/// A matrix, or rows and columns of one, as kernels take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Weights {
    /// Addresses of the planes' first rows; 0 for planes that the format does not have.
    pub planes: [DevicePtr; 4],
    pub n_out: u32,
    pub n_in: u32,
    /// Elements from one row to the next.
    pub row_elements: u32,
    pub format: Format,
}

const _: () = assert!(size_of::<Weights>() == 48, "weights.cuh has the same struct");

impl Weights {
    /// Rows `first .. first + n`.
    pub fn rows(&self, first: u32, n: u32) -> Result<Self, FormatError> {
        if n == 0 || first.checked_add(n).is_none_or(|end| end > self.n_out) {
            return Err(FormatError::Rows { first, n: n as usize, n_out: self.n_out });
        }
        let mut part = Self { n_out: n, ..*self };
        let row_bytes = self.format.plane_row_bytes(self.row_elements.into());
        for (address, row_bytes) in part.planes.iter_mut().zip(row_bytes) {
            *address += u64::from(first) * row_bytes;
        }
        Ok(part)
    }

    /// Columns `first .. first + n`, both multiples of [`Format::column_step`] unless they end the row.
    pub fn columns(&self, first: u32, n: u32) -> Result<Self, FormatError> {
        let (format, n_in, step) = (self.format, self.n_in, self.format.column_step());
        let end = first.checked_add(n);
        let cut = |column: u32| column == n_in || column.is_multiple_of(step);
        if n == 0 || !first.is_multiple_of(step) || end.is_none_or(|end| end > n_in || !cut(end)) {
            return Err(FormatError::Columns { format, first, n, n_in, step });
        }
        let mut part = Self { n_in: n, ..*self };
        let mut bytes = format.plane_row_bytes(first.into());
        if matches!(format, Format::F8E4M3 | Format::I8) {
            bytes[1] = 0; // a scale of the whole row
        }
        for (address, bytes) in part.planes.iter_mut().zip(bytes) {
            *address += bytes;
        }
        Ok(part)
    }
}
