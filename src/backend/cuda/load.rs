//! Weights on their way to the device: packed or quantised on the host into one half of the staging memory, while the
//! other half is being copied.

use super::Cuda;
use super::device::Ready;
use super::fault::{Fault, Result};
use super::linear::{self, Conversion, layout_of};
use super::memory::ALIGNMENT;
use crate::backend::cpu::dispatch::Kernels;
use crate::backend::cpu::matmul::dequantise_row;
use crate::backend::ops::{Linear, Vector};
use crate::error::Error;
use larder_kernels::driver::{Context, Event, Stream};
use larder_kernels::format::{Layout, Pieces, pack_rows, quantise_rows};

/// The two halves of the staging memory.
pub struct Staging {
    /// Recorded behind the last copy out of each half.
    copied: [Event; 2],
    next: usize,
}

impl Staging {
    pub fn new(context: &Context) -> Result<Staging> {
        Ok(Staging { copied: [Event::new(context)?, Event::new(context)?], next: 0 })
    }

    /// The half of `memory` that was used longest ago, once it is free.
    fn half<'a>(&mut self, memory: &'a mut [u8]) -> Result<&'a mut [u8]> {
        self.next = 1 - self.next;
        self.copied[self.next].synchronize()?;
        let bytes = half_bytes(memory);
        Ok(&mut memory[self.next * bytes..][..bytes])
    }

    /// To be called behind the copies out of the half.
    fn mark_copied(&self, stream: &Stream) -> Result<()> {
        Ok(self.copied[self.next].record(stream)?)
    }
}

/// Of a half, which begins as aligned as the memory.
fn half_bytes(memory: &[u8]) -> usize {
    memory.len() / 2 / ALIGNMENT as usize * ALIGNMENT as usize
}

/// See [`Backend::write_linear`](crate::backend::Backend::write_linear).
pub fn linear(cuda: &mut Cuda, linear: &Linear, first_row: u32, bytes: &[u8]) -> Result<()> {
    let layout = layout_of(cuda.plain_weights, linear)?;
    let conversion = Conversion::of(linear.dtype, cuda.plain_weights);
    let row_bytes = linear.dtype.row_bytes(u64::from(linear.n_in)).unwrap_or(0) as usize;
    let ready = cuda.ready()?;
    let base = ready.memory.matrix(linear, &layout)?;
    let rows_at_once = rows_that_fit(&layout, half_bytes(ready.memory.staging()))?;
    let mut first = first_row;
    for rows in bytes.chunks(rows_at_once * row_bytes) {
        let Ready { memory, staging, stream, .. } = ready;
        let buffer = staging.half(memory.staging())?;
        let pieces = match conversion {
            Conversion::Packed(_) => pack_rows(&layout, first, rows, buffer),
            Conversion::Quantised(_) => {
                let values = decode(linear, rows);
                quantise_rows(&layout, first, &values, buffer)
            }
        };
        let pieces: Pieces = pieces.map_err(linear::refused)?;
        for piece in pieces.iter() {
            let from = &buffer[piece.from..piece.from + piece.bytes];
            // SAFETY: the half is left alone until its event, and the pieces lie inside of the checked matrix.
            unsafe {
                stream.copy_to_device(base + piece.to, from.as_ptr(), from.len() as u64)?;
            }
        }
        staging.mark_copied(stream)?;
        first += (rows.len() / row_bytes) as u32;
    }
    Ok(())
}

/// See [`Backend::write_vector`](crate::backend::Backend::write_vector).
pub fn vector(cuda: &mut Cuda, vector: Vector, values: &[f32]) -> Result<()> {
    if values.len() != vector.len as usize {
        return Err(Fault::defect(format!("{} values for {vector:?}", values.len())));
    }
    let Ready { memory, staging, stream, .. } = cuda.ready()?;
    let mut to = memory.vector(vector)?;
    for values in values.chunks(half_bytes(memory.staging()) / 4) {
        let buffer = &mut staging.half(memory.staging())?[..values.len() * 4];
        for (place, value) in buffer.chunks_exact_mut(4).zip(values) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        // SAFETY: as above.
        unsafe { stream.copy_to_device(to, buffer.as_ptr(), buffer.len() as u64)? };
        staging.mark_copied(stream)?;
        to += buffer.len() as u64;
    }
    Ok(())
}

/// Rows that fit into half of the staging memory, packed.
fn rows_that_fit(layout: &Layout, half_bytes: usize) -> Result<usize> {
    // Each plane of a piece is padded to 16 bytes, which a row of its own is, too.
    let rows = half_bytes / layout.packed_bytes(1).max(1);
    if rows == 0 {
        let text = format!("weights with rows of {} elements", layout.n_in());
        return Err(Fault::Larder(Error::Unsupported(text)));
    }
    Ok(rows)
}

/// Whole rows of the file as numbers.
fn decode(linear: &Linear, rows: &[u8]) -> Vec<f32> {
    let kernels = Kernels::detect();
    let n_in = linear.n_in as usize;
    let row_bytes = linear.dtype.row_bytes(n_in as u64).unwrap_or(0) as usize;
    let mut values = vec![0.0; rows.len() / row_bytes.max(1) * n_in];
    for (row, to) in rows.chunks_exact(row_bytes.max(1)).zip(values.chunks_exact_mut(n_in)) {
        // SAFETY: the table is supported by this processor.
        unsafe { dequantise_row(kernels, linear.dtype, row, to) };
    }
    values
}
