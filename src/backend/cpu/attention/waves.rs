//! Few units, many positions: the splits of all units are the tasks. Their partial results go to a fixed number of
//! places, wave by wave, and are merged in the same order as within a unit.

use super::order::Order;
use super::tile::{Partial, SPLIT, partial_len};
use super::{Run, Unit, WAVE};
use crate::backend::cpu::Cpu;
use crate::backend::cpu::memory::Parts;
use crate::error::Result;

/// Splits that a thread should get, before more rows are put into a tile.
const FEW_SPLITS: usize = 2;

/// The tasks of a run, and where their results go.
struct Waves<'a> {
    run: &'a Run<'a>,
    order: &'a Order<'a>,
    /// By unit: the tasks before it; and the number of tasks.
    first_tasks: &'a [u32],
    /// `[tasks of a wave]` results of `part_len` values.
    parts: Parts<'a, f32>,
    part_len: usize,
    /// By unit: its result so far.
    wholes: Parts<'a, f32>,
}

impl Run<'_> {
    /// Rows of a tile when the splits of `n` rows times heads are the tasks: more where splits suffice for all threads.
    pub fn wave_rows(&self, n: usize) -> usize {
        let n_tokens = |window: usize| {
            let sequences = self.batch.sequences.iter();
            sequences.map(|sequence| window.min(sequence.n_tokens as usize)).max().unwrap_or(0)
        };
        let window = self.context.op.window.map_or(usize::MAX, |window| window as usize);
        let n_splits = n * n_tokens(window).div_ceil(SPLIT);
        let fair = n_splits / (FEW_SPLITS * self.sizes.n_threads);
        fair.clamp(1, WAVE.min(self.sizes.tile_rows))
    }

    /// The splits of few units as tasks, in waves.
    pub fn waves(
        &self,
        cpu: &Cpu,
        order: &Order<'_>,
        shared: &mut [f32],
        first_tasks: &mut [u32],
    ) -> Result<()> {
        let n_units = order.n_tiles() * self.sizes.n_kv_heads;
        let (mut n_tasks, mut most_rows) = (0, 1);
        for (unit, first_task) in first_tasks[..n_units].iter_mut().enumerate() {
            let unit = self.unit(order, unit);
            *first_task = n_tasks as u32;
            n_tasks += self.context.splits(&unit.rows).len();
            most_rows = most_rows.max(unit.rows.len());
        }
        first_tasks[n_units] = n_tasks as u32;
        let row_len = partial_len(self.sizes.group, self.sizes.head_dim);
        let (parts, wholes) = shared.split_at_mut(self.sizes.wave() * row_len);
        let waves = Waves {
            run: self,
            order,
            first_tasks: &first_tasks[..n_units + 1],
            parts: Parts::new(parts),
            part_len: most_rows * row_len,
            wholes: Parts::new(wholes),
        };
        (0..n_units).for_each(|i| waves.whole(i, &self.unit(order, i)).clear());
        let wave = self.sizes.wave() / most_rows;
        for begin in (0..n_tasks).step_by(wave) {
            let end = n_tasks.min(begin + wave);
            cpu.pool.run(end - begin, &|task, thread| waves.split(begin, begin + task, thread))?;
            let units = waves.unit_of(begin)..waves.unit_of(end - 1) + 1;
            cpu.pool.run(units.len(), &|task, _| waves.merge(begin, end, units.start + task))?;
        }
        Ok(())
    }
}

impl Waves<'_> {
    fn unit_of(&self, task: usize) -> usize {
        self.first_tasks.partition_point(|&first| first as usize <= task) - 1
    }

    /// The split of a task: a unit's last one comes first.
    fn split_of(&self, task: usize, number: usize, unit: &Unit<'_>) -> usize {
        let splits = self.run.context.splits(&unit.rows);
        splits.end - 1 - (task - self.first_tasks[number] as usize)
    }

    fn split(&self, begin: usize, task: usize, thread: usize) {
        let number = self.unit_of(task);
        let mut unit = self.run.unit(self.order, number);
        let split = self.split_of(task, number, &unit);
        let (values, slots) = self.run.of_thread(thread);
        let (mut scratch, _) = self.run.scratch(values, slots);
        self.run.load_q(&unit, scratch.q);
        let mut part = self.part(begin, task, &unit);
        let context = &self.run.context;
        context.split(&mut unit.rows, unit.kv_head, split, &mut scratch, &mut part);
    }

    /// What the tasks `begin .. end` of a wave bring to a unit.
    fn merge(&self, begin: usize, end: usize, number: usize) {
        let unit = self.run.unit(self.order, number);
        let mut whole = self.whole(number, &unit);
        let (first, last) =
            (self.first_tasks[number] as usize, self.first_tasks[number + 1] as usize);
        for task in first.max(begin)..last.min(end) {
            let split = self.split_of(task, number, &unit);
            let mut part = self.part(begin, task, &unit);
            self.run.context.merge(&unit.rows, split, &mut part, &mut whole);
        }
        if last <= end {
            self.run.store(&unit, &whole);
        }
    }

    fn part(&self, begin: usize, task: usize, unit: &Unit<'_>) -> Partial<'_> {
        let n = unit.rows.len() * self.run.sizes.group;
        let len = partial_len(n, self.run.sizes.head_dim);
        // SAFETY: every task of the wave has its own part; they are merged after all are done.
        Partial::of(unsafe { self.parts.part((task - begin) * self.part_len, len) }, n)
    }

    /// The result so far of unit `number`.
    fn whole(&self, number: usize, unit: &Unit<'_>) -> Partial<'_> {
        let sizes = &self.run.sizes;
        let n = unit.rows.len() * sizes.group;
        let len = partial_len(n, sizes.head_dim);
        let first = self.order.first_row(number / sizes.n_kv_heads) * sizes.n_kv_heads;
        let row_len = partial_len(sizes.group, sizes.head_dim);
        let first = first * row_len + unit.kv_head * len;
        // SAFETY: a unit is merged by one task of a wave only, and waves follow one another.
        Partial::of(unsafe { self.wholes.part(first, len) }, n)
    }
}
