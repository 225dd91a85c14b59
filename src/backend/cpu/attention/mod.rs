//! Attention over the KV repo. The output takes q's place, so nothing of the size of the batch is needed.
//!
//! A **unit** is a tile of rows with one KV head. Rows of one sequence, or of sequences with a common beginning, lie in
//! one tile, and what they have in common of K and V is read once for all of them. With enough units for all threads, a
//! unit is a task. With few (decoding), the splits of all units are the tasks. Both ways give the same bits.

mod gathered;
pub mod kernel;
mod order;
mod slots;
mod tile;
mod waves;

use super::Cpu;
use super::memory::Parts;
use crate::area::{Area, Region};
use crate::backend::ops::{AttendOp, BatchView};
use crate::error::{Error, Result};
use crate::ids::Layer;
use arrayvec::ArrayVec;
use gathered::KEYS_AT_ONCE;
use order::{MAX_TILE_ROWS, Order, order_len};
use std::sync::atomic::{AtomicUsize, Ordering};
use tile::{Context, Partial, SPLIT, Scratch, TileRow, partial_len};

/// Query vectors of a tile, unless one row has more.
const TILE_VECTORS: usize = 32;
/// Rows and heads below this number per thread are shared by threads.
const FEW_UNITS: usize = 2;
/// Partial results of a wave, in rows, per thread.
const WAVE: usize = 4;

const _: () = assert!(TILE_VECTORS <= MAX_TILE_ROWS);

/// Sizes of an operation, from its shape and the batch's rows; none grows when the batch shrinks.
struct Sizes {
    n_threads: usize,
    group: usize,
    head_dim: usize,
    n_kv_heads: usize,
    n_rows: usize,
    /// Rows of the largest tile.
    tile_rows: usize,
}

impl Sizes {
    fn of(op: &AttendOp, n_rows: usize, n_threads: usize) -> Sizes {
        let group = (op.heads.n_heads / op.heads.n_kv_heads) as usize;
        Sizes {
            n_threads,
            group,
            head_dim: op.heads.head_dim as usize,
            n_kv_heads: op.heads.n_kv_heads as usize,
            n_rows,
            tile_rows: (TILE_VECTORS / group).clamp(1, n_rows.max(1)),
        }
    }

    fn vectors(&self) -> usize {
        self.tile_rows * self.group
    }

    /// f32 values of a thread: query vectors, scores, gathered keys and two partial results.
    fn thread_len(&self) -> usize {
        self.vectors() * (self.head_dim + SPLIT)
            + KEYS_AT_ONCE * self.head_dim
            + 2 * partial_len(self.vectors(), self.head_dim)
    }

    /// Rows times KV heads whose splits are shared by threads, at most.
    fn max_shared_units(&self) -> usize {
        if self.n_threads == 1 { 0 } else { FEW_UNITS * self.n_threads }
    }

    /// Rows whose partial results a wave has room for.
    fn wave(&self) -> usize {
        if self.n_threads == 1 { 0 } else { WAVE * self.n_threads }
    }

    /// f32 values of the wave's partial results, and of the units' results so far.
    fn shared_len(&self) -> usize {
        (self.wave() + self.max_shared_units()) * partial_len(self.group, self.head_dim)
    }

    /// u32 values of the order, and of the units' first tasks.
    fn index_len(&self) -> usize {
        order_len(self.n_rows) + self.max_shared_units() + 1
    }
}

/// One run of the operation.
struct Run<'a> {
    context: Context<'a>,
    batch: &'a BatchView<'a>,
    sizes: Sizes,
    q: Parts<'a, f32>,
    thread_values: Parts<'a, f32>,
    thread_slots: Parts<'a, u32>,
}

/// A tile of rows, with the query heads of one KV head.
struct Unit<'a> {
    rows: ArrayVec<TileRow<'a>, MAX_TILE_ROWS>,
    kv_head: usize,
}

/// See [`Backend::attend`](crate::backend::Backend::attend).
pub fn attend(
    cpu: &Cpu,
    area: &mut Area,
    op: &AttendOp,
    layer: Layer,
    batch: &BatchView<'_>,
    q: &mut Region,
) -> Result<()> {
    let sizes = Sizes::of(op, batch.n_rows, cpu.pool.n_threads());
    let mut values = area.take("attention tiles", 4 * sizes.n_threads * sizes.thread_len());
    let mut slots = area.take("attention slots", 4 * sizes.n_threads * SPLIT);
    let mut shared = area.take("attention splits", 4 * sizes.shared_len());
    let mut index = area.take("attention units", 4 * sizes.index_len());
    let result = if area.is_tracing() {
        Ok(())
    } else {
        let memory = cpu.memory()?;
        let run = Run {
            context: Context { kernels: cpu.kernels, op, kv: memory.kv(layer) },
            batch,
            q: Parts::new(memory.region_mut(q)),
            thread_values: Parts::new(memory.region_mut(&mut values)),
            thread_slots: Parts::new(memory.region_mut(&mut slots)),
            sizes,
        };
        let (shared, index) = (memory.region_mut(&mut shared), memory.region_mut(&mut index));
        run.all(cpu, shared, index)
    };
    for region in [values, slots, shared, index] {
        area.give(region);
    }
    result
}

impl<'a> Run<'a> {
    fn all(&self, cpu: &Cpu, shared: &mut [f32], index: &mut [u32]) -> Result<()> {
        let sequences = self.batch.sequences;
        let n_rows: usize = sequences.iter().map(|sequence| sequence.n as usize).sum();
        if n_rows > self.sizes.n_rows || sequences.len() > self.sizes.n_rows {
            return Err(Error::Internal(format!(
                "a batch of {} rows has {n_rows} rows in {} sequences",
                self.sizes.n_rows,
                sequences.len()
            )));
        }
        let n = n_rows * self.sizes.n_kv_heads;
        if n == 0 {
            return Ok(());
        }
        let (memory, first_tasks) = index.split_at_mut(order_len(self.sizes.n_rows));
        let order =
            |tile_rows, memory| Order::new(self.batch, self.sizes.n_rows, tile_rows, memory);
        if n <= self.sizes.max_shared_units() {
            let order = order(self.wave_rows(n), memory);
            return self.waves(cpu, &order, shared, first_tasks);
        }
        // Smaller tiles when there would be too few.
        let fair = match self.sizes.n_threads {
            1 => n,
            n_threads => n / (2 * FEW_UNITS * n_threads),
        };
        self.units(cpu, &order(fair.clamp(1, self.sizes.tile_rows), memory))
    }

    /// A unit is a task. Later rows see more keys, so the last units go first, each to whoever is free.
    fn units(&self, cpu: &Cpu, order: &Order<'_>) -> Result<()> {
        let n_units = order.n_tiles() * self.sizes.n_kv_heads;
        let next = AtomicUsize::new(0);
        let work = |_: usize, thread: usize| {
            let (values, slots) = self.of_thread(thread);
            loop {
                let taken = next.fetch_add(1, Ordering::Relaxed);
                if taken >= n_units {
                    return;
                }
                self.whole_unit(self.unit(order, n_units - 1 - taken), values, slots);
            }
        };
        cpu.pool.run(self.sizes.n_threads.min(n_units), &work)
    }

    fn unit<'o>(&self, order: &Order<'o>, unit: usize) -> Unit<'o> {
        let (tile, kv_head) = (unit / self.sizes.n_kv_heads, unit % self.sizes.n_kv_heads);
        Unit { rows: order.rows(tile), kv_head }
    }

    fn whole_unit(&self, mut unit: Unit<'_>, values: &mut [f32], slots: &mut [u32]) {
        let n = unit.rows.len() * self.sizes.group;
        let len = partial_len(n, self.sizes.head_dim);
        let (mut scratch, values) = self.scratch(values, slots);
        let (part, values) = values.split_at_mut(len);
        let mut whole = Partial::of(&mut values[..len], n);
        whole.clear();
        let mut part = Partial::of(part, n);
        self.load_q(&unit, scratch.q);
        for split in self.context.splits(&unit.rows).rev() {
            self.context.split(&mut unit.rows, unit.kv_head, split, &mut scratch, &mut part);
            self.context.merge(&unit.rows, split, &mut part, &mut whole);
        }
        self.store(&unit, &whole);
    }

    fn of_thread(&self, thread: usize) -> (&'a mut [f32], &'a mut [u32]) {
        let len = self.sizes.thread_len();
        // SAFETY: a thread runs one task at a time, and each has its own part.
        unsafe {
            (
                self.thread_values.part(thread * len, len),
                self.thread_slots.part(thread * SPLIT, SPLIT),
            )
        }
    }

    fn scratch<'s>(
        &self,
        values: &'s mut [f32],
        slots: &'s mut [u32],
    ) -> (Scratch<'s>, &'s mut [f32]) {
        let (q, values) = values.split_at_mut(self.sizes.vectors() * self.sizes.head_dim);
        let (scores, values) = values.split_at_mut(self.sizes.vectors() * SPLIT);
        let (gathered, values) = values.split_at_mut(KEYS_AT_ONCE * self.sizes.head_dim);
        (Scratch { q, scores, gathered, slots }, values)
    }

    fn load_q(&self, unit: &Unit<'_>, to: &mut [f32]) {
        let len = self.sizes.group * self.sizes.head_dim;
        for (row, to) in unit.rows.iter().zip(to.chunks_exact_mut(len)) {
            to.copy_from_slice(self.q_of(row, unit.kv_head));
        }
    }

    fn store(&self, unit: &Unit<'_>, whole: &Partial<'_>) {
        for (i, row) in unit.rows.iter().enumerate() {
            let heads = self.q_of(row, unit.kv_head).chunks_exact_mut(self.sizes.head_dim);
            heads.enumerate().for_each(|(g, to)| whole.finish(i * self.sizes.group + g, to));
        }
    }

    /// The query heads of a row that read the KV head.
    fn q_of(&self, row: &TileRow<'_>, kv_head: usize) -> &'a mut [f32] {
        let len = self.sizes.group * self.sizes.head_dim;
        let first = (row.row as usize * self.sizes.n_kv_heads + kv_head) * len;
        // SAFETY: the heads of a unit are read and written by its tasks only, and written after all have read.
        unsafe { self.q.part(first, len) }
    }
}
