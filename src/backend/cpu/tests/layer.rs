//! A layer's attention half, from x through the KV repo back to x: against the twin, and bit for bit.

use super::twin::{self, wide};
use super::{Config, Random, Rig, Weights, close, configs, get, one_layer, put, same_bits};
use crate::area::Area;
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::ops::{
    AttendOp, BatchSequence, BatchView, Heads, Norm, ProjectOp, QkvOp, Rope, RopePairs, RowInput,
};
use crate::dtype::{DType, KvType};
use crate::ids::{Layer, NO_SEGMENT, Segment, Slot};

const HIDDEN: usize = 256;
const HEADS: Heads = Heads { n_heads: 6, n_kv_heads: 2, head_dim: 32 };
const Q_LEN: usize = 6 * 32;

/// A layer and its weights.
struct Model {
    weights: Weights,
    qkv: QkvOp,
    attend: AttendOp,
    project: ProjectOp,
}

impl Model {
    fn new(types: [DType; 4], pairs: RopePairs, rope_dim: u32, extras: bool) -> Model {
        let mut weights = Weights::new(11);
        let (kv_len, hidden) = (2 * 32, HIDDEN as u32);
        let frequencies = (0..rope_dim / 2).map(|i| 0.5f32.powi(i as i32)).collect();
        let head_norm = |weights: &mut Weights| {
            extras.then(|| Norm::Rms { weight: weights.vector(32, 1.0), eps: 1e-6 })
        };
        let qkv = QkvOp {
            norm: Some(Norm::Rms { weight: weights.vector(hidden, 1.0), eps: 1e-6 }),
            heads: HEADS,
            q: weights.linear(types[0], Q_LEN as u32, hidden, extras),
            k: weights.linear(types[1], kv_len, hidden, extras),
            v: weights.linear(types[2], kv_len, hidden, extras),
            q_norm: head_norm(&mut weights),
            k_norm: head_norm(&mut weights),
            rope: Some(Rope {
                pairs,
                dim: rope_dim,
                inverse_frequencies: weights.vector_of(frequencies),
                magnitude: 1.125,
            }),
        };
        let weight = weights.linear(types[3], hidden, Q_LEN as u32, false);
        let project = ProjectOp { weight, norm_after: None, multiplier: 1.0 };
        // Without q/k norm scores would be so large that the softmax takes one key alone.
        let scale = if extras { 0.05 } else { 0.002 };
        let attend = AttendOp { heads: HEADS, scale, window: None, softcap: None };
        Model { weights, qkv, attend, project }
    }

    fn is_quantised(&self) -> bool {
        [self.qkv.q, self.qkv.k, self.qkv.v, self.project.weight]
            .iter()
            .any(|linear| linear.dtype.is_quantised())
    }

    /// x after the layer, all positions of one sequence.
    fn expected(&self, x: &[f32]) -> Vec<f64> {
        let (qkv, weights) = (&self.qkv, &self.weights);
        let (mut keys, mut values) = ([vec![], vec![]], [vec![], vec![]]);
        let mut expected = wide(x);
        for (position, row) in expected.chunks_mut(HIDDEN).enumerate() {
            let normed = twin::norm(weights, qkv.norm.as_ref(), row);
            let heads = |linear, norm: &Option<Norm>, turn: bool| -> Vec<Vec<f64>> {
                let all = twin::product(weights, linear, &normed);
                let head = |head: &[f64]| {
                    let mut head = twin::norm(weights, norm.as_ref(), head);
                    if let (Some(rope), true) = (&qkv.rope, turn) {
                        twin::rotate(weights, rope, position as u32, &mut head);
                    }
                    head
                };
                all.chunks(32).map(head).collect()
            };
            let (q, k, v) = (
                heads(&qkv.q, &qkv.q_norm, true),
                heads(&qkv.k, &qkv.k_norm, true),
                heads(&qkv.v, &None, false),
            );
            for i in 0..2 {
                keys[i].push(k[i].clone());
                values[i].push(v[i].clone());
            }
            let out: Vec<f64> = q
                .iter()
                .enumerate()
                .flat_map(|(h, q)| {
                    twin::attention(&self.attend, position, q, &keys[h / 3], &values[h / 3])
                })
                .collect();
            let y = twin::product(weights, &self.project.weight, &out);
            row.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        }
        expected
    }

    fn rig(&self, config: Config, types: (KvType, KvType), max_rows: usize) -> Rig {
        let layout = one_layer(HEADS, types.0, types.1, 1000);
        Rig::new(config, &self.weights, &layout, |cpu, area| {
            let batch = BatchView { sequences: &[], ..view(max_rows, &[], &[], &[], &[], &[]) };
            self.run(cpu, area, &batch, &[]);
        })
    }

    fn run(&self, cpu: &mut Cpu, area: &mut Area, batch: &BatchView<'_>, x: &[f32]) -> Vec<f32> {
        let n = batch.n_rows;
        let mut x = put(cpu, area, n * HIDDEN, x);
        let rope = self.qkv.rope.as_ref().unwrap();
        let mut table = area.take("rope", 4 * n * rope.dim as usize);
        cpu.rope_table(area, rope, batch, &mut table).unwrap();
        let mut q = area.take("q", 4 * n * Q_LEN);
        cpu.qkv(area, &self.qkv, Layer(0), batch, Some(&table), &x, &mut q).unwrap();
        cpu.attend(area, &self.attend, Layer(0), batch, &mut q).unwrap();
        cpu.project_residual(area, &self.project, n, &q, &mut x).unwrap();
        area.give(q);
        area.give(table);
        get(cpu, area, x)
    }
}

fn view<'a>(
    n_rows: usize,
    positions: &'a [u32],
    slots: &'a [Slot],
    rows: &'a [u32],
    sequences: &'a [BatchSequence],
    segments: &'a [Segment],
) -> BatchView<'a> {
    let input = RowInput::Tokens(&[]);
    BatchView { n_rows, input, positions, slots, rows, sequences, segments }
}

/// Rows `first .. end` of a sequence whose position p lies in slot `slot(p)`.
struct Part<'a> {
    x: &'a [f32],
    first: usize,
    end: usize,
    slot: &'a dyn Fn(usize) -> u32,
}

/// One pass over some parts of sequences; x of all rows.
fn pass(rig: &mut Rig, model: &Model, parts: &[Part<'_>]) -> Vec<f32> {
    let (mut positions, mut slots, mut x) = (vec![], vec![], vec![]);
    let (mut sequences, mut segments) = (vec![], vec![]);
    for part in parts {
        let mut last_segment = NO_SEGMENT;
        for position in 0..part.end {
            let start = Slot((part.slot)(position));
            let first_position = position as u32;
            segments.push(Segment { start, len: 1, first_position, parent: last_segment });
            last_segment = segments.len() as u32 - 1;
        }
        let first = positions.len() as u32;
        for position in part.first..part.end {
            positions.push(position as u32);
            slots.push(Slot((part.slot)(position)));
            x.extend_from_slice(&part.x[position * HIDDEN..(position + 1) * HIDDEN]);
        }
        let n = (part.end - part.first) as u32;
        sequences.push(BatchSequence { first, n, n_tokens: part.end as u32, last_segment });
    }
    let rows: Vec<u32> = (0..positions.len() as u32).collect();
    let batch = view(rows.len(), &positions, &slots, &rows, &sequences, &segments);
    rig.pass(|cpu, area| model.run(cpu, area, &batch, &x))
}

const CASES: [([DType; 4], RopePairs, u32, bool); 4] = [
    ([DType::F32, DType::BF16, DType::F16, DType::BF16], RopePairs::Halves, 32, true),
    ([DType::BF16, DType::BF16, DType::BF16, DType::F32], RopePairs::Adjacent, 16, false),
    ([DType::BF16, DType::F32, DType::Q6_K, DType::Q8_0], RopePairs::Halves, 24, true),
    ([DType::Q4_K, DType::Q4_K, DType::Q6_K, DType::BF16], RopePairs::Adjacent, 32, false),
];

#[test]
fn a_layer_is_that_of_the_twin() {
    const N: usize = 70;
    let x = Random(12).units(N * HIDDEN);
    for (types, pairs, rope_dim, extras) in CASES {
        let mut model = Model::new(types, pairs, rope_dim, extras);
        model.attend.window = extras.then_some(50);
        let expected = model.expected(&x);
        for config in configs(false).into_iter().chain(configs(true)) {
            let mut rig = model.rig(config, (KvType::F32, KvType::F32), N);
            let part = Part { x: &x, first: 0, end: N, slot: &|p| 3 * p as u32 };
            let actual = pass(&mut rig, &model, &[part]);
            let coarse = model.is_quantised() && !config.exact;
            let what = format!("{} {types:?}", config.kernels.name);
            close(&actual, &expected, if coarse { 3e-2 } else { 5e-5 }, &what);
        }
    }
}

#[test]
fn bits_do_not_depend_on_chunks_slots_threads_or_neighbours() {
    const N: usize = 100;
    let (x, other) = (Random(13).units(N * HIDDEN), Random(14).units(N * HIDDEN));
    for (types, pairs, rope_dim, extras) in CASES {
        let model = Model::new(types, pairs, rope_dim, extras);
        for kernels in configs(false).into_iter().filter(|config| config.n_threads == 1) {
            let kv_types = (KvType::BF16, KvType::F16);
            let mut rig = model.rig(kernels, kv_types, N);
            let whole = Part { x: &x, first: 0, end: N, slot: &|p| p as u32 };
            let reference = pass(&mut rig, &model, &[whole]);
            for n_threads in [1, 2, 3] {
                let config = Config { n_threads, ..kernels };
                let mut rig = model.rig(config, kv_types, 2 * N);
                for chunk in [1, 7, 48, N] {
                    let slot = |p: usize| ((37 * p + chunk) % 800) as u32;
                    for first in (0..N).step_by(chunk) {
                        let end = N.min(first + chunk);
                        let neighbour =
                            Part { x: &other, first: 0, end: 9, slot: &|p| 900 + p as u32 };
                        let part = Part { x: &x, first, end, slot: &slot };
                        let actual = if chunk == 7 {
                            pass(&mut rig, &model, &[part])
                        } else {
                            pass(&mut rig, &model, &[neighbour, part]).split_off(9 * HIDDEN)
                        };
                        let what = format!(
                            "{} {types:?}, {n_threads} threads, chunks of {chunk} at {first}",
                            config.kernels.name
                        );
                        same_bits(&actual, &reference[first * HIDDEN..end * HIDDEN], &what);
                    }
                }
            }
        }
    }
}
