//! Attention over the KV repo. The output takes q's place, so nothing of the size of the batch is needed.
//!
//! A **unit** is some rows of one sequence with one KV head. With enough units for all threads, a unit is a task. With
//! few (decoding), the splits of all units are the tasks: their partial results go to a fixed number of places, wave
//! by wave, and are merged in the same order as within a unit. Both ways give the same bits.

pub mod kernel;
mod slots;
mod tile;

use super::Cpu;
use super::memory::Parts;
use crate::area::{Area, Region};
use crate::backend::ops::{AttendOp, BatchSequence, BatchView};
use crate::error::{Error, Result};
use crate::ids::Layer;
use slots::Walker;
use std::sync::atomic::{AtomicUsize, Ordering};
use tile::{Context, Partial, SPLIT, Scratch, Tile, partial_len};

/// Query vectors of a tile, unless one row has more.
const TILE_VECTORS: usize = 32;
/// Units below this number per thread are shared by threads.
const FEW_UNITS: usize = 2;
/// Partial results of a wave, per thread.
const WAVE: usize = 4;

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

    /// f32 values of a thread: query vectors, scores and two partial results.
    fn thread_len(&self) -> usize {
        self.vectors() * (self.head_dim + SPLIT) + 2 * partial_len(self.vectors(), self.head_dim)
    }

    /// Units that are shared by threads, at most.
    fn max_shared_units(&self) -> usize {
        if self.n_threads == 1 { 0 } else { FEW_UNITS * self.n_threads }
    }

    fn wave(&self) -> usize {
        if self.n_threads == 1 { 0 } else { WAVE * self.n_threads }
    }

    /// f32 values of the wave's partial results, and of the units' results so far.
    fn shared_len(&self) -> usize {
        (self.wave() + self.max_shared_units()) * partial_len(self.group, self.head_dim)
    }

    fn index_len(&self) -> usize {
        self.n_rows.max(self.max_shared_units()) + 1
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

/// A unit as the batch has it.
#[derive(Clone, Copy)]
struct Unit {
    sequence: BatchSequence,
    /// Its first row, counted in the sequence's rows.
    first: usize,
    tile: Tile,
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
        if n_rows > self.sizes.n_rows || sequences.len() >= index.len() {
            return Err(Error::Internal(format!(
                "a batch of {} rows has {n_rows} rows in {} sequences",
                self.sizes.n_rows,
                sequences.len()
            )));
        }
        let n_units = n_rows * self.sizes.n_kv_heads;
        if n_units == 0 {
            return Ok(());
        }
        if n_units <= self.sizes.max_shared_units() {
            return self.share_units(cpu, n_units, shared, index);
        }
        // Smaller tiles when there would be too few.
        let fair = n_units / (2 * FEW_UNITS * self.sizes.n_threads);
        self.units(cpu, fair.clamp(1, self.sizes.tile_rows), index)
    }

    /// A unit is a task. Later rows see more keys, so the last units go first, each to whoever is free.
    fn units(&self, cpu: &Cpu, tile_rows: usize, index: &mut [u32]) -> Result<()> {
        let sequences = self.batch.sequences;
        let mut n_tiles = 0;
        for (i, sequence) in sequences.iter().enumerate() {
            index[i] = n_tiles;
            n_tiles += sequence.n.div_ceil(tile_rows as u32);
        }
        let first_tiles = &index[..sequences.len()];
        let n_units = n_tiles as usize * self.sizes.n_kv_heads;
        let next = AtomicUsize::new(0);
        let work = |_: usize, thread: usize| {
            let (values, slots) = self.of_thread(thread);
            loop {
                let taken = next.fetch_add(1, Ordering::Relaxed);
                if taken >= n_units {
                    return;
                }
                let unit = n_units - 1 - taken;
                let (tile, kv_head) =
                    ((unit / self.sizes.n_kv_heads) as u32, unit % self.sizes.n_kv_heads);
                let i = first_tiles.partition_point(|&first| first <= tile) - 1;
                let first = (tile - first_tiles[i]) as usize * tile_rows;
                self.whole_unit(&unit_of(sequences[i], first, tile_rows, kv_head), values, slots);
            }
        };
        cpu.pool.run(self.sizes.n_threads.min(n_units), &work)
    }

    fn whole_unit(&self, unit: &Unit, values: &mut [f32], slots: &mut [u32]) {
        let (context, tile, n) = (&self.context, &unit.tile, unit.tile.n_rows * self.sizes.group);
        let (mut scratch, values) = self.scratch(values, slots);
        let (part, values) = values.split_at_mut(partial_len(n, self.sizes.head_dim));
        let mut part = Partial::of(part, n);
        let mut whole = Partial::of(&mut values[..partial_len(n, self.sizes.head_dim)], n);
        whole.clear();
        self.load_q(unit, scratch.q);
        let mut walker = Walker::new(self.batch.segments, unit.sequence.last_segment);
        for split in context.splits(tile).rev() {
            context.split(tile, split, &mut walker, &mut scratch, &mut part);
            context.merge(tile, split, &part, &mut whole);
        }
        self.store(unit, &whole);
    }

    /// The splits of few units as tasks, in waves.
    fn share_units(
        &self,
        cpu: &Cpu,
        n_units: usize,
        shared: &mut [f32],
        index: &mut [u32],
    ) -> Result<()> {
        let len = partial_len(self.sizes.group, self.sizes.head_dim);
        let (parts, wholes) = shared.split_at_mut(self.sizes.wave() * len);
        let (parts, wholes) = (Parts::new(parts), Parts::new(wholes));
        let mut n_items = 0;
        for (unit, first_item) in index[..n_units].iter_mut().enumerate() {
            *first_item = n_items;
            n_items += self.context.splits(&self.single(unit).tile).len() as u32;
        }
        index[n_units] = n_items;
        let (first_items, n_items) = (&index[..n_units + 1], n_items as usize);
        let unit_of_item =
            |item: usize| first_items.partition_point(|&first| first as usize <= item) - 1;
        // SAFETY: a unit is merged by one task of a wave only, and waves follow one another.
        let whole = |unit: usize| unsafe { wholes.part(unit * len, len) };
        (0..n_units).for_each(|unit| Partial::of(whole(unit), self.sizes.group).clear());

        for begin in (0..n_items).step_by(self.sizes.wave()) {
            let end = n_items.min(begin + self.sizes.wave());
            // SAFETY: every item of the wave has its own part; they are merged after all are done.
            let part = |item: usize| unsafe { parts.part((item - begin) * len, len) };
            let split_of = |item: usize, unit: usize| first_items[unit + 1] as usize - 1 - item;
            cpu.pool.run(end - begin, &|task, thread| {
                let unit = unit_of_item(begin + task);
                let split = split_of(begin + task, unit);
                self.one_split(&self.single(unit), split, thread, part(begin + task));
            })?;
            let units = unit_of_item(begin)..unit_of_item(end - 1) + 1;
            cpu.pool.run(units.len(), &|task, _| {
                let number = units.start + task;
                let unit = self.single(number);
                let mut whole = Partial::of(whole(number), self.sizes.group);
                let (first, last) =
                    (first_items[number] as usize, first_items[number + 1] as usize);
                for item in first.max(begin)..last.min(end) {
                    let part = Partial::of(part(item), self.sizes.group);
                    self.context.merge(
                        &unit.tile,
                        self.split_number(&unit, split_of(item, number)),
                        &part,
                        &mut whole,
                    );
                }
                if last <= end {
                    self.store(&unit, &whole);
                }
            })?;
        }
        Ok(())
    }

    /// Splits are counted from the first that a unit sees.
    fn split_number(&self, unit: &Unit, counted: usize) -> usize {
        self.context.splits(&unit.tile).start + counted
    }

    fn one_split(&self, unit: &Unit, counted: usize, thread: usize, part: &mut [f32]) {
        let (values, slots) = self.of_thread(thread);
        let (mut scratch, _) = self.scratch(values, slots);
        self.load_q(unit, scratch.q);
        let mut walker = Walker::new(self.batch.segments, unit.sequence.last_segment);
        let mut part = Partial::of(part, self.sizes.group);
        let split = self.split_number(unit, counted);
        self.context.split(&unit.tile, split, &mut walker, &mut scratch, &mut part);
    }

    /// Unit number `unit` when each has one row.
    fn single(&self, unit: usize) -> Unit {
        let (mut row, kv_head) = (unit / self.sizes.n_kv_heads, unit % self.sizes.n_kv_heads);
        for &sequence in self.batch.sequences {
            if row < sequence.n as usize {
                return unit_of(sequence, row, 1, kv_head);
            }
            row -= sequence.n as usize;
        }
        panic!("unit {unit} is not in the batch")
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
        (Scratch { q, scores, slots }, values)
    }

    fn load_q(&self, unit: &Unit, to: &mut [f32]) {
        let len = self.sizes.group * self.sizes.head_dim;
        for (row, to) in to.chunks_exact_mut(len).enumerate().take(unit.tile.n_rows) {
            to.copy_from_slice(self.q_of(unit, row));
        }
    }

    fn store(&self, unit: &Unit, whole: &Partial<'_>) {
        for row in 0..unit.tile.n_rows {
            let heads = self.q_of(unit, row).chunks_exact_mut(self.sizes.head_dim);
            heads.enumerate().for_each(|(g, to)| whole.finish(row * self.sizes.group + g, to));
        }
    }

    /// The group's query heads of row `row` of the unit.
    fn q_of(&self, unit: &Unit, row: usize) -> &'a mut [f32] {
        let row = self.batch.rows[unit.sequence.first as usize + unit.first + row] as usize;
        let len = self.sizes.group * self.sizes.head_dim;
        let first = (row * self.sizes.n_kv_heads + unit.tile.kv_head) * len;
        // SAFETY: the heads of a unit are read and written by its tasks only, and written after all have read.
        unsafe { self.q.part(first, len) }
    }
}

/// Up to `tile_rows` rows of `sequence` from its row `first` on.
fn unit_of(sequence: BatchSequence, first: usize, tile_rows: usize, kv_head: usize) -> Unit {
    let n_rows = tile_rows.min(sequence.n as usize - first);
    let first_position = (sequence.n_tokens - sequence.n) as usize + first;
    Unit { sequence, first, tile: Tile { first_position, n_rows, kv_head } }
}
