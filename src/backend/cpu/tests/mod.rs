//! Every operation against a naive f64 twin, with all kernel variants and several threads; and bit for bit against
//! itself under other chunks, slots, threads and neighbours.

mod attend;
mod attend_shared;
mod attention_rig;
mod layer;
mod ops;
mod twin;

use super::Cpu;
use super::blocks::pack::packed_bytes;
use super::dispatch::Kernels;
use super::matmul::dequantise_row;
use crate::area::{Area, Plan, Region};
use crate::backend::ops::{Heads, KvLayout, Linear, Vector};
use crate::backend::{Backend, BlockSizes, Output, PassLimits, Startup};
use crate::dtype::{DType, KvType};
use crate::options::{Hooks, Options};

/// splitmix64: numbers for tests, the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly in −1 .. 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// Random weights, and where they lie.
pub struct Weights {
    random: Random,
    bytes: u64,
    linears: Vec<(Linear, Vec<u8>)>,
    vectors: Vec<(Vector, Vec<f32>)>,
}

impl Weights {
    pub fn new(seed: u64) -> Weights {
        Weights { random: Random(seed), bytes: 0, linears: Vec::new(), vectors: Vec::new() }
    }

    fn place(&mut self, bytes: usize) -> u64 {
        let offset = self.bytes.next_multiple_of(64);
        self.bytes = offset + bytes as u64;
        offset
    }

    /// `len` values around `middle`.
    pub fn vector(&mut self, len: u32, middle: f32) -> Vector {
        let values = self.random.units(len as usize).iter().map(|v| middle + v / 2.0).collect();
        self.vector_of(values)
    }

    pub fn vector_of(&mut self, values: Vec<f32>) -> Vector {
        let vector = Vector { offset: self.place(4 * values.len()), len: values.len() as u32 };
        self.vectors.push((vector, values));
        vector
    }

    pub fn linear(&mut self, dtype: DType, n_out: u32, n_in: u32, bias: bool) -> Linear {
        let n = (n_out * n_in) as usize;
        let random = &mut self.random;
        let bytes: Vec<u8> = match dtype {
            DType::F32 => random.units(n).iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::F16 => {
                let halves = random.units(n).into_iter().map(half::f16::from_f32);
                halves.flat_map(half::f16::to_le_bytes).collect()
            }
            DType::BF16 => {
                let halves = random.units(n).into_iter().map(half::bf16::from_f32);
                halves.flat_map(half::bf16::to_le_bytes).collect()
            }
            _ => blocks(random, dtype, n / dtype.block_len()),
        };
        let packed = packed_bytes(dtype, n_out.into(), n_in.into()).unwrap();
        let offset = self.place(packed as usize);
        let bias = bias.then(|| self.vector(n_out, 0.0));
        let linear = Linear { dtype, n_out, n_in, offset, bias };
        self.linears.push((linear, bytes));
        linear
    }

    /// The matrix's rows as the format defines them.
    pub fn rows(&self, linear: &Linear) -> Vec<Vec<f32>> {
        let (_, bytes) = self.linears.iter().find(|(other, _)| other == linear).unwrap();
        let row = |bytes: &[u8]| {
            let mut values = vec![0.0; linear.n_in as usize];
            // SAFETY: the portable variant runs everywhere.
            unsafe { dequantise_row(Kernels::supported()[0], linear.dtype, bytes, &mut values) };
            values
        };
        bytes.chunks_exact(bytes.len() / linear.n_out as usize).map(row).collect()
    }

    pub fn values(&self, vector: &Vector) -> Vec<f64> {
        let (_, values) = self.vectors.iter().find(|(other, _)| other == vector).unwrap();
        values.iter().map(|&value| f64::from(value)).collect()
    }
}

/// Random blocks with small scales.
fn blocks(random: &mut Random, dtype: DType, n: usize) -> Vec<u8> {
    let scales: &[usize] = match dtype {
        DType::Q8_0 | DType::Q4_0 => &[0],
        DType::Q4_K => &[0, 2],
        DType::Q6_K => &[208],
        _ => panic!("{dtype:?} is not used by these tests"),
    };
    let mut bytes: Vec<u8> = (0..n * dtype.block_bytes()).map(|_| random.next() as u8).collect();
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in scales {
            let scale = half::f16::from_f32(random.unit() / 256.0);
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

/// How a backend under test is made.
#[derive(Clone, Copy)]
pub struct Config {
    pub kernels: &'static Kernels,
    pub n_threads: u32,
    pub exact: bool,
}

/// All variants with 1, 2 and 3 threads.
pub fn configs(exact: bool) -> Vec<Config> {
    let config = |kernels| move |n_threads| Config { kernels, n_threads, exact };
    Kernels::supported().into_iter().flat_map(|kernels| [1, 2, 3].map(config(kernels))).collect()
}

/// A backend with its weights written and its area planned, and every byte of the area poisoned before each pass.
pub struct Rig {
    pub cpu: Cpu,
    plan: Plan,
}

impl Rig {
    pub fn new(
        config: Config,
        weights: &Weights,
        layout: &KvLayout,
        trace: impl FnOnce(&mut Cpu, &mut Area),
    ) -> Rig {
        let options = Options {
            n_threads: config.n_threads,
            exact_activations: config.exact,
            ..Options::default()
        };
        let mut cpu = Cpu::with_kernels(&options, config.kernels).unwrap();
        let mut area = Area::tracing(64);
        trace(&mut cpu, &mut area);
        let plan = area.into_plan();
        let sizes = BlockSizes {
            weights_bytes: weights.bytes,
            kv_repo_bytes: layout.total_bytes(),
            compute_area_bytes: plan.total_bytes(),
            tables_bytes: 0,
            pinned_bytes: 0,
        };
        let limits = PassLimits::default();
        cpu.reserve(Startup(()), sizes, &limits, layout, &Hooks::default()).unwrap();
        for (linear, bytes) in &weights.linears {
            let row = bytes.len() / linear.n_out as usize;
            let first = linear.n_out / 3;
            cpu.write_linear(linear, first, &bytes[first as usize * row..]).unwrap();
            cpu.write_linear(linear, 0, &bytes[..first as usize * row]).unwrap();
        }
        for (vector, values) in &weights.vectors {
            cpu.write_vector(*vector, values).unwrap();
        }
        Rig { cpu, plan }
    }

    pub fn pass<T>(&mut self, run: impl FnOnce(&mut Cpu, &mut Area) -> T) -> T {
        let mut everything = Area::tracing(64);
        let _ = everything.take("everything", self.plan.total_bytes() as usize);
        let everything = everything.into_plan();
        let region =
            Area::planned(&everything).take("everything", self.plan.total_bytes() as usize);
        self.cpu.poison(&region);
        run(&mut self.cpu, &mut Area::planned(&self.plan))
    }
}

/// A region of `[n_rows][n_columns]` f32 with `values` in it; while tracing there are none.
pub fn put(cpu: &mut Cpu, area: &mut Area, len: usize, values: &[f32]) -> Region {
    let region = area.take("test", 4 * len);
    if !area.is_tracing() {
        cpu.fetched_mut(&region, len, Output::Hidden).unwrap().copy_from_slice(values);
    }
    region
}

/// What a region holds, which is given back.
pub fn get(cpu: &Cpu, area: &mut Area, region: Region) -> Vec<f32> {
    let n_values = region.bytes() as usize / 4;
    let values = match area.is_tracing() {
        true => Vec::new(),
        false => cpu.fetched(&region, n_values, Output::Hidden).unwrap().to_vec(),
    };
    area.give(region);
    values
}

/// A KV repo of one layer.
pub fn one_layer(heads: Heads, k_type: KvType, v_type: KvType, total_tokens: u64) -> KvLayout {
    KvLayout { k_type, v_type, total_tokens, layers: vec![heads] }
}

/// For operations that touch no K or V.
pub fn no_layers() -> KvLayout {
    KvLayout { k_type: KvType::F32, v_type: KvType::F32, total_tokens: 0, layers: Vec::new() }
}

/// Values agree up to `tolerance` of the largest expected one.
#[track_caller]
pub fn close(actual: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    for (i, (&a, e)) in actual.iter().zip(expected).enumerate() {
        let difference = (f64::from(a) - e).abs();
        assert!(difference <= tolerance * largest, "{what}: value {i} is {a}, expected {e}");
    }
}

#[track_caller]
pub fn same_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let first = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
    assert!(
        first.is_none(),
        "{what}: value {} differs: {:?}",
        first.unwrap(),
        first.map(|i| (a[i], b[i]))
    );
}
