//! What all products share: their inputs in the forms that the weights want, and the split over threads.
//!
//! Plain weights meet f32 activations. Quantised weights meet 8-bit activations, made once per row and shared by all
//! weights of an operation, or f32 ones when the host asks for exact activations.

use super::Cpu;
use super::blocks::pack::TILE;
use super::matmul::{Activations, Output, Precision, Weights, matmul, q8, scratch_bytes};
use super::memory::{Memory, Parts};
use super::norm::Normer;
use crate::area::{Area, Region};
use crate::backend::ops::{Linear, Norm};
use crate::error::Result;
use std::ops::Range;

/// Activation rows of one task.
pub const TILE_ROWS: usize = 64;
/// Weight rows of one task, at most: whole tiles.
pub const PANEL_ROWS: usize = 2 * TILE;

/// Which rows of x go into an operation.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// `first ..`
    From(usize),
    Listed(&'a [u32]),
}

/// The input of an operation's products: regions of the area, in each form that a weight wants.
pub struct Input {
    n_in: usize,
    n_rows: usize,
    /// x itself, from this row on.
    direct: Option<usize>,
    single: Option<Region>,
    q8: Option<Region>,
    /// A row for each thread, when the normed row itself is not kept.
    row: Option<Region>,
}

impl Input {
    /// Asks for what `weights` want of `n_rows` rows. While tracing, `source` stands for the most rows.
    pub fn take(
        cpu: &Cpu,
        area: &mut Area,
        weights: &[&Linear],
        norm: Option<&Norm>,
        n_rows: usize,
        source: Source<'_>,
    ) -> Input {
        let n_in = weights[0].n_in as usize;
        let wants_q8 = weights.iter().any(|weight| cpu.precision(weight) == Precision::Q8);
        let wants_single = weights.iter().any(|weight| cpu.precision(weight) == Precision::Exact);
        let direct = match source {
            Source::From(first) if norm.is_none() => Some(first),
            _ => None,
        };
        let mut region = |name, wanted: bool, bytes| wanted.then(|| area.take(name, bytes));
        let single = region("normed rows", wants_single && direct.is_none(), 4 * n_rows * n_in);
        let q8 =
            region("8-bit rows", wants_q8, if wants_q8 { n_rows * q8::row_bytes(n_in) } else { 0 });
        let wants_row = norm.is_some() && single.is_none();
        let row = region("normed row", wants_row, 4 * n_in * n_rows.min(cpu.pool.n_threads()));
        Input { n_in, n_rows, direct, single, q8, row }
    }

    pub fn give(self, area: &mut Area) {
        [self.single, self.q8, self.row].into_iter().flatten().for_each(|region| area.give(region));
    }

    /// Norms, copies and quantises the rows of `x [rows][n_in]`.
    pub fn fill(
        &mut self,
        cpu: &Cpu,
        memory: &Memory,
        norm: Option<&Norm>,
        source: Source<'_>,
        x: &[f32],
    ) -> Result<()> {
        let (n_in, q8_bytes) = (self.n_in, q8::row_bytes(self.n_in));
        let norm = norm.map(|norm| Normer::of(memory, norm));
        let single =
            self.single.as_mut().map(|region| Parts::new(memory.region_mut::<f32>(region)));
        let q8 = self.q8.as_mut().map(|region| Parts::new(memory.region_mut::<u8>(region)));
        let row = self.row.as_mut().map(|region| Parts::new(memory.region_mut::<f32>(region)));
        if single.is_none() && q8.is_none() {
            return Ok(());
        }
        cpu.pool.run(self.n_rows, &|i, thread| {
            let from = match source {
                Source::From(first) => first + i,
                Source::Listed(rows) => rows[i] as usize,
            };
            let mut values = &x[from * n_in..(from + 1) * n_in];
            // SAFETY: row i is this task's, and the thread's row is used by one task at a time.
            let to = unsafe {
                match (&single, &row) {
                    (Some(single), _) => Some(single.part(i * n_in, n_in)),
                    (None, row) => row.as_ref().map(|row| row.part(thread * n_in, n_in)),
                }
            };
            if let Some(to) = to {
                match &norm {
                    Some(norm) => norm.apply(cpu.kernels, values, to),
                    None => to.copy_from_slice(values),
                }
                values = to;
            }
            if let Some(q8) = &q8 {
                // SAFETY: row i is this task's; the table is supported by this processor.
                unsafe { (cpu.kernels.quantise_row)(values, q8.part(i * q8_bytes, q8_bytes)) };
            }
        })
    }

    /// The filled rows in the form that `weight` wants; `x` is what they were made of.
    pub fn activations<'a>(
        &'a self,
        cpu: &Cpu,
        memory: &'a Memory,
        weight: &Linear,
        x: &'a [f32],
    ) -> Activations<'a> {
        let n_in = self.n_in;
        match (cpu.precision(weight), &self.q8, &self.single, self.direct) {
            (Precision::Q8, Some(q8), _, _) => {
                Activations::Q8 { data: memory.region(q8), stride: q8::row_bytes(n_in) }
            }
            (_, _, Some(single), _) => {
                Activations::F32 { data: memory.region(single), stride: n_in }
            }
            (_, _, None, first) => {
                Activations::F32 { data: &x[first.unwrap_or(0) * n_in..], stride: n_in }
            }
        }
    }
}

/// One weight matrix ready to be multiplied.
pub struct Product<'a> {
    weights: Weights<'a>,
    bias: Option<&'a [f32]>,
    activations: Activations<'a>,
}

impl<'a> Product<'a> {
    pub fn new(
        cpu: &Cpu,
        memory: &'a Memory,
        linear: &Linear,
        input: &'a Input,
        x: &'a [f32],
    ) -> Product<'a> {
        let n_in = linear.n_in as usize;
        assert!(n_in == input.n_in, "{linear:?} meets rows of {}", input.n_in);
        Product {
            weights: Weights { dtype: linear.dtype, n_in, bytes: memory.linear(linear) },
            bias: linear.bias.map(|bias| memory.vector(bias)),
            activations: input.activations(cpu, memory, linear, x),
        }
    }

    /// `out[i][j] = weight[rows[j]] · x[tokens[i]] + bias[rows[j]]`
    ///
    /// # Safety
    /// `out` is valid for these values, and nobody else uses them.
    pub unsafe fn run(
        &self,
        cpu: &Cpu,
        rows: Range<usize>,
        tokens: Range<usize>,
        scratch: &mut [u8],
        out: Output,
    ) {
        let (kernels, n_tokens) = (cpu.kernels, tokens.len());
        // SAFETY: the caller's promise; the table is supported by this processor.
        unsafe {
            matmul(kernels, &self.weights, rows.clone(), &self.activations, tokens, scratch, out)
        };
        let Some(bias) = self.bias.map(|bias| &bias[rows.clone()]) else { return };
        for i in 0..n_tokens {
            // SAFETY: as above: these are the values just written.
            let row = unsafe {
                std::slice::from_raw_parts_mut(out.first.add(i * out.stride), rows.len())
            };
            row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
    }
}

/// Room of each thread: decoded weights, and a tile of outputs.
pub struct ThreadRoom {
    region: Region,
    matmul_bytes: usize,
    tile_len: usize,
}

/// [`ThreadRoom`] as the tasks see it.
pub struct Rooms<'a> {
    bytes: Parts<'a, u8>,
    matmul_bytes: usize,
    tile_len: usize,
}

/// Of every part of a thread's room.
const ROOM_ALIGNMENT: usize = 64;

impl ThreadRoom {
    /// Asks for the room of products with `weights` and `tile_len` f32 values.
    pub fn take(cpu: &Cpu, area: &mut Area, weights: &[&Linear], tile_len: usize) -> ThreadRoom {
        let bytes = |weight: &&Linear| {
            scratch_bytes(weight.dtype, weight.n_in as usize, cpu.precision(weight))
        };
        let matmul_bytes = weights.iter().map(bytes).max().unwrap_or(0);
        let matmul_bytes = matmul_bytes.next_multiple_of(ROOM_ALIGNMENT);
        let tile_len = tile_len.next_multiple_of(ROOM_ALIGNMENT / 4);
        let bytes = cpu.pool.n_threads() * (matmul_bytes + 4 * tile_len);
        ThreadRoom { region: area.take("threads' tiles", bytes), matmul_bytes, tile_len }
    }

    pub fn give(self, area: &mut Area) {
        area.give(self.region);
    }

    pub fn rooms<'a>(&'a mut self, memory: &Memory) -> Rooms<'a> {
        let bytes = Parts::new(memory.region_mut(&mut self.region));
        Rooms { bytes, matmul_bytes: self.matmul_bytes, tile_len: self.tile_len }
    }
}

impl<'a> Rooms<'a> {
    /// The thread's scratch for products and its tile.
    ///
    /// # Safety
    /// Only the running task of `thread` asks.
    pub unsafe fn of(&self, thread: usize) -> (&'a mut [u8], &'a mut [f32]) {
        let bytes = self.matmul_bytes + 4 * self.tile_len;
        // SAFETY: one part for each thread. The region begins at a multiple of 64 and so does each part, so the
        // tile is aligned; any bytes are an f32.
        unsafe {
            let (scratch, tile) =
                self.bytes.part(thread * bytes, bytes).split_at_mut(self.matmul_bytes);
            let at = tile.as_mut_ptr().cast::<f32>();
            assert!(at.is_aligned());
            (scratch, std::slice::from_raw_parts_mut(at, self.tile_len))
        }
    }
}

/// Calls `work(weight rows, tokens, thread)` for all panels of `n_out` weight rows and tiles of `n_rows` activation
/// rows. Each thread gets consecutive panels.
pub fn panels(
    cpu: &Cpu,
    n_out: usize,
    n_rows: usize,
    work: &(dyn Fn(Range<usize>, Range<usize>, usize) + Sync),
) -> Result<()> {
    let fair = (n_out / (4 * cpu.pool.n_threads())).next_multiple_of(TILE);
    let panel_rows = fair.clamp(TILE, PANEL_ROWS);
    let n_tiles = n_rows.div_ceil(TILE_ROWS);
    cpu.pool.run(n_out.div_ceil(panel_rows) * n_tiles, &|task, thread| {
        let (panel, tile) = (task / n_tiles * panel_rows, task % n_tiles * TILE_ROWS);
        let rows = panel..n_out.min(panel + panel_rows);
        work(rows, tile..n_rows.min(tile + TILE_ROWS), thread);
    })
}
