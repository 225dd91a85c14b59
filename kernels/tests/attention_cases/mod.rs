//! Ragged batches over a KV repo with scattered slots, and what attention gives for them in f64.

use half::{bf16, f16};
use larder_kernels::attention::{Batch, NO_SEGMENT, Segment, SequenceRows, Shape};
use larder_kernels::kv::{KvKind, KvRows};

use crate::common::Random;

/// What a layer's attention is.
pub struct Case {
    pub shape: Shape,
    pub k: KvKind,
    pub v: KvKind,
    pub softcap: Option<f32>,
    /// Largest element of q.
    pub q_size: f32,
}

impl Case {
    pub fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// Of the largest output. 8-bit kinds are compared with what they stand for; K then meets q in f16, V the weights in
    /// bf16.
    pub fn tolerance(&self) -> f64 {
        let is = |kind| self.k == kind || self.v == kind;
        match () {
            () if is(KvKind::F32) => 5e-6,
            () if is(KvKind::BF16) => 6e-3,
            () if self.k.has_scales() || self.v.has_scales() => 2e-3,
            () => 1e-3,
        }
    }

    /// Every row's output; zeros where no sequence has the row.
    pub fn expected(&self, rows: &Rows, repo: &Repo, q: &[f32]) -> Vec<f64> {
        let (dim, n_heads) = (self.shape.head_dim as usize, self.shape.n_heads as usize);
        let group = n_heads / self.shape.n_kv_heads as usize;
        let mut expected = vec![0.0; q.len()];
        for sequence in &rows.sequences {
            let slots = rows.slots(sequence.last_segment, sequence.n_tokens);
            for i in 0..sequence.n {
                let position = sequence.n_tokens - sequence.n + i;
                let first =
                    self.shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
                let seen = &slots[first as usize..=position as usize];
                let row = rows.rows[(sequence.first + i) as usize] as usize;
                for head in 0..n_heads {
                    let place = (row * n_heads + head) * dim;
                    let out = self.head(repo, &q[place..][..dim], head / group, seen);
                    expected[place..][..dim].copy_from_slice(&out);
                }
            }
        }
        expected
    }

    fn head(&self, repo: &Repo, q: &[f32], kv_head: usize, seen: &[u32]) -> Vec<f64> {
        let score = |slot: &u32| {
            let k = repo.k(*slot, kv_head, q.len());
            let dot: f64 = q.iter().zip(k).map(|(&q, k)| f64::from(q) * k).sum();
            let score = dot * f64::from(self.scale());
            self.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<f64> = seen.iter().map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut out = vec![0.0; q.len()];
        for (slot, weight) in seen.iter().zip(weights) {
            let v = repo.v(*slot, kv_head, q.len());
            out.iter_mut().zip(v).for_each(|(out, v)| *out += weight / sum * v);
        }
        out
    }
}

/// One layer of a KV repo: its bytes, and the values that they stand for.
pub struct Repo {
    pub layout: KvRows,
    pub bytes: Vec<u8>,
    n_kv_heads: usize,
    k: Vec<f64>,
    v: Vec<f64>,
}

impl Repo {
    pub fn random(case: &Case, n_slots: usize, seed: u64) -> Repo {
        let (heads, dim) = (case.shape.n_kv_heads, case.shape.head_dim as usize);
        let layout = KvRows::new(0, case.k, case.v, heads, case.shape.head_dim);
        let mut bytes = vec![0xff; n_slots * layout.row_bytes as usize];
        let (mut k, mut v) = (Vec::new(), Vec::new());
        let mut random = Random::new(seed);
        for row in bytes.chunks_mut(layout.row_bytes as usize) {
            for head in 0..heads as usize {
                let places =
                    [(case.k, 0, layout.k_scales), (case.v, layout.v_offset, layout.v_scales)];
                for ((kind, first, scales), values) in places.into_iter().zip([&mut k, &mut v]) {
                    let size = kind.element_bytes() as usize;
                    let at = first as usize + head * dim * size;
                    let scale_at = scales as usize + 4 * head;
                    let scale =
                        if kind.has_scales() { 0.01 + random.value().abs() / 100.0 } else { 1.0 };
                    for i in 0..dim {
                        let (stored, value) = element(kind, scale, random.value());
                        row[at + i * size..][..size].copy_from_slice(&stored[..size]);
                        values.push(value);
                    }
                    if kind.has_scales() {
                        row[scale_at..][..4].copy_from_slice(&scale.to_le_bytes());
                    }
                }
            }
        }
        Repo { layout, bytes, n_kv_heads: heads as usize, k, v }
    }

    fn k(&self, slot: u32, head: usize, dim: usize) -> impl Iterator<Item = f64> {
        let first = (slot as usize * self.n_kv_heads + head) * dim;
        self.k[first..][..dim].iter().copied()
    }

    fn v(&self, slot: u32, head: usize, dim: usize) -> impl Iterator<Item = f64> {
        let first = (slot as usize * self.n_kv_heads + head) * dim;
        self.v[first..][..dim].iter().copied()
    }
}

/// The bytes of an element of a kind, and what they stand for. 8-bit kinds take numbers that all of them have.
fn element(kind: KvKind, scale: f32, value: f32) -> ([u8; 4], f64) {
    let [a, b, c, d] = match kind {
        KvKind::F32 => value.to_le_bytes(),
        KvKind::F16 => {
            let half = f16::from_f32(value);
            let [a, b] = half.to_le_bytes();
            return ([a, b, 0, 0], half.to_f64());
        }
        KvKind::BF16 => {
            let half = bf16::from_f32(value);
            let [a, b] = half.to_le_bytes();
            return ([a, b, 0, 0], half.to_f64());
        }
        KvKind::Int8 => {
            let number = (127.0 * value).round() as i8;
            return ([number as u8, 0, 0, 0], f64::from(number) * f64::from(scale));
        }
        KvKind::Fp8 => {
            // Sign, an exponent from 2^-3 to 2^4 and a mantissa of three bits.
            let mantissa = (value.abs() * 63.0) as u8;
            let bits = (mantissa + (4 << 3)) | if value < 0.0 { 0x80 } else { 0 };
            let exponent = i32::from(bits >> 3 & 15) - 7;
            let number = (1.0 + f64::from(bits & 7) / 8.0) * 2f64.powi(exponent);
            let number = if value < 0.0 { -number } else { number };
            return ([bits, 0, 0, 0], number * f64::from(scale));
        }
    };
    ([a, b, c, d], f64::from(value))
}

/// A batch whose sequences lie in runs of one to nine slots, in no order.
pub struct Rows {
    pub n_rows: u32,
    pub rows: Vec<u32>,
    pub sequences: Vec<SequenceRows>,
    segments: Vec<Segment>,
    free: Vec<Segment>,
}

/// A chain without rows: its last segment and its tokens.
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    last_segment: u32,
    n_tokens: u32,
}

impl Rows {
    /// No rows; all slots free.
    pub fn scattered(total_tokens: u32, seed: u64) -> Rows {
        let mut random = Random::new(seed);
        let (mut free, mut start) = (Vec::new(), 0);
        while start < total_tokens {
            // Now and then a run longer than a tile.
            let wanted = if random.below(6) == 0 { 80 } else { 1 + random.below(9) as u32 };
            let len = wanted.min(total_tokens - start);
            free.push(Segment { start, len, ..Segment::default() });
            start += len;
        }
        for i in (1..free.len()).rev() {
            free.swap(i, random.below(i + 1));
        }
        Rows { n_rows: 0, rows: Vec::new(), sequences: Vec::new(), segments: Vec::new(), free }
    }

    /// A sequence of `n_tokens` of which the last `n` are rows.
    pub fn add(&mut self, n_tokens: u32, n: u32) {
        self.add_behind(Chain { last_segment: NO_SEGMENT, n_tokens: 0 }, n_tokens, n);
    }

    /// The same behind a chain that others may have, too. Gives its own chain.
    pub fn add_behind(&mut self, parent: Chain, n_more: u32, n: u32) -> Chain {
        assert!(n <= n_more, "rows are a sequence's own");
        let chain = self.fork(parent, n_more);
        self.sequences.push(SequenceRows {
            first: self.rows.len() as u32,
            n,
            n_tokens: chain.n_tokens,
            last_segment: chain.last_segment,
        });
        self.rows.extend(self.n_rows..self.n_rows + n);
        self.n_rows += n;
        chain
    }

    pub fn chain(&mut self, n_tokens: u32) -> Chain {
        self.fork(Chain { last_segment: NO_SEGMENT, n_tokens: 0 }, n_tokens)
    }

    /// `n_more` tokens behind a chain.
    pub fn fork(&mut self, parent: Chain, n_more: u32) -> Chain {
        let mut chain = parent;
        let mut left = n_more;
        while left > 0 {
            let mut run = self.free.pop().expect("a free run");
            if run.len > left {
                let rest = Segment { start: run.start + left, len: run.len - left, ..run };
                self.free.push(rest);
                run.len = left;
            }
            let (first_position, parent) = (chain.n_tokens, chain.last_segment);
            self.segments.push(Segment { first_position, parent, ..run });
            chain = Chain {
                last_segment: self.segments.len() as u32 - 1,
                n_tokens: chain.n_tokens + run.len,
            };
            left -= run.len;
        }
        chain
    }

    /// The same with rows that no sequence has, in front and behind, and the others turned round.
    pub fn with_padding(mut self, n: u32) -> Rows {
        let n_rows = self.n_rows;
        self.rows.iter_mut().for_each(|row| *row = n / 2 + (n_rows - 1 - *row));
        self.n_rows += n;
        self
    }

    /// The slots of a sequence's tokens.
    fn slots(&self, last_segment: u32, n_tokens: u32) -> Vec<u32> {
        let mut slots = vec![u32::MAX; n_tokens as usize];
        let mut at = last_segment;
        while at != NO_SEGMENT {
            let segment = self.segments[at as usize];
            for i in 0..segment.len {
                slots[(segment.first_position + i) as usize] = segment.start + i;
            }
            at = segment.parent;
        }
        slots
    }
}

impl Batch for Rows {
    fn n_rows(&self) -> u32 {
        self.n_rows
    }

    fn n_sequences(&self) -> usize {
        self.sequences.len()
    }

    fn sequence(&self, i: usize) -> SequenceRows {
        self.sequences[i]
    }

    fn row(&self, i: u32) -> u32 {
        self.rows[i as usize]
    }

    fn segment(&self, i: u32) -> Segment {
        self.segments[i as usize]
    }
}
