//! Norm, projections, q/k norm and RoPE. A task is one head with some rows: q goes to its region, K and V from the
//! task's tile straight to their slots.

use super::Cpu;
use super::linear::{Input, Product, Rooms, Source, TILE_ROWS, ThreadRoom};
use super::matmul::Output;
use super::memory::{KvView, Parts};
use super::norm::Normer;
use super::rope::rotate;
use crate::area::{Area, Region};
use crate::backend::ops::{BatchView, QkvOp};
use crate::dtype::KvType;
use crate::error::Result;
use crate::ids::Layer;
use std::ops::Range;

/// One run of the operation.
struct Run<'a> {
    cpu: &'a Cpu,
    op: &'a QkvOp,
    batch: &'a BatchView<'a>,
    kv: KvView<'a>,
    products: [Product<'a>; 3],
    q_norm: Option<Normer<'a>>,
    k_norm: Option<Normer<'a>>,
    /// `[rows][rope.dim / 2][2]`
    rope_table: Option<&'a [f32]>,
    q: Parts<'a, f32>,
    rooms: Rooms<'a>,
}

/// See [`Backend::qkv`](crate::backend::Backend::qkv).
#[allow(clippy::too_many_arguments, reason = "the trait's arguments")]
pub fn qkv(
    cpu: &Cpu,
    area: &mut Area,
    op: &QkvOp,
    layer: Layer,
    batch: &BatchView<'_>,
    rope_table: Option<&Region>,
    x: &Region,
    q: &mut Region,
) -> Result<()> {
    let (weights, source) = ([&op.q, &op.k, &op.v], Source::From(0));
    let tile_len = TILE_ROWS.min(batch.n_rows) * op.heads.head_dim as usize;
    let mut input = Input::take(cpu, area, &weights, op.norm.as_ref(), batch.n_rows, source);
    let mut room = ThreadRoom::take(cpu, area, &weights, tile_len);
    if !area.is_tracing() {
        let memory = cpu.memory()?;
        let x = memory.region(x);
        input.fill(cpu, memory, op.norm.as_ref(), source, x)?;
        let norm = |norm: &Option<_>| norm.as_ref().map(|norm| Normer::of(memory, norm));
        let run = Run {
            cpu,
            op,
            batch,
            kv: memory.kv(layer),
            products: weights.map(|weight| Product::new(cpu, memory, weight, &input, x)),
            q_norm: norm(&op.q_norm),
            k_norm: norm(&op.k_norm),
            rope_table: rope_table.map(|table| memory.region(table)),
            q: Parts::new(memory.region_mut(q)),
            rooms: room.rooms(memory),
        };
        run.all()?;
    }
    input.give(area);
    room.give(area);
    Ok(())
}

impl<'a> Run<'a> {
    fn all(&self) -> Result<()> {
        let heads = self.op.heads;
        let (n_q, n_kv) = (heads.n_heads as usize, heads.n_kv_heads as usize);
        let (n_heads, n_rows) = (n_q + 2 * n_kv, self.batch.n_rows);
        let n_tiles = n_rows.div_ceil(TILE_ROWS);
        self.cpu.pool.run(n_heads * n_tiles, &|task, thread| {
            let (head, first) = (task / n_tiles, task % n_tiles * TILE_ROWS);
            let rows = first..n_rows.min(first + TILE_ROWS);
            if head < n_q {
                self.query(head, rows, thread);
            } else if head < n_q + n_kv {
                self.key(head - n_q, rows, thread);
            } else {
                self.value(head - n_q - n_kv, rows, thread);
            }
        })
    }

    fn head_dim(&self) -> usize {
        self.op.heads.head_dim as usize
    }

    fn weight_rows(&self, head: usize) -> Range<usize> {
        head * self.head_dim()..(head + 1) * self.head_dim()
    }

    fn query(&self, head: usize, rows: Range<usize>, thread: usize) {
        let (head_dim, stride) =
            (self.head_dim(), self.op.heads.n_heads as usize * self.head_dim());
        let place = |row: usize| row * stride + head * head_dim;
        // The last row's end is checked here, the others lie before it.
        assert!(place(rows.end - 1) + head_dim <= self.q.len(), "q is too small");
        let out = Output { first: self.q.address(place(rows.start)), stride };
        // SAFETY: this task has the head of these rows to itself, and the thread's room.
        unsafe {
            let (scratch, _) = self.rooms.of(thread);
            self.products[0].run(self.cpu, self.weight_rows(head), rows.clone(), scratch, out);
        }
        for row in rows {
            // SAFETY: as above.
            let values = unsafe { self.q.part(place(row), head_dim) };
            self.norm_and_rotate(self.q_norm.as_ref(), row, values);
        }
    }

    fn key(&self, head: usize, rows: Range<usize>, thread: usize) {
        // SAFETY: the running task of the thread.
        let tile = unsafe { self.tile(1, head, rows.clone(), thread) };
        for (row, values) in rows.zip(tile.chunks_exact_mut(self.head_dim())) {
            self.norm_and_rotate(self.k_norm.as_ref(), row, values);
            self.store(self.kv.layout.k_type, self.kv.k(head), row, values);
        }
    }

    fn value(&self, head: usize, rows: Range<usize>, thread: usize) {
        // SAFETY: the running task of the thread.
        let tile = unsafe { self.tile(2, head, rows.clone(), thread) };
        for (row, values) in rows.zip(tile.chunks_exact(self.head_dim())) {
            self.store(self.kv.layout.v_type, self.kv.v(head), row, values);
        }
    }

    /// The head's product in the thread's tile, `[rows][head_dim]`.
    ///
    /// # Safety
    /// Only the running task of `thread` asks, and once.
    unsafe fn tile(
        &self,
        product: usize,
        head: usize,
        rows: Range<usize>,
        thread: usize,
    ) -> &'a mut [f32] {
        // SAFETY: the caller's promise; the tile has room for all rows.
        unsafe {
            let (scratch, tile) = self.rooms.of(thread);
            let tile = &mut tile[..rows.len() * self.head_dim()];
            let out = Output { first: tile.as_mut_ptr(), stride: self.head_dim() };
            self.products[product].run(self.cpu, self.weight_rows(head), rows, scratch, out);
            tile
        }
    }

    fn norm_and_rotate(&self, norm: Option<&Normer<'_>>, row: usize, values: &mut [f32]) {
        if let Some(norm) = norm {
            norm.apply_in_place(self.cpu.kernels, values);
        }
        if let (Some(rope), Some(table)) = (&self.op.rope, self.rope_table) {
            let dim = rope.dim as usize;
            rotate(rope.pairs, &table[row * dim..(row + 1) * dim], &mut values[..dim]);
        }
    }

    /// To the row's slot; `base` is the head's place in slot 0.
    fn store(&self, kind: KvType, base: *mut u8, row: usize, values: &[f32]) {
        let (slot, kernels) = (self.batch.slots[row].0 as usize, self.cpu.kernels);
        assert!(slot < self.kv.n_slots, "slot {slot} of {}", self.kv.n_slots);
        // SAFETY: the slot exists, and the head of this row's slot is this task's. Rows of a batch have different
        // slots, but for padding rows, whose slot nobody reads. Head sizes are even, so the place is aligned.
        unsafe {
            let to = base.add(slot * self.kv.row_bytes);
            match kind {
                KvType::F32 => {
                    to.cast::<f32>().copy_from_nonoverlapping(values.as_ptr(), values.len())
                }
                KvType::F16 => (kernels.store_f16_row)(values, to.cast()),
                KvType::BF16 => (kernels.store_bf16_row)(values, to.cast()),
                KvType::Int8 | KvType::Fp8 => unreachable!("refused by prepare"),
            }
        }
    }
}
