//! Attention of some rows, for the query heads of one KV head, over one split of the positions.
//!
//! Splits lie at fixed positions, [`SPLIT`] wide, and are merged from the last to the first. So what a row computes,
//! and in which order, follows from its own position alone. Rows of several sequences take a split together when its
//! slots are the same for all of them.

use super::gathered::KEYS_AT_ONCE;
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

/// A row of a tile.
#[derive(Clone, Copy)]
pub struct TileRow<'a> {
    /// Its number in the batch.
    pub row: u32,
    pub position: u32,
    /// Splits, from the first on, shared with the tile's row before this one.
    pub n_joined: u32,
    /// Finds its sequence's slots.
    pub walker: Walker<'a>,
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

    /// That of some of the query vectors.
    pub fn of_vectors(&mut self, vectors: Range<usize>, head_dim: usize) -> Partial<'_> {
        let Range { start, end } = vectors;
        Partial {
            max: &mut self.max[start..end],
            sum: &mut self.sum[start..end],
            values: &mut self.values[start * head_dim..end * head_dim],
        }
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
    /// `[KEYS_AT_ONCE][head_dim]`, for keys and values gathered to f32.
    pub gathered: &'a mut [f32],
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

    /// Positions that a row sees.
    fn seen(&self, row: &TileRow<'_>) -> Range<usize> {
        let end = row.position as usize + 1;
        self.op.window.map_or(0, |window| end.saturating_sub(window as usize))..end
    }

    /// The splits that rows see, to be taken from the last to the first.
    pub fn splits(&self, rows: &[TileRow<'_>]) -> Range<usize> {
        let begin = rows.iter().map(|row| self.seen(row).start).min().unwrap_or(0);
        let end = rows.iter().map(|row| self.seen(row).end).max().unwrap_or(0);
        begin / SPLIT..end.div_ceil(SPLIT)
    }

    /// What a row sees of `split`, counted from position `base`; may be empty.
    fn seen_of(&self, row: &TileRow<'_>, split: usize, base: usize) -> Range<usize> {
        let seen = self.seen(row);
        let begin = seen.start.max(split * SPLIT).max(base);
        let end = seen.end.min((split + 1) * SPLIT).max(begin);
        begin - base..end - base
    }

    /// The first of `rows` from `first` on that see some of `split` and take it together, at the same slots.
    fn together(&self, rows: &[TileRow<'_>], first: usize, split: usize) -> Option<Range<usize>> {
        let sees = |row: &TileRow<'_>| !self.seen_of(row, split, 0).is_empty();
        let start = first + rows[first..].iter().position(&sees)?;
        let joins = |row: &&TileRow<'_>| row.n_joined as usize > split && sees(row);
        Some(start..start + 1 + rows[start + 1..].iter().take_while(joins).count())
    }

    /// Attention over one split; `scratch.q` and `part` have the rows' vectors. Rows that see nothing of it have no
    /// part.
    pub fn split(
        &self,
        rows: &mut [TileRow<'_>],
        kv_head: usize,
        split: usize,
        scratch: &mut Scratch<'_>,
        part: &mut Partial<'_>,
    ) {
        let (group, head_dim) = (self.group(), self.head_dim());
        let mut next = 0;
        while let Some(together) = self.together(rows, next, split) {
            next = together.end;
            let vectors = together.start * group..together.end * group;
            let mut scratch = Scratch {
                q: &mut scratch.q[vectors.start * head_dim..vectors.end * head_dim],
                scores: scratch.scores,
                gathered: scratch.gathered,
                slots: scratch.slots,
            };
            let mut part = part.of_vectors(vectors, head_dim);
            self.split_together(&mut rows[together], kv_head, split, &mut scratch, &mut part);
        }
    }

    /// Of rows that take the split together.
    fn split_together(
        &self,
        rows: &mut [TileRow<'_>],
        kv_head: usize,
        split: usize,
        scratch: &mut Scratch<'_>,
        part: &mut Partial<'_>,
    ) {
        let (group, head_dim) = (self.group(), self.head_dim());
        let n = rows.len() * group;
        let of_rows = |row: &TileRow<'_>| self.seen_of(row, split, 0);
        let begin = rows.iter().map(|row| of_rows(row).start).min().unwrap_or(0);
        let end = rows.iter().map(|row| of_rows(row).end).max().unwrap_or(begin);
        let slots = &mut scratch.slots[..end - begin];
        rows[0].walker.gather(begin, slots, self.kv.n_slots);
        let q = vectors(scratch.q, head_dim, n);
        let head = |base| HeadRows { base, row_bytes: self.kv.row_bytes, head_dim, slots };
        let keys = head(self.kv.k(kv_head));
        self.scores(q, keys, vectors(scratch.scores, SPLIT, n), scratch.gathered);
        for i in 0..n {
            let seen = self.seen_of(&rows[i / group], split, begin);
            let row = &mut scratch.scores[i * SPLIT..][seen];
            (part.max[i], part.sum[i]) = self.softmax(row);
        }
        part.values.fill(0.0);
        let weights = vectors(scratch.scores, SPLIT, n);
        let sums = vectors(part.values, head_dim, n);
        let seen = |row: usize| self.seen_of(&rows[row], split, begin);
        let values = head(self.kv.v(kv_head));
        self.sum_values(rows.len(), &seen, values, weights, sums, scratch.gathered);
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
        n_rows: usize,
        seen: &dyn Fn(usize) -> Range<usize>,
        values: HeadRows<'_>,
        weights: Rows,
        sums: Rows,
        gathered: &mut [f32],
    ) {
        let group = self.group();
        let begin = (0..n_rows).map(|row| seen(row).start).max().unwrap_or(0);
        let end = (0..n_rows).map(|row| seen(row).end).min().unwrap_or(0);
        let common = begin..end;
        let each = |keys: &dyn Fn(Range<usize>) -> Range<usize>, gathered: &mut [f32]| {
            for row in 0..n_rows {
                let (weights, sums) = (of_row(weights, row, group), of_row(sums, row, group));
                self.sums(weights, values, keys(seen(row)), sums, gathered);
            }
        };
        if common.is_empty() {
            return each(&|seen| seen, gathered);
        }
        each(&|seen| seen.start..common.start, gathered);
        self.sums(weights, values, common.clone(), sums, gathered);
        each(&|seen| common.end..seen.end, gathered);
    }

    fn scores(&self, q: Rows, keys: HeadRows<'_>, to: Rows, gathered: &mut [f32]) {
        assert!(gathered.len() >= KEYS_AT_ONCE * keys.head_dim);
        let kernel = match self.kv.layout.k_type {
            KvType::F32 => self.kernels.scores_f32,
            KvType::F16 => self.kernels.scores_f16,
            KvType::BF16 => self.kernels.scores_bf16,
            KvType::Int8 | KvType::Fp8 => unreachable!("refused by prepare"),
        };
        // SAFETY: `q` and `to` have the rows' vectors, the walker checked the slots, and the processor fits.
        unsafe { kernel(q, keys, self.op.scale, to, gathered.as_mut_ptr()) };
    }

    fn sums(
        &self,
        weights: Rows,
        values: HeadRows<'_>,
        keys: Range<usize>,
        to: Rows,
        gathered: &mut [f32],
    ) {
        assert!(gathered.len() >= KEYS_AT_ONCE * values.head_dim);
        let kernel = match self.kv.layout.v_type {
            KvType::F32 => self.kernels.sums_f32,
            KvType::F16 => self.kernels.sums_f16,
            KvType::BF16 => self.kernels.sums_bf16,
            KvType::Int8 | KvType::Fp8 => unreachable!("refused by prepare"),
        };
        // SAFETY: as in `scores`; `keys` lie among the slots.
        unsafe { kernel(weights, values, keys.start, keys.end, to, gathered.as_mut_ptr()) };
    }

    /// Adds `part`, the rows' attention over a split, to `whole`, their attention over all later ones.
    pub fn merge(
        &self,
        rows: &[TileRow<'_>],
        split: usize,
        part: &mut Partial<'_>,
        whole: &mut Partial<'_>,
    ) {
        let (group, head_dim) = (self.group(), self.head_dim());
        let mut next = 0;
        while let Some(together) = self.together(rows, next, split) {
            next = together.end;
            let vectors = together.start * group..together.end * group;
            let part = part.of_vectors(vectors.clone(), head_dim);
            self.merge_vectors(&part, &mut whole.of_vectors(vectors, head_dim));
        }
    }

    fn merge_vectors(&self, part: &Partial<'_>, whole: &mut Partial<'_>) {
        let head_dim = self.head_dim();
        for i in 0..part.max.len() {
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

fn vectors(memory: &mut [f32], stride: usize, n: usize) -> Rows {
    assert!(n * stride <= memory.len());
    Rows { at: memory.as_mut_ptr(), stride, n }
}

/// The query vectors of one row of a tile.
fn of_row(rows: Rows, row: usize, group: usize) -> Rows {
    debug_assert!((row + 1) * group <= rows.n);
    // SAFETY: inside the rows.
    Rows { at: unsafe { rows.at.add(row * group * rows.stride) }, n: group, ..rows }
}
