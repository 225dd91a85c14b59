use super::twin::{self, wide};
use super::{Config, Random, Rig, Weights, configs, get, one_layer, put, same_bits};
use crate::backend::Backend;
use crate::backend::ops::{AttendOp, BatchSequence, BatchView, Heads, KvLayout, RowInput};
use crate::dtype::KvType;
use crate::ids::{Layer, NO_SEGMENT, Segment, Slot};

const TYPES: [(KvType, KvType); 4] = [
    (KvType::BF16, KvType::BF16),
    (KvType::F32, KvType::F32),
    (KvType::F16, KvType::BF16),
    (KvType::BF16, KvType::F16),
];

fn heads(n_heads: u32, n_kv_heads: u32, head_dim: u32) -> Heads {
    Heads { n_heads, n_kv_heads, head_dim }
}

fn op(heads: Heads, window: Option<u32>, softcap: Option<f32>) -> AttendOp {
    AttendOp { heads, scale: 1.3 / (heads.head_dim as f32).sqrt(), window, softcap }
}

/// A sequence's q, K and V for all positions, `[position][head][head_dim]`, rounded as the repo stores them.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    n: usize,
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

    /// Attention of `position`, all heads.
    fn expected(&self, op: &AttendOp, position: usize) -> Vec<f64> {
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

/// Slots in runs of `run` at random places, as segments appended to `segments`; gives the last one's number.
fn scatter(
    random: &mut Random,
    n: usize,
    run: usize,
    taken: &mut [bool],
    segments: &mut Vec<Segment>,
) -> u32 {
    let (mut parent, mut position) = (NO_SEGMENT, 0);
    while position < n {
        let len = run.min(n - position);
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

/// Writes a sequence's K and V to the slots of its chain.
fn fill(rig: &mut Rig, layout: &KvLayout, segments: &[Segment], last: u32, sequence: &Sequence) {
    let (heads, mut segment) = (layout.layers[0], last);
    let (head_dim, n_kv) = (heads.head_dim as usize, heads.n_kv_heads as usize);
    let kv = rig.cpu.memory().unwrap().kv(Layer(0));
    while segment != NO_SEGMENT {
        let Segment { start, len, first_position, parent } = segments[segment as usize];
        for i in 0..len as usize {
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
        segment = parent;
    }
}

/// A rig with some sequences in its repo.
struct Bench {
    rig: Rig,
    op: AttendOp,
    sequences: Vec<Sequence>,
    segments: Vec<Segment>,
    last: Vec<u32>,
}

impl Bench {
    /// `lengths` tokens a sequence, in slots scattered in runs of `run`; for batches of at most `max_rows`.
    fn new(
        config: Config,
        op: AttendOp,
        types: (KvType, KvType),
        (lengths, run, seed): (&[usize], usize, u64),
        max_rows: usize,
    ) -> Bench {
        let total = 3 * lengths.iter().sum::<usize>() + 64;
        let layout = one_layer(op.heads, types.0, types.1, total as u64);
        let mut rig = Rig::new(config, &Weights::new(0), &layout, |cpu, area| {
            attend(cpu, area, &op, &empty(max_rows), &[]);
        });
        let (mut random, mut taken) = (Random(seed), vec![false; total]);
        let (mut sequences, mut segments, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for (i, &n) in lengths.iter().enumerate() {
            let sequence = Sequence::new(100 + i as u64, op.heads, types, n);
            last.push(scatter(&mut random, n, run, &mut taken, &mut segments));
            fill(&mut rig, &layout, &segments, last[i], &sequence);
            sequences.push(sequence);
        }
        Bench { rig, op, sequences, segments, last }
    }

    /// Attention of the given positions of the given sequences; the batch's rows are in reverse.
    fn run(&mut self, parts: &[(usize, std::ops::Range<usize>)]) -> Vec<Vec<f32>> {
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

/// Rows at the end of a sequence of `n` tokens, and a whole short prompt, against the twin.
fn check(config: Config, op: AttendOp, types: (KvType, KvType), n: usize, run: usize) {
    let mut bench = Bench::new(config, op, types, (&[n, 20.min(n)], run, 7), 40);
    for parts in [vec![(0, n - 1..n)], vec![(0, n.saturating_sub(17)..n), (1, 0..20.min(n))]] {
        let actual = bench.run(&parts);
        let positions = parts.iter().flat_map(|(i, range)| range.clone().map(move |p| (*i, p)));
        for (row, (i, position)) in actual.iter().zip(positions) {
            let expected = bench.sequences[i].expected(&op, position);
            let what = format!("{} {op:?} {types:?} {position} of {n}", config.kernels.name);
            super::close(row, &expected, 2e-5, &what);
        }
    }
}

#[test]
fn every_shape_and_type() {
    for config in configs(false) {
        for (i, head_dim) in [32, 64, 80, 128, 256, 12].into_iter().enumerate() {
            let group = [1, 3, 4][i % 3];
            let op = op(heads(2 * group, 2, head_dim), None, None);
            check(config, op, TYPES[i % 4], 40, 5);
        }
    }
}

#[test]
fn lengths_around_the_borders_of_splits() {
    for config in configs(false) {
        for (i, n) in [1, 2, 255, 256, 257, 511, 513, 770].into_iter().enumerate() {
            check(config, op(heads(3, 1, 32), None, None), TYPES[i % 4], n, [1, 300, 13][i % 3]);
        }
    }
}

#[test]
fn windows_and_caps() {
    for config in configs(false) {
        for (i, window) in [1, 2, 16, 255, 256, 257, 600].into_iter().enumerate() {
            let softcap = [None, Some(2.0)][i % 2];
            check(config, op(heads(4, 2, 32), Some(window), softcap), TYPES[i % 4], 530, 40);
        }
        check(config, op(heads(6, 1, 64), None, Some(5.0)), TYPES[0], 300, 300);
    }
}

/// More query heads a KV head than a tile holds.
#[test]
fn wide_groups() {
    for config in configs(false) {
        check(config, op(heads(40, 1, 32), None, None), TYPES[0], 270, 9);
    }
}

#[test]
fn bits_depend_on_the_row_alone() {
    const N: usize = 530;
    for window in [None, Some(200)] {
        let op = op(heads(6, 2, 64), window, None);
        for config in configs(false).into_iter().filter(|config| config.n_threads == 1) {
            let reference =
                Bench::new(config, op, TYPES[0], (&[N, 90], 1000, 1), N + 90).run(&[(0, 0..N)]);
            for (n_threads, run) in [(1, 11), (2, 1000), (3, 1)] {
                let config = Config { n_threads, ..config };
                let mut bench = Bench::new(config, op, TYPES[0], (&[N, 90], run, 5), N + 90);
                let whole = bench.run(&[(1, 30..90), (0, 0..N)]);
                let what = format!("{} {n_threads} threads", config.kernels.name);
                for (row, expected) in whole[60..].iter().zip(&reference) {
                    same_bits(row, expected, &what);
                }
                for chunk in [1, 7, 48] {
                    for first in (0..N).step_by(if chunk == 1 { 37 } else { chunk }) {
                        let end = N.min(first + chunk);
                        let rows = bench.run(&[(0, first..end)]);
                        for (row, expected) in rows.iter().zip(&reference[first..end]) {
                            same_bits(row, expected, &format!("{what}, chunks of {chunk}"));
                        }
                    }
                }
            }
        }
    }
}

/// More splits than a wave holds.
#[test]
fn waves() {
    for config in configs(false).into_iter().filter(|config| config.kernels.name != "portable") {
        let op = op(heads(2, 1, 16), None, None);
        const N: usize = 256 * 13 + 5;
        let mut bench = Bench::new(config, op, TYPES[0], (&[N], 500, 3), 2);
        for row in bench.run(&[(0, N - 1..N)]) {
            super::close(&row, &bench.sequences[0].expected(&op, N - 1), 2e-5, "long");
        }
    }
}

/// A row's output does not notice what slots behind it hold.
#[test]
fn later_slots_do_not_leak() {
    for config in configs(false) {
        let op = op(heads(2, 1, 32), Some(20), None);
        let mut bench = Bench::new(config, op, TYPES[1], (&[100], 100, 3), 100);
        let clean = bench.run(&[(0, 0..60)]);
        let n = bench.sequences[0].n;
        for position in 60..n {
            bench.sequences[0].k[position * 32..(position + 1) * 32].fill(f32::NAN);
            bench.sequences[0].v[position * 32..(position + 1) * 32].fill(f32::NAN);
        }
        let layout = one_layer(op.heads, TYPES[1].0, TYPES[1].1, 3 * n as u64 + 64);
        fill(&mut bench.rig, &layout, &bench.segments, bench.last[0], &bench.sequences[0]);
        let poisoned = bench.run(&[(0, 0..100)]);
        for (clean, poisoned) in clean.iter().zip(&poisoned) {
            same_bits(clean, poisoned, "before the NaN");
        }
        assert!(poisoned[60].iter().all(|value| value.is_nan()));
    }
}
