//! The plain twin of a backend: f64 arithmetic, one loop after the other, K and V in f32. Slow, and easy to believe.
//! It needs no `reserve`: memory is whatever the plan says.

use std::collections::HashMap;

use half::{bf16, f16};
use larder::area::{Area, Region};
use larder::backend::ops::{
    Activation, AttendOp, BatchView, Embedding, HeadOp, KvLayout, Linear, MlpOp, Norm, ProjectOp,
    QkvOp, Rope, RopePairs, RowInput, SampleRow, Vector,
};
use larder::backend::{Backend, BlockSizes, Output, PassLimits, Placed, Startup};
use larder::dtype::DType;
use larder::error::{Error, Result};
use larder::ids::{Layer, NO_SEGMENT, Slot};
use larder::options::Hooks;

/// The place of a token's K or V.
type KvKey = (Layer, Slot);

#[derive(Default)]
pub struct NaiveBackend {
    /// By offset, row after row.
    linears: HashMap<u64, Vec<f64>>,
    vectors: HashMap<u64, Vec<f32>>,
    area: Vec<f32>,
    k: HashMap<KvKey, Vec<f32>>,
    v: HashMap<KvKey, Vec<f32>>,
}

impl NaiveBackend {
    /// Takes a compute area of this many bytes, full of NaN.
    pub fn set_area_bytes(&mut self, bytes: u64) {
        self.area = vec![f32::NAN; bytes as usize / 4];
    }

    fn rows(&self, region: &Region) -> &[f32] {
        let first = region.offset() as usize / 4;
        &self.area[first..first + region.bytes() as usize / 4]
    }

    fn rows_mut(&mut self, region: &Region) -> &mut [f32] {
        let first = region.offset() as usize / 4;
        &mut self.area[first..first + region.bytes() as usize / 4]
    }

    fn row(&self, region: &Region, row: usize, width: usize) -> Vec<f64> {
        self.rows(region)[row * width..][..width].iter().map(|&value| f64::from(value)).collect()
    }

    fn set_row(&mut self, region: &Region, row: usize, values: &[f64]) {
        let place = &mut self.rows_mut(region)[row * values.len()..][..values.len()];
        place.iter_mut().zip(values).for_each(|(to, from)| *to = *from as f32);
    }

    fn vector(&self, vector: Vector) -> Vec<f64> {
        let values = &self.vectors[&vector.offset];
        assert_eq!(values.len(), vector.len as usize);
        values.iter().map(|&value| f64::from(value)).collect()
    }

    /// `weight · x + bias`
    fn linear(&self, linear: &Linear, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), linear.n_in as usize);
        let weight = &self.linears[&linear.offset];
        assert_eq!(weight.len(), x.len() * linear.n_out as usize);
        let mut out: Vec<f64> = weight.chunks_exact(x.len()).map(|row| dot(row, x)).collect();
        if let Some(bias) = linear.bias {
            out.iter_mut().zip(self.vector(bias)).for_each(|(out, bias)| *out += bias);
        }
        out
    }

    fn norm(&self, norm: &Norm, x: &[f64]) -> Vec<f64> {
        let n = x.len() as f64;
        match norm {
            Norm::Rms { weight, eps } => {
                let scale = 1.0 / (dot(x, x) / n + f64::from(*eps)).sqrt();
                x.iter().zip(self.vector(*weight)).map(|(x, weight)| x * scale * weight).collect()
            }
            Norm::Layer { weight, bias, eps } => {
                let mean = x.iter().sum::<f64>() / n;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                let scale = 1.0 / (variance + f64::from(*eps)).sqrt();
                let bias = bias.map_or(vec![0.0; x.len()], |bias| self.vector(bias));
                let scaled =
                    x.iter().zip(self.vector(*weight)).map(|(x, w)| (x - mean) * scale * w);
                scaled.zip(bias).map(|(x, bias)| x + bias).collect()
            }
        }
    }

    fn opt_norm(&self, norm: Option<&Norm>, x: Vec<f64>) -> Vec<f64> {
        norm.map_or(x.clone(), |norm| self.norm(norm, &x))
    }

    /// Norm and RoPE of every head.
    fn heads(
        &self,
        x: Vec<f64>,
        head_dim: usize,
        norm: Option<&Norm>,
        rope: Option<(&Rope, &[f64])>,
    ) -> Vec<f64> {
        let turn = |head: &[f64]| {
            let mut head = self.opt_norm(norm, head.to_vec());
            if let Some((rope, table)) = rope {
                rotate(&mut head, rope, table);
            }
            head
        };
        x.chunks_exact(head_dim).flat_map(turn).collect()
    }

    /// Adds to row `row` of `x`.
    fn add(&mut self, x: &Region, row: usize, norm: Option<&Norm>, what: Vec<f64>, factor: f32) {
        let what = self.opt_norm(norm, what);
        let mut sum = self.row(x, row, what.len());
        sum.iter_mut().zip(what).for_each(|(sum, what)| *sum += what * f64::from(factor));
        self.set_row(x, row, &sum);
    }

    /// One head's attention of the token at `position`, whose sequence lies in `slots`.
    fn attend_head(
        &self,
        op: &AttendOp,
        layer: Layer,
        q: &[f64],
        kv_head: usize,
        slots: &[Slot],
    ) -> Vec<f64> {
        let dim = q.len();
        let part = |values: &[f32]| -> Vec<f64> {
            values[kv_head * dim..][..dim].iter().map(|&value| f64::from(value)).collect()
        };
        let seen =
            &slots[slots.len().saturating_sub(op.window.map_or(usize::MAX, |w| w as usize))..];
        let score = |slot: &Slot| {
            let score = dot(q, &part(&self.k[&(layer, *slot)])) * f64::from(op.scale);
            capped(score, op.softcap)
        };
        let scores: Vec<f64> = seen.iter().map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut out = vec![0.0; dim];
        for (slot, weight) in seen.iter().zip(weights) {
            let v = part(&self.v[&(layer, *slot)]);
            out.iter_mut().zip(v).for_each(|(out, v)| *out += weight / sum * v);
        }
        out
    }
}

impl Backend for NaiveBackend {
    fn alignment(&self) -> u64 {
        64
    }

    fn prepare(&mut self, _: &PassLimits, _: &KvLayout, _: &[AttendOp]) -> Result<()> {
        Ok(())
    }

    fn bookkeeping_bytes(&self, _: &PassLimits, _: &KvLayout) -> u64 {
        0
    }

    fn linear_bytes(&self, dtype: DType, n_out: u32, n_in: u32) -> Result<u64> {
        let row = dtype.row_bytes(u64::from(n_in));
        row.map(|row| row * u64::from(n_out)).ok_or_else(|| Error::Internal("row".into()))
    }

    fn reserve(
        &mut self,
        _: Startup,
        _: BlockSizes,
        _: &PassLimits,
        _: &KvLayout,
        _: &Hooks,
    ) -> Result<()> {
        Ok(())
    }

    fn write_linear(&mut self, linear: &Linear, first_row: u32, bytes: &[u8]) -> Result<()> {
        let rows = self.linears.entry(linear.offset).or_default();
        assert_eq!(rows.len(), (first_row * linear.n_in) as usize, "rows come in order");
        let block = |bytes: &[u8]| match linear.dtype {
            DType::F32 => vec![f64::from(f32::from_le_bytes(bytes.try_into().unwrap()))],
            DType::F16 => vec![f16::from_le_bytes(bytes.try_into().unwrap()).to_f64()],
            DType::BF16 => vec![bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64()],
            DType::Q8_0 => {
                let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f64();
                bytes[2..].iter().map(|&byte| scale * f64::from(byte as i8)).collect()
            }
            other => panic!("the naive backend has no {other:?}"),
        };
        rows.extend(bytes.chunks_exact(linear.dtype.block_bytes()).flat_map(block));
        Ok(())
    }

    fn write_vector(&mut self, vector: Vector, values: &[f32]) -> Result<()> {
        self.vectors.insert(vector.offset, values.to_vec());
        Ok(())
    }

    fn poison(&mut self, region: &Region) {
        self.rows_mut(region).fill(f32::NAN);
    }

    fn fetched(&self, region: &Region, n_values: usize, _: Output) -> Result<&[f32]> {
        Ok(&self.rows(region)[..n_values])
    }

    fn fetched_mut(&mut self, region: &Region, n: usize, _: Output) -> Result<&mut [f32]> {
        Ok(&mut self.rows_mut(region)[..n])
    }

    fn place_of(&mut self, region: &Region) -> Result<Placed> {
        let address = self.rows(region).as_ptr().addr() as u64;
        Ok(Placed { address, cuda_device: None, event: 0 })
    }

    fn rope_table(
        &mut self,
        area: &mut Area,
        rope: &Rope,
        batch: &BatchView<'_>,
        table: &mut Region,
    ) -> Result<()> {
        if area.is_tracing() {
            return Ok(());
        }
        let frequencies = self.vector(rope.inverse_frequencies);
        for (row, position) in batch.positions.iter().enumerate() {
            let pair = |frequency: &f64| {
                let (sin, cos) = (f64::from(*position) * frequency).sin_cos();
                [cos, sin].map(|value| value * f64::from(rope.magnitude))
            };
            let values: Vec<f64> = frequencies.iter().flat_map(pair).collect();
            self.set_row(table, row, &values);
        }
        Ok(())
    }

    fn embed(
        &mut self,
        area: &mut Area,
        embedding: &Embedding,
        batch: &BatchView<'_>,
        x: &mut Region,
    ) -> Result<()> {
        if area.is_tracing() {
            return Ok(());
        }
        let width = embedding.table.n_in as usize;
        for row in 0..batch.n_rows {
            let values: Vec<f64> = match batch.input {
                RowInput::Tokens(tokens) => {
                    let first = tokens[row].0 as usize * width;
                    let table = &self.linears[&embedding.table.offset][first..first + width];
                    table.iter().map(|value| value * f64::from(embedding.scale)).collect()
                }
                RowInput::Embeddings(given) => {
                    given[row * width..][..width].iter().map(|&value| f64::from(value)).collect()
                }
            };
            self.set_row(x, row, &values);
        }
        Ok(())
    }

    fn qkv(
        &mut self,
        area: &mut Area,
        op: &QkvOp,
        layer: Layer,
        batch: &BatchView<'_>,
        rope_table: Option<&Region>,
        x: &Region,
        q: &mut Region,
    ) -> Result<()> {
        if area.is_tracing() {
            return Ok(());
        }
        let head_dim = op.heads.head_dim as usize;
        for row in 0..batch.n_rows {
            let normed = self.opt_norm(op.norm.as_ref(), self.row(x, row, op.q.n_in as usize));
            let table = op.rope.map(|rope| {
                let table = rope_table.expect("a layer with RoPE is given its table");
                (rope, self.row(table, row, rope.dim as usize))
            });
            let rope = table.as_ref().map(|(rope, table)| (rope, table.as_slice()));
            let turned =
                self.heads(self.linear(&op.q, &normed), head_dim, op.q_norm.as_ref(), rope);
            let k = self.heads(self.linear(&op.k, &normed), head_dim, op.k_norm.as_ref(), rope);
            let v = self.linear(&op.v, &normed);
            self.set_row(q, row, &turned);
            let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
            self.k.insert((layer, batch.slots[row]), narrow(k));
            self.v.insert((layer, batch.slots[row]), narrow(v));
        }
        Ok(())
    }

    fn attend(
        &mut self,
        area: &mut Area,
        op: &AttendOp,
        layer: Layer,
        batch: &BatchView<'_>,
        q: &mut Region,
    ) -> Result<()> {
        if area.is_tracing() {
            return Ok(());
        }
        let (n_heads, dim) = (op.heads.n_heads as usize, op.heads.head_dim as usize);
        let group = n_heads / op.heads.n_kv_heads as usize;
        for sequence in batch.sequences {
            let slots = slots_of(batch, sequence.last_segment);
            assert_eq!(slots.len(), sequence.n_tokens as usize);
            for index in 0..sequence.n {
                let row = batch.rows[(sequence.first + index) as usize] as usize;
                let position = (sequence.n_tokens - sequence.n + index) as usize;
                let heads = self.row(q, row, n_heads * dim);
                let attend = |(head, q): (usize, &[f64])| {
                    self.attend_head(op, layer, q, head / group, &slots[..=position])
                };
                let out: Vec<f64> = heads.chunks_exact(dim).enumerate().flat_map(attend).collect();
                self.set_row(q, row, &out);
            }
        }
        Ok(())
    }

    fn project_residual(
        &mut self,
        area: &mut Area,
        op: &ProjectOp,
        n_rows: usize,
        input: &Region,
        x: &mut Region,
    ) -> Result<()> {
        if area.is_tracing() {
            return Ok(());
        }
        for row in 0..n_rows {
            let out = self.linear(&op.weight, &self.row(input, row, op.weight.n_in as usize));
            self.add(x, row, op.norm_after.as_ref(), out, op.multiplier);
        }
        Ok(())
    }

    fn mlp(
        &mut self,
        area: &mut Area,
        op: &MlpOp,
        n_rows: usize,
        _tile_rows: usize,
        x: &mut Region,
    ) -> Result<()> {
        if area.is_tracing() {
            return Ok(());
        }
        for row in 0..n_rows {
            let normed = self.opt_norm(op.norm.as_ref(), self.row(x, row, op.gate.n_in as usize));
            let gate = self.linear(&op.gate, &normed);
            let up = self.linear(&op.up, &normed);
            let inner: Vec<f64> =
                gate.iter().zip(up).map(|(gate, up)| activate(op.activation, *gate) * up).collect();
            let out = self.linear(&op.down, &inner);
            self.add(x, row, op.norm_after.as_ref(), out, op.multiplier);
        }
        Ok(())
    }

    fn final_norm(
        &mut self,
        area: &mut Area,
        norm: &Norm,
        rows: &[u32],
        x: &mut Region,
    ) -> Result<()> {
        if area.is_tracing() {
            return Ok(());
        }
        let (Norm::Rms { weight, .. } | Norm::Layer { weight, .. }) = norm;
        for (to, from) in rows.iter().enumerate() {
            let normed = self.norm(norm, &self.row(x, *from as usize, weight.len as usize));
            self.set_row(x, to, &normed);
        }
        Ok(())
    }

    fn head(
        &mut self,
        area: &mut Area,
        op: &HeadOp,
        rows: &[u32],
        x: &Region,
        logits: &mut Region,
    ) -> Result<()> {
        if area.is_tracing() {
            return Ok(());
        }
        for (to, from) in rows.iter().enumerate() {
            let out =
                self.linear(&op.weight, &self.row(x, *from as usize, op.weight.n_in as usize));
            let finish = |logit: f64| capped(logit * f64::from(op.multiplier), op.softcap);
            let out: Vec<f64> = out.into_iter().map(finish).collect();
            self.set_row(logits, to, &out);
        }
        Ok(())
    }

    fn sample(
        &mut self,
        _: &mut Area,
        _: u32,
        _: &mut [SampleRow<'_>],
        _: &mut Region,
    ) -> Result<()> {
        Err(Error::Unsupported("the naive backend draws no tokens".into()))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn capped(value: f64, cap: Option<f32>) -> f64 {
    cap.map_or(value, |cap| f64::from(cap) * (value / f64::from(cap)).tanh())
}

/// A chain of segments as a list of slots.
fn slots_of(batch: &BatchView<'_>, last: u32) -> Vec<Slot> {
    let mut chain = Vec::new();
    let mut next = last;
    while next != NO_SEGMENT {
        let segment = batch.segments[next as usize];
        chain.push(segment);
        next = segment.parent;
    }
    let slots = |segment: &larder::ids::Segment| {
        let start = segment.start.0;
        (start..start + segment.len).map(Slot).collect::<Vec<_>>()
    };
    chain.iter().rev().flat_map(slots).collect()
}

fn rotate(head: &mut [f64], rope: &Rope, table: &[f64]) {
    let half = rope.dim as usize / 2;
    for pair in 0..half {
        let (a, b) = match rope.pairs {
            RopePairs::Halves => (pair, pair + half),
            RopePairs::Adjacent => (2 * pair, 2 * pair + 1),
        };
        let (cos, sin) = (table[2 * pair], table[2 * pair + 1]);
        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
    }
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
    }
}

/// Abramowitz and Stegun 7.1.5, summed until nothing changes; good for the |x| that occur here.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while f64::abs(term) > 1e-17 {
        n += 1.0;
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}
