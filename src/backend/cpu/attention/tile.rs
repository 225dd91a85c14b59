//! Attention of some rows of one sequence, for the query heads of one KV head, over one split of the positions.
//!
//! Splits lie at fixed positions, [`SPLIT`] wide, and are merged from the last to the first. So what a row computes,
//! and in which order, follows from its own position alone.

use super::kernel::{HeadRows, Rows};
use super::slots::Walker;
use crate::backend::cpu::dispatch::Kernels;
use crate::backend::cpu::memory::KvView;
use crate::backend::ops::AttendOp;
use crate::dtype::KvType;
use std::ops::Range;

/// Positions of a split.
pub const SPLIT: usize = 256;

/// What is the same for all tiles of an operation.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub kernels: &'static Kernels,
    pub op: &'a AttendOp,
    pub kv: KvView<'a>,
}

/// Rows of consecutive positions, and the KV head whose group of query heads they bring.
#[derive(Clone, Copy)]
pub struct Tile {
    pub first_position: usize,
    pub n_rows: usize,
    pub kv_head: usize,
}

/// A softmax under way, for each query vector: its largest score, the sum of exponentials, the sum of values.
pub struct Partial<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    values: &'a mut [f32],
}

/// f32 values of a [`Partial`] of `n` query vectors.
pub const fn partial_len(n: usize, head_dim: usize) -> usize {
    n * (head_dim + 2)
}

impl<'a> Partial<'a> {
    /// In `memory` of [`partial_len`] values, as it was left.
    pub fn of(memory: &'a mut [f32], n: usize) -> Partial<'a> {
        let (max, memory) = memory.split_at_mut(n);
        let (sum, values) = memory.split_at_mut(n);
        Partial { max, sum, values }
    }

    /// Of no key at all.
    pub fn clear(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.values.fill(0.0);
    }

    /// The values' mean of query vector `i`.
    pub fn finish(&self, i: usize, to: &mut [f32]) {
        let factor = 1.0 / self.sum[i];
        let values = &self.values[i * to.len()..(i + 1) * to.len()];
        to.iter_mut().zip(values).for_each(|(to, value)| *to = value * factor);
    }
}

/// Room of one thread.
pub struct Scratch<'a> {
    /// `[query vectors][head_dim]`
    pub q: &'a mut [f32],
    /// `[query vectors][SPLIT]`
    pub scores: &'a mut [f32],
    /// `[SPLIT]`
    pub slots: &'a mut [u32],
}

impl Context<'_> {
    /// Query heads that share a KV head.
    pub fn group(&self) -> usize {
        (self.op.heads.n_heads / self.op.heads.n_kv_heads) as usize
    }

    fn head_dim(&self) -> usize {
        self.op.heads.head_dim as usize
    }

    /// Positions that the query at `position` sees.
    fn seen(&self, position: usize) -> Range<usize> {
        let end = position + 1;
        self.op.window.map_or(0, |window| end.saturating_sub(window as usize))..end
    }

    /// The splits that a tile sees, to be taken from the last to the first.
    pub fn splits(&self, tile: &Tile) -> Range<usize> {
        let last = tile.first_position + tile.n_rows - 1;
        self.seen(tile.first_position).start / SPLIT..last / SPLIT + 1
    }

    /// What the query at `position` sees of `split`, counted from position `base`; may be empty.
    fn seen_of(&self, position: usize, split: usize, base: usize) -> Range<usize> {
        let seen = self.seen(position);
        let begin = seen.start.max(split * SPLIT).max(base);
        let end = seen.end.min((split + 1) * SPLIT).max(begin);
        begin - base..end - base
    }

    /// Attention over one split; `scratch.q` holds the tile's query vectors, row by row.
    pub fn split(
        &self,
        tile: &Tile,
        split: usize,
        walker: &mut Walker<'_>,
        scratch: &mut Scratch<'_>,
        part: &mut Partial<'_>,
    ) {
        let (group, head_dim) = (self.group(), self.head_dim());
        let n = tile.n_rows * group;
        let begin = self.seen(tile.first_position).start.max(split * SPLIT);
        let end = (tile.first_position + tile.n_rows).min((split + 1) * SPLIT);
        let slots = &mut scratch.slots[..end - begin];
        walker.gather(begin, slots, self.kv.n_slots);
        let q = rows(scratch.q, head_dim, n);
        let head = |base| HeadRows { base, row_bytes: self.kv.row_bytes, head_dim, slots };
        self.scores(q, head(self.kv.k(tile.kv_head)), rows(scratch.scores, SPLIT, n));
        for i in 0..n {
            let seen = self.seen_of(tile.first_position + i / group, split, begin);
            let row = &mut scratch.scores[i * SPLIT..][seen];
            (part.max[i], part.sum[i]) = self.softmax(row);
        }
        part.values.fill(0.0);
        let weights = rows(scratch.scores, SPLIT, n);
        self.sum_values(tile, split, begin, head(self.kv.v(tile.kv_head)), weights, part);
    }

    /// Scores to exponentials; returns the largest score and the exponentials' sum.
    fn softmax(&self, scores: &mut [f32]) -> (f32, f32) {
        // SAFETY: the table is one of those that this processor supports.
        unsafe {
            if let Some(cap) = self.op.softcap {
                (self.kernels.softcap_row)(scores, cap);
            }
            let max = (self.kernels.max_row)(scores);
            (max, (self.kernels.exp_shifted)(scores, max, 1.0))
        }
    }

    /// The keys that all rows see are taken together; before and behind them each row has its own.
    fn sum_values(
        &self,
        tile: &Tile,
        split: usize,
        base: usize,
        values: HeadRows<'_>,
        weights: Rows,
        part: &mut Partial<'_>,
    ) {
        let (group, head_dim) = (self.group(), self.head_dim());
        let seen = |row: usize| self.seen_of(tile.first_position + row, split, base);
        let sums = rows(part.values, head_dim, tile.n_rows * group);
        let common = seen(tile.n_rows - 1).start..seen(0).end;
        let each = |keys: &dyn Fn(Range<usize>) -> Range<usize>| {
            for row in 0..tile.n_rows {
                let keys = keys(seen(row));
                self.sums(of_row(weights, row, group), values, keys, of_row(sums, row, group));
            }
        };
        if common.is_empty() {
            return each(&|seen| seen);
        }
        each(&|seen| seen.start..common.start);
        self.sums(weights, values, common.clone(), sums);
        each(&|seen| common.end..seen.end);
    }

    fn scores(&self, q: Rows, keys: HeadRows<'_>, to: Rows) {
        let kernel = match self.kv.layout.k_type {
            KvType::F32 => self.kernels.scores_f32,
            KvType::F16 => self.kernels.scores_f16,
            KvType::BF16 => self.kernels.scores_bf16,
            KvType::Int8 | KvType::Fp8 => unreachable!("refused by prepare"),
        };
        // SAFETY: `q` and `to` have the tile's rows, the walker checked the slots, and the processor fits.
        unsafe { kernel(q, keys, self.op.scale, to) };
    }

    fn sums(&self, weights: Rows, values: HeadRows<'_>, keys: Range<usize>, to: Rows) {
        let kernel = match self.kv.layout.v_type {
            KvType::F32 => self.kernels.sums_f32,
            KvType::F16 => self.kernels.sums_f16,
            KvType::BF16 => self.kernels.sums_bf16,
            KvType::Int8 | KvType::Fp8 => unreachable!("refused by prepare"),
        };
        // SAFETY: as in `scores`; `keys` lie among the slots.
        unsafe { kernel(weights, values, keys.start, keys.end, to) };
    }

    /// Adds `part`, the tile's attention over `split`, to `whole`, its attention over all later splits.
    pub fn merge(&self, tile: &Tile, split: usize, part: &Partial<'_>, whole: &mut Partial<'_>) {
        let (group, head_dim) = (self.group(), self.head_dim());
        for i in 0..tile.n_rows * group {
            // A row that sees nothing of this split must not notice that others do.
            if self.seen_of(tile.first_position + i / group, split, 0).is_empty() {
                continue;
            }
            let max = whole.max[i].max(part.max[i]);
            let (keep, factor) = ((whole.max[i] - max).exp(), (part.max[i] - max).exp());
            whole.max[i] = max;
            whole.sum[i] = whole.sum[i] * keep + part.sum[i] * factor;
            let elements = i * head_dim..(i + 1) * head_dim;
            let (to, from) = (&mut whole.values[elements.clone()], &part.values[elements]);
            // SAFETY: the table is one of those that this processor supports.
            unsafe { (self.kernels.blend_row)(to, keep, from, factor) };
        }
    }
}

fn rows(memory: &mut [f32], stride: usize, n: usize) -> Rows {
    assert!(n * stride <= memory.len());
    Rows { at: memory.as_mut_ptr(), stride, n }
}

/// The query vectors of one row of a tile.
fn of_row(rows: Rows, row: usize, group: usize) -> Rows {
    debug_assert!((row + 1) * group <= rows.n);
    // SAFETY: inside the rows.
    Rows { at: unsafe { rows.at.add(row * group * rows.stride) }, n: group, ..rows }
}
