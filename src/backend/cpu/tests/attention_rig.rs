//! A repo with some sequences in it, alone or as a forest of forks, and attention over any of their rows.

use super::twin::{self, wide};
use super::{Config, Random, Rig, Weights, get, one_layer, put};
use crate::backend::Backend;
use crate::backend::ops::{AttendOp, BatchSequence, BatchView, Heads, KvLayout, RowInput};
use crate::dtype::KvType;
use crate::ids::{Layer, NO_SEGMENT, Segment, Slot};

pub const TYPES: [(KvType, KvType); 4] = [
    (KvType::BF16, KvType::BF16),
    (KvType::F32, KvType::F32),
    (KvType::F16, KvType::BF16),
    (KvType::BF16, KvType::F16),
];

pub fn heads(n_heads: u32, n_kv_heads: u32, head_dim: u32) -> Heads {
    Heads { n_heads, n_kv_heads, head_dim }
}

pub fn op(heads: Heads, window: Option<u32>, softcap: Option<f32>) -> AttendOp {
    AttendOp { heads, scale: 1.3 / (heads.head_dim as f32).sqrt(), window, softcap }
}

/// A sequence's q, K and V for all positions, `[position][head][head_dim]`, rounded as the repo stores them.
pub struct Sequence {
    q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub n: usize,
}

fn rounded(kind: KvType, values: Vec<f32>) -> Vec<f32> {
    let round = |value: f32| match kind {
        KvType::F32 => value,
        KvType::F16 => half::f16::from_f32(value).to_f32(),
        KvType::BF16 => half::bf16::from_f32(value).to_f32(),
        KvType::Int8 | KvType::Fp8 => unreachable!("not on the CPU"),
    };
    values.into_iter().map(round).collect()
}

fn stored(kind: KvType, value: f32) -> Vec<u8> {
    match kind {
        KvType::F32 => value.to_le_bytes().to_vec(),
        KvType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
        KvType::BF16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        KvType::Int8 | KvType::Fp8 => unreachable!("not on the CPU"),
    }
}

impl Sequence {
    fn new(seed: u64, heads: Heads, (k_type, v_type): (KvType, KvType), n: usize) -> Sequence {
        let mut random = Random(seed);
        let head_dim = heads.head_dim as usize;
        let (q_len, kv_len) =
            (heads.n_heads as usize * head_dim, heads.n_kv_heads as usize * head_dim);
        Sequence {
            q: random.units(n * q_len).iter().map(|q| 3.0 * q).collect(),
            k: rounded(k_type, random.units(n * kv_len)),
            v: rounded(v_type, random.units(n * kv_len)),
            n,
        }
    }

    /// Gives it the first `n` positions of another one.
    fn begin_as(&mut self, other: &Sequence, n: usize) {
        let from = [&other.q, &other.k, &other.v];
        for (to, from) in [&mut self.q, &mut self.k, &mut self.v].into_iter().zip(from) {
            let len = n * (from.len() / other.n);
            to[..len].copy_from_slice(&from[..len]);
        }
    }

    /// Attention of `position`, all heads.
    pub fn expected(&self, op: &AttendOp, position: usize) -> Vec<f64> {
        let head_dim = op.heads.head_dim as usize;
        let (n_q, n_kv) = (op.heads.n_heads as usize, op.heads.n_kv_heads as usize);
        let of = |all: &[f32], n_heads: usize, position: usize, head: usize| {
            let first = (position * n_heads + head) * head_dim;
            wide(&all[first..first + head_dim])
        };
        let mut out = Vec::new();
        for head in 0..n_q {
            let kv_head = head / (n_q / n_kv);
            let rows =
                |all| -> Vec<_> { (0..=position).map(|p| of(all, n_kv, p, kv_head)).collect() };
            let q = of(&self.q, n_q, position, head);
            out.extend(twin::attention(op, position, &q, &rows(&self.k), &rows(&self.v)));
        }
        out
    }
}

/// Slots in runs of at most `run` at random places for the positions `from .. n`, as segments appended to `segments`
/// behind `parent`; gives the last one's number. A segment ends at each of `cuts`.
fn scatter(
    random: &mut Random,
    (mut parent, from, n): (u32, usize, usize),
    (run, cuts): (usize, &[usize]),
    taken: &mut [bool],
    segments: &mut Vec<Segment>,
) -> u32 {
    let mut position = from;
    while position < n {
        let cut = cuts.iter().copied().filter(|&cut| cut > position).min().unwrap_or(n);
        let len = run.min(n - position).min(cut - position);
        let start = loop {
            let start = random.next() as usize % (taken.len() - len + 1);
            if taken[start..start + len].iter().all(|taken| !taken) {
                break start;
            }
        };
        taken[start..start + len].fill(true);
        segments.push(Segment {
            start: Slot(start as u32),
            len: len as u32,
            first_position: position as u32,
            parent,
        });
        parent = segments.len() as u32 - 1;
        position += len;
    }
    parent
}

/// The segment of a chain that holds position `at - 1`.
fn segment_before(segments: &[Segment], mut last: u32, at: usize) -> u32 {
    while last != NO_SEGMENT && segments[last as usize].first_position as usize >= at {
        last = segments[last as usize].parent;
    }
    last
}

/// Writes a sequence's K and V to the slots of its chain.
pub fn fill(
    rig: &mut Rig,
    layout: &KvLayout,
    segments: &[Segment],
    last: u32,
    sequence: &Sequence,
) {
    let (heads, mut segment, mut end) = (layout.layers[0], last, sequence.n);
    let (head_dim, n_kv) = (heads.head_dim as usize, heads.n_kv_heads as usize);
    let kv = rig.cpu.memory().unwrap().kv(Layer(0));
    while segment != NO_SEGMENT {
        let Segment { start, len, first_position, parent } = segments[segment as usize];
        for i in 0..(len as usize).min(end - first_position as usize) {
            for head in 0..n_kv {
                let first = ((first_position as usize + i) * n_kv + head) * head_dim;
                let bytes = |kind, all: &[f32]| -> Vec<u8> {
                    all[first..first + head_dim].iter().flat_map(|&v| stored(kind, v)).collect()
                };
                let offset = (start.0 as usize + i) * kv.row_bytes;
                let k = bytes(layout.k_type, &sequence.k);
                let v = bytes(layout.v_type, &sequence.v);
                // SAFETY: the slot exists and nothing else runs.
                unsafe {
                    kv.k(head).add(offset).copy_from_nonoverlapping(k.as_ptr(), k.len());
                    kv.v(head).add(offset).copy_from_nonoverlapping(v.as_ptr(), v.len());
                }
            }
        }
        (segment, end) = (parent, first_position as usize);
    }
}

/// A sequence of `n` tokens that begins with the first `at` ones of sequence `parent`, where `at` is not 0.
#[derive(Clone, Copy)]
pub struct Branch {
    pub parent: usize,
    pub at: usize,
    pub n: usize,
}

impl Branch {
    pub fn root(n: usize) -> Branch {
        Branch { parent: 0, at: 0, n }
    }
}

/// A rig with some sequences in its repo.
pub struct Bench {
    pub rig: Rig,
    op: AttendOp,
    pub sequences: Vec<Sequence>,
    pub segments: Vec<Segment>,
    pub last: Vec<u32>,
}

impl Bench {
    /// `lengths` tokens a sequence, in slots scattered in runs of `run`; for batches of at most `max_rows`.
    pub fn new(
        config: Config,
        op: AttendOp,
        types: (KvType, KvType),
        (lengths, run, seed): (&[usize], usize, u64),
        max_rows: usize,
    ) -> Bench {
        let forest: Vec<Branch> = lengths.iter().map(|&n| Branch::root(n)).collect();
        Bench::forest(config, op, types, (&forest, run, seed), max_rows)
    }

    /// A forest of forks. With an even seed segments end where forks begin, as in the KV repo.
    pub fn forest(
        config: Config,
        op: AttendOp,
        types: (KvType, KvType),
        (forest, run, seed): (&[Branch], usize, u64),
        max_rows: usize,
    ) -> Bench {
        let total = 3 * forest.iter().map(|branch| branch.n - branch.at).sum::<usize>() + 64;
        let layout = one_layer(op.heads, types.0, types.1, total as u64);
        let mut rig = Rig::new(config, &Weights::new(0), &layout, |cpu, area| {
            attend(cpu, area, &op, &empty(max_rows), &[]);
        });
        let (mut random, mut taken) = (Random(seed), vec![false; total]);
        let (mut sequences, mut segments) = (Vec::<Sequence>::new(), Vec::new());
        let mut last: Vec<u32> = Vec::new();
        for (i, &Branch { parent, at, n }) in forest.iter().enumerate() {
            let mut sequence = Sequence::new(100 + i as u64, op.heads, types, n);
            let mut behind = NO_SEGMENT;
            if at > 0 {
                sequence.begin_as(&sequences[parent], at);
                behind = segment_before(&segments, last[parent], at);
            }
            let forks = |fork: &&Branch| seed % 2 == 0 && fork.at > 0;
            let cuts: Vec<usize> = forest.iter().filter(forks).map(|fork| fork.at).collect();
            let (from, run) = ((behind, at, n), (run, &cuts[..]));
            last.push(scatter(&mut random, from, run, &mut taken, &mut segments));
            fill(&mut rig, &layout, &segments, last[i], &sequence);
            sequences.push(sequence);
        }
        Bench { rig, op, sequences, segments, last }
    }

    /// A chain of its own with the same slots.
    pub fn copy_chain(&mut self, last: u32) -> u32 {
        let Some(&segment) = self.segments.get(last as usize) else { return NO_SEGMENT };
        let parent = self.copy_chain(segment.parent);
        self.segments.push(Segment { parent, ..segment });
        self.segments.len() as u32 - 1
    }

    /// Attention of the given positions of the given sequences; the batch's rows are in reverse.
    pub fn run(&mut self, parts: &[(usize, std::ops::Range<usize>)]) -> Vec<Vec<f32>> {
        let row_len = (self.op.heads.n_heads * self.op.heads.head_dim) as usize;
        let n_rows: usize = parts.iter().map(|(_, range)| range.len()).sum();
        let rows: Vec<u32> = (0..n_rows as u32).rev().collect();
        let mut q = vec![0.0; n_rows * row_len];
        let (mut sequences, mut next) = (Vec::new(), 0);
        for (i, range) in parts {
            let (first, n) = (next as u32, range.len() as u32);
            let (n_tokens, last_segment) = (range.end as u32, self.last[*i]);
            sequences.push(BatchSequence { first, n, n_tokens, last_segment });
            for position in range.clone() {
                let to = rows[next] as usize * row_len;
                let from = position * row_len;
                q[to..to + row_len].copy_from_slice(&self.sequences[*i].q[from..from + row_len]);
                next += 1;
            }
        }
        let batch = BatchView {
            rows: &rows,
            sequences: &sequences,
            segments: &self.segments,
            ..empty(n_rows)
        };
        let op = self.op;
        let out = self.rig.pass(|cpu, area| attend(cpu, area, &op, &batch, &q));
        let row = |row: &u32| out[*row as usize * row_len..][..row_len].to_vec();
        rows.iter().map(row).collect()
    }
}

fn empty(n_rows: usize) -> BatchView<'static> {
    BatchView {
        n_rows,
        input: RowInput::Tokens(&[]),
        positions: &[],
        slots: &[],
        rows: &[],
        sequences: &[],
        segments: &[],
    }
}

fn attend(
    cpu: &mut super::Cpu,
    area: &mut crate::area::Area,
    op: &AttendOp,
    batch: &BatchView<'_>,
    q: &[f32],
) -> Vec<f32> {
    let len = batch.n_rows * (op.heads.n_heads * op.heads.head_dim) as usize;
    let mut region = put(cpu, area, len, q);
    cpu.attend(area, op, Layer(0), batch, &mut region).unwrap();
    get(cpu, area, region)
}
