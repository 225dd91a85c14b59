//! A projection of q, k and v with everything that can happen to heads, against f64 arithmetic.
#![allow(dead_code)] // each test uses its part

use half::{bf16, f16};
use larder_kernels::format::{Format, Weights};
use larder_kernels::kv::{KvKind, KvRows};
use larder_kernels::norm::{Norm, NormKind};
use larder_kernels::product::{Act, QkvFinish, RopePairs};

use crate::common::{Buffer, Device, Random, assert_close, to_bf16, to_f16};
use crate::twins::{NormTwin, rotate};
use crate::weights::Matrix;

/// What a projection does.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub head_dim: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub rope_dim: usize,
    pub pairs: RopePairs,
    pub norm: NormKind,
    pub biases: bool,
    pub kinds: (KvKind, KvKind),
}

/// Act rows, and the values that they hold.
pub enum ActRows {
    F32(Buffer<f32>),
    F16(Buffer<f16>),
    BF16(Buffer<bf16>),
}

impl ActRows {
    pub fn random(device: &Device, format: Format, len: usize, seed: u64) -> (Self, Vec<f64>) {
        let values = Random::new(seed).values(len);
        match Act::of(format) {
            Act::F32 => {
                (Self::F32(device.upload(&values)), values.into_iter().map(f64::from).collect())
            }
            Act::F16 => {
                let rows = to_f16(&values);
                (Self::F16(device.upload(&rows)), rows.into_iter().map(f64::from).collect())
            }
            Act::BF16 => {
                let rows = to_bf16(&values);
                (Self::BF16(device.upload(&rows)), rows.into_iter().map(f64::from).collect())
            }
        }
    }

    /// The same as f32, for kernels that read those.
    pub fn values(&self, device: &Device) -> Vec<f32> {
        match self {
            Self::F32(rows) => device.download(rows),
            Self::F16(rows) => device.download(rows).into_iter().map(f32::from).collect(),
            Self::BF16(rows) => device.download(rows).into_iter().map(f32::from).collect(),
        }
    }

    pub fn address(&self) -> u64 {
        match self {
            Self::F32(rows) => rows.address(),
            Self::F16(rows) => rows.address(),
            Self::BF16(rows) => rows.address(),
        }
    }
}

const SLOTS: [u32; 4] = [5, 0, 2, 7];
const N_SLOTS: usize = 9;

impl Heads {
    /// Runs `launch(weights, first heads, input, finish)` on random weights of `format` and checks q and every slot.
    pub fn check(
        &self,
        device: &Device,
        format: Format,
        n_rows: usize,
        n_in: usize,
        tolerance: f64,
        launch: impl Fn(&[Weights], [u32; 3], &ActRows, &QkvFinish),
    ) {
        let (dim, n_heads, n_kv) = (self.head_dim, self.n_heads, self.n_kv_heads);
        let counts = [n_heads, n_kv, n_kv];
        let matrices: Vec<Matrix> = (0..3)
            .map(|i| Matrix::random(device, format, counts[i] * dim, n_in, 10 + i as u64))
            .collect();
        let (input, x) = ActRows::random(device, format, n_rows * n_in, 20);
        let mut random = Random::new(21);
        let biases = counts.map(|count| random.values(count * dim));
        let norms = [0, 1].map(|_| NormTwin {
            kind: self.norm,
            weight: random.values(dim),
            bias: random.values(dim),
            eps: 1e-6,
        });
        let turns = random.values(n_rows * self.rope_dim);
        let bias_devices = biases.each_ref().map(|bias| device.upload(bias));
        let norm_devices =
            norms.each_ref().map(|norm| (device.upload(&norm.weight), device.upload(&norm.bias)));
        let table = device.upload(&turns);
        let slots = device.upload(&SLOTS[..n_rows]);
        let q = device.output::<f32>(n_rows * n_heads * dim);
        let shape = KvRows::new(0, self.kinds.0, self.kinds.1, n_kv as u32, dim as u32);
        let kv_bytes = device.output::<u8>(N_SLOTS * shape.row_bytes as usize);
        let norm = |i: usize| Norm {
            weight: norm_devices[i].0.address(),
            bias: norm_devices[i].1.address(),
            kind: self.norm,
            eps: 1e-6,
        };
        let finish = QkvFinish {
            q: q.address(),
            slots: slots.address(),
            rope_table: if self.rope_dim > 0 { table.address() } else { 0 },
            bias: bias_devices.each_ref().map(|bias| if self.biases { bias.address() } else { 0 }),
            q_norm: norm(0),
            k_norm: norm(1),
            kv: KvRows { base: kv_bytes.address(), ..shape },
            n_heads: n_heads as u32,
            rope_dim: self.rope_dim as u32,
            rope_pairs: self.pairs,
            first_head: [0; 3],
        };
        // K and V in one launch, q in another; so both ways to name heads are used.
        let firsts = [0, n_heads as u32, (n_heads + n_kv) as u32];
        let weights: Vec<Weights> = matrices.iter().map(|matrix| matrix.weights).collect();
        let one_launch = n_heads % 2 == 1;
        if one_launch {
            launch(&weights, firsts, &input, &finish);
        } else {
            launch(&weights[1..], [firsts[1], firsts[2], 0], &input, &finish);
            launch(&weights[..1], [0; 3], &input, &finish);
        }
        let expected = |which: usize| -> Vec<Vec<f64>> {
            let (matrix, mut rows) = (&matrices[which], Vec::new());
            for (row, x) in x.chunks(n_in).enumerate() {
                let mut heads = Vec::new();
                for (i, w) in matrix.values.chunks(n_in).enumerate() {
                    let bias = if self.biases { f64::from(biases[which][i]) } else { 0.0 };
                    heads.push(x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + bias);
                }
                for head in heads.chunks_mut(dim).filter(|_| which < 2) {
                    head.copy_from_slice(&norms[which].of_f64(head));
                    let turns: Vec<(f64, f64)> = turns[row * self.rope_dim..][..self.rope_dim]
                        .chunks(2)
                        .map(|turn| (turn[0].into(), turn[1].into()))
                        .collect();
                    rotate(self.pairs, &turns, head);
                }
                rows.push(heads);
            }
            rows
        };
        assert_close(&device.download(&q), &expected(0).concat(), tolerance);
        self.check_kv(&device.download(&kv_bytes), &shape, [expected(1), expected(2)], tolerance);
    }

    /// Every slot of the batch has its row's K and V, and nothing else was written.
    fn check_kv(&self, bytes: &[u8], shape: &KvRows, expected: [Vec<Vec<f64>>; 2], tolerance: f64) {
        let row_bytes = shape.row_bytes as usize;
        for (slot, bytes) in bytes.chunks(row_bytes).enumerate() {
            let Some(row) = SLOTS.iter().position(|&it| it as usize == slot) else {
                assert!(bytes.iter().all(|&byte| byte == 0xff), "slot {slot} was written");
                continue;
            };
            if row >= expected[0].len() {
                assert!(bytes.iter().all(|&byte| byte == 0xff), "slot {slot} was written");
                continue;
            }
            let places = [
                (self.kinds.0, 0, shape.k_scales as usize),
                (self.kinds.1, shape.v_offset as usize, shape.v_scales as usize),
            ];
            for ((kind, at, scales), expected) in places.into_iter().zip(&expected) {
                let wanted = &expected[row];
                for (head, wanted) in wanted.chunks(self.head_dim).enumerate() {
                    let values = self.stored(bytes, kind, at, scales, head);
                    assert_close(&values, wanted, tolerance + kind_tolerance(kind));
                }
            }
        }
    }

    fn stored(&self, row: &[u8], kind: KvKind, at: usize, scales: usize, head: usize) -> Vec<f64> {
        let element = kind.element_bytes() as usize;
        let bytes = &row[at + head * self.head_dim * element..][..self.head_dim * element];
        let scale = || {
            let bytes = &row[scales + 4 * head..][..4];
            f64::from(f32::from_le_bytes(bytes.try_into().unwrap()))
        };
        let two = |bytes: &[u8]| u16::from_le_bytes(bytes.try_into().unwrap());
        match kind {
            KvKind::F32 => bytes
                .chunks(4)
                .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()).into())
                .collect(),
            KvKind::F16 => bytes.chunks(2).map(|it| f16::from_bits(two(it)).into()).collect(),
            KvKind::BF16 => bytes.chunks(2).map(|it| bf16::from_bits(two(it)).into()).collect(),
            KvKind::Int8 => bytes.iter().map(|&it| f64::from(it as i8) * scale()).collect(),
            KvKind::Fp8 => bytes.iter().map(|&it| e4m3(it) * scale()).collect(),
        }
    }
}

/// Half a step of the largest value.
fn kind_tolerance(kind: KvKind) -> f64 {
    match kind {
        KvKind::F32 => 0.0,
        KvKind::F16 => 5e-4,
        KvKind::BF16 => 4e-3,
        KvKind::Int8 => 0.51 / 127.0,
        KvKind::Fp8 => 1.0 / 28.0,
    }
}

fn e4m3(bits: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
    let magnitude = match exponent {
        0 => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if bits >> 7 == 1 { -magnitude } else { magnitude }
}
