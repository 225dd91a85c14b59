use super::twin::{self, wide};
use super::{Config, Random, Rig, Weights, close, configs, get, no_layers, put, same_bits};
use crate::area::Area;
use crate::backend::cpu::Cpu;
use crate::backend::ops::{
    Activation, BatchView, Embedding, HeadOp, Linear, MlpOp, Norm, ProjectOp, RowInput,
    SampleResult, SampleRow, Sampling,
};
use crate::backend::{Backend, Output};
use crate::dtype::DType;
use crate::error::Error;
use crate::ids::TokenId;

/// 8-bit activations cost this much of the largest value; everything else much less.
const Q8: f64 = 2e-2;
const TIGHT: f64 = 2e-5;

fn tolerance(config: Config, linears: &[&Linear]) -> f64 {
    let quantised = linears.iter().any(|linear| linear.dtype.is_quantised());
    if quantised && !config.exact { Q8 } else { TIGHT }
}

fn rms(weights: &mut Weights, len: u32) -> Option<Norm> {
    Some(Norm::Rms { weight: weights.vector(len, 1.0), eps: 1e-5 })
}

fn layer_norm(weights: &mut Weights, len: u32) -> Option<Norm> {
    let (weight, bias) = (weights.vector(len, 1.0), Some(weights.vector(len, 0.0)));
    Some(Norm::Layer { weight, bias, eps: 1e-5 })
}

fn batch_of(input: RowInput<'_>, n_rows: usize) -> BatchView<'_> {
    BatchView {
        n_rows,
        input,
        positions: &[],
        slots: &[],
        rows: &[],
        sequences: &[],
        segments: &[],
    }
}

#[test]
fn embedding_gathers_and_scales() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q6_K] {
        let mut weights = Weights::new(1);
        let table = weights.linear(dtype, 50, 256, false);
        let op = Embedding { table, scale: 16.5 };
        let rows = weights.rows(&table);
        for config in configs(false) {
            let run = |cpu: &mut Cpu, area: &mut Area, n: usize, input: RowInput<'_>| {
                let values = vec![0.0; if area.is_tracing() { 0 } else { n * 256 }];
                let mut x = put(cpu, area, n * 256, &values);
                let result = cpu.embed(area, &op, &batch_of(input, n), &mut x);
                (result, get(cpu, area, x))
            };
            let mut rig = Rig::new(config, &weights, &no_layers(), |cpu, area| {
                run(cpu, area, 7, RowInput::Tokens(&[])).0.unwrap();
            });
            let tokens = [0, 49, 7, 7, 13].map(TokenId);
            let (_, x) = rig.pass(|cpu, area| run(cpu, area, 5, RowInput::Tokens(&tokens)));
            let expected: Vec<f64> = tokens
                .iter()
                .flat_map(|token| rows[token.0 as usize].iter().map(|&v| f64::from(v) * 16.5))
                .collect();
            close(&x, &expected, 1e-6, config.kernels.name);
            let given = Random(3).units(2 * 256);
            let (_, x) = rig.pass(|cpu, area| run(cpu, area, 2, RowInput::Embeddings(&given)));
            same_bits(&x, &given, "given embeddings");
            let bad = [TokenId(50)];
            let (result, _) = rig.pass(|cpu, area| run(cpu, area, 1, RowInput::Tokens(&bad)));
            assert!(matches!(result, Err(Error::InvalidArgument(text)) if text.contains("50")));
        }
    }
}

/// Runs `x += project(input)` for `n` rows with an area planned for `max`.
fn project(
    config: Config,
    weights: &Weights,
    op: &ProjectOp,
    (n, max): (usize, usize),
    (input, x): (&[f32], &[f32]),
) -> Vec<f32> {
    let (n_in, n_out) = (op.weight.n_in as usize, op.weight.n_out as usize);
    let run = |cpu: &mut Cpu, area: &mut Area, n: usize, input: &[f32], x: &[f32]| {
        let input = put(cpu, area, n * n_in, input);
        let mut x = put(cpu, area, n * n_out, x);
        cpu.project_residual(area, op, n, &input, &mut x).unwrap();
        area.give(input);
        get(cpu, area, x)
    };
    let mut rig = Rig::new(config, weights, &no_layers(), |cpu, area| {
        run(cpu, area, max, &[], &[]);
    });
    rig.pass(|cpu, area| run(cpu, area, n, input, x))
}

#[test]
fn projections_add_to_the_residual() {
    for (i, dtype) in [DType::F32, DType::BF16, DType::Q8_0, DType::Q4_K].into_iter().enumerate() {
        for normed in [false, true] {
            let mut weights = Weights::new(2);
            let weight = weights.linear(dtype, 70, 256, i % 2 == 0);
            let norm_after = if normed { rms(&mut weights, 70) } else { None };
            let op = ProjectOp { weight, norm_after, multiplier: 0.75 };
            for (exact, n) in [(false, 1), (true, 1), (false, 129), (true, 131)] {
                let mut random = Random(4);
                let (input, x) = (random.units(n * 256), random.units(n * 70));
                let mut expected = wide(&x);
                for (input, to) in input.chunks(256).zip(expected.chunks_mut(70)) {
                    let y = twin::product(&weights, &weight, &wide(input));
                    let y = twin::norm(&weights, norm_after.as_ref(), &y);
                    to.iter_mut().zip(y).for_each(|(to, y)| *to += 0.75 * y);
                }
                for config in configs(exact) {
                    let actual = project(config, &weights, &op, (n, 140.max(n)), (&input, &x));
                    let what = format!("{} {dtype:?} {n} rows", config.kernels.name);
                    close(&actual, &expected, tolerance(config, &[&weight]), &what);
                }
            }
        }
    }
}

fn mlp_expected(weights: &Weights, op: &MlpOp, x: &[f32]) -> Vec<f64> {
    let mut expected = wide(x);
    for row in expected.chunks_mut(op.gate.n_in as usize) {
        let normed = twin::norm(weights, op.norm.as_ref(), row);
        let gate = twin::product(weights, &op.gate, &normed);
        let up = twin::product(weights, &op.up, &normed);
        let gated: Vec<f64> =
            gate.iter().zip(up).map(|(g, u)| twin::activate(op.activation, *g) * u).collect();
        let y = twin::product(weights, &op.down, &gated);
        let y = twin::norm(weights, op.norm_after.as_ref(), &y);
        row.iter_mut().zip(y).for_each(|(x, y)| *x += f64::from(op.multiplier) * y);
    }
    expected
}

#[test]
fn mlps_of_every_activation_and_tile() {
    let (hidden, wide_n) = (256, 512);
    let cases = [
        (Activation::Silu, [DType::BF16, DType::BF16, DType::BF16], false),
        (Activation::GeluTanh, [DType::F32, DType::F16, DType::F32], true),
        (Activation::Gelu, [DType::Q8_0, DType::F32, DType::Q6_K], false),
        (Activation::Silu, [DType::Q4_K, DType::Q4_0, DType::Q8_0], true),
    ];
    for (activation, [gate, up, down], sandwich) in cases {
        let mut weights = Weights::new(5);
        let op = MlpOp {
            norm: if sandwich {
                rms(&mut weights, hidden)
            } else {
                layer_norm(&mut weights, hidden)
            },
            gate: weights.linear(gate, wide_n, hidden, false),
            up: weights.linear(up, wide_n, hidden, true),
            down: weights.linear(down, hidden, wide_n, false),
            activation,
            norm_after: if sandwich { rms(&mut weights, hidden) } else { None },
            multiplier: 0.5,
        };
        let run = |cpu: &mut Cpu, area: &mut Area, n: usize, tile: usize, x: &[f32]| {
            let mut x = put(cpu, area, n * hidden as usize, x);
            cpu.mlp(area, &op, n, tile, &mut x).unwrap();
            get(cpu, area, x)
        };
        let x = Random(6).units(33 * hidden as usize);
        let expected = mlp_expected(&weights, &op, &x);
        for config in configs(false).into_iter().chain(configs(true)) {
            let mut first = None;
            for (n, tile) in [(33, 64), (33, 16), (33, 5), (1, 16)] {
                let mut rig = Rig::new(config, &weights, &no_layers(), |cpu, area| {
                    run(cpu, area, 40, tile, &[]);
                });
                let len = n * hidden as usize;
                let actual = rig.pass(|cpu, area| run(cpu, area, n, tile, &x[..len]));
                let what = format!("{} {activation:?} {n} rows by {tile}", config.kernels.name);
                let tolerance = tolerance(config, &[&op.gate, &op.up, &op.down]);
                close(&actual, &expected[..len], tolerance, &what);
                same_bits(&actual, &first.get_or_insert_with(|| actual.clone())[..len], &what);
            }
        }
    }
}

#[test]
fn final_norm_and_head() {
    for dtype in [DType::F32, DType::BF16, DType::Q8_0, DType::Q6_K] {
        for softcap in [None, Some(30.0)] {
            let mut weights = Weights::new(7);
            let norm = rms(&mut weights, 256).unwrap();
            let weight = weights.linear(dtype, 301, 256, false);
            let op = HeadOp { weight, softcap, multiplier: 0.25 };
            let run = |cpu: &mut Cpu,
                       area: &mut Area,
                       n_x: usize,
                       kept: &[u32],
                       rows: &[u32],
                       x: &[f32]| {
                let mut x = put(cpu, area, n_x * 256, x);
                cpu.final_norm(area, &norm, kept, &mut x).unwrap();
                let n = if area.is_tracing() { 3 } else { rows.len() };
                let mut logits = area.take("logits", 4 * n * 301);
                cpu.head(area, &op, rows, &x, &mut logits).unwrap();
                area.give(x);
                get(cpu, area, logits)
            };
            let x = Random(8).units(6 * 256);
            let (kept, rows) = ([0, 3, 5], [2, 0]);
            let expected: Vec<f64> = rows
                .iter()
                .flat_map(|&row| {
                    let from = kept[row as usize] as usize * 256;
                    let normed = twin::norm(&weights, Some(&norm), &wide(&x[from..from + 256]));
                    let logits = twin::product(&weights, &weight, &normed).into_iter();
                    let cap = |l: f64| {
                        softcap.map_or(l, |c: f32| f64::from(c) * (l / f64::from(c)).tanh())
                    };
                    logits.map(move |l| cap(0.25 * l)).collect::<Vec<_>>()
                })
                .collect();
            for config in configs(false).into_iter().chain(configs(true)) {
                let mut rig = Rig::new(config, &weights, &no_layers(), |cpu, area| {
                    run(cpu, area, 8, &[], &[], &[]);
                });
                let actual = rig.pass(|cpu, area| run(cpu, area, 6, &kept, &rows, &x));
                let what = format!("{} {dtype:?}", config.kernels.name);
                close(&actual, &expected, tolerance(config, &[&weight]), &what);
            }
        }
    }
}

#[test]
fn rows_are_sampled_each_for_itself() {
    const VOCAB: usize = 700;
    let sampling =
        Sampling { temperature: 1.0, top_k: 20, repetition_penalty: 1.2, ..Sampling::default() };
    let logits = Random(9).units(5 * VOCAB);
    let prompt = [1, 2, 3].map(TokenId);
    let run = |cpu: &mut Cpu, area: &mut Area, n: usize, counters: &[u64], values: &[f32]| {
        let mut logits = put(cpu, area, n * VOCAB, values);
        let row = |&counter| SampleRow {
            sampling: &sampling,
            prompt: &prompt,
            output: &[],
            biases: &[],
            mask: None,
            counter,
            top: &mut [],
            result: SampleResult::None,
        };
        let mut rows: Vec<_> = counters.iter().map(row).collect();
        cpu.sample(area, VOCAB as u32, &mut rows, &mut logits).unwrap();
        area.give(logits);
        rows.iter().map(|row| row.result).collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    for config in configs(false) {
        let mut rig = Rig::new(config, &Weights::new(0), &no_layers(), |cpu, area| {
            run(cpu, area, 6, &[], &[]);
        });
        let counters = [4, 5, 6, 7, 8];
        let together = rig.pass(|cpu, area| run(cpu, area, 5, &counters, &logits));
        let tokens = |results: &[SampleResult]| -> Vec<TokenId> {
            let token = |result: &SampleResult| match result {
                SampleResult::Token(chosen) => chosen.token,
                other => panic!("{other:?}"),
            };
            results.iter().map(token).collect()
        };
        for (i, values) in logits.chunks(VOCAB).enumerate() {
            let alone = rig.pass(|cpu, area| run(cpu, area, 1, &counters[i..i + 1], values));
            assert_eq!(alone[0], together[i]);
        }
        all.push(tokens(&together));
    }
    assert!(all.iter().all(|tokens| *tokens == all[0]), "{all:?}");
}

#[test]
fn sizes_are_known_before_memory_is_taken() {
    let cpu = Cpu::new(&crate::options::Options::default()).unwrap();
    for dtype in DType::ALL {
        let row = dtype.row_bytes(512).unwrap();
        for (n_out, packed) in [(0, 0), (1, 16), (15, 16), (16, 16), (17, 32)] {
            assert_eq!(cpu.linear_bytes(dtype, n_out, 512), Ok(packed * row));
        }
    }
    // bf16 is packed in pairs.
    assert_eq!(cpu.linear_bytes(DType::BF16, 16, 3), Ok(16 * 2 * 4));
    assert_eq!(cpu.linear_bytes(DType::F16, 16, 3), Ok(16 * 2 * 3));
    assert!(matches!(cpu.linear_bytes(DType::Q4_K, 3, 128), Err(Error::BadModel(_))));
    assert!(cpu.linear_bytes(DType::F32, u32::MAX, 1 << 28).is_ok_and(|bytes| bytes > 1 << 60));
    assert!(matches!(cpu.linear_bytes(DType::F32, u32::MAX, u32::MAX), Err(Error::BadModel(_))));
    let region = Area::tracing(64).take("x", 4);
    assert!(matches!(cpu.fetched(&region, 1, Output::Hidden), Err(Error::Internal(_))));
}
