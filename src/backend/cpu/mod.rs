//! The backend for the host's processor: kernels chosen once by what the processor has, a pool of threads that is
//! started once, and the three blocks.
//!
//! One file an operation. Each asks the area for all it needs, in the same order whatever the batch, and splits its
//! work into tasks whose results do not depend on which thread runs them.

#[cfg(target_arch = "aarch64")]
pub mod arm;
mod attention;
pub mod blocks;
pub mod dispatch;
mod embed;
mod float_mode;
mod head;
mod linear;
mod load;
pub mod matmul;
mod memory;
mod mlp;
mod norm;
pub mod peak;
pub mod portable;
mod project;
mod qkv;
mod rope;
mod rows;
mod sample;
pub mod simd;
#[cfg(test)]
mod tests;
pub mod threads;
#[cfg(target_arch = "x86_64")]
pub mod x86;

use super::ops::{
    AttendOp, BatchView, Embedding, HeadOp, KvLayout, Linear, MlpOp, Norm, ProjectOp, QkvOp, Rope,
    SampleRow, Vector,
};
use super::{Backend, BlockSizes, Output, PassLimits, Placed, Startup};
use crate::area::{Area, Region};
use crate::dtype::{DType, KvType};
use crate::error::{Error, Result};
use crate::ids::Layer;
use crate::options::{Hooks, Options};
use blocks::pack::packed_bytes;
use dispatch::Kernels;
use matmul::Precision;
use memory::Memory;
use threads::Pool;

/// Of regions: also the widest vector.
const CACHE_LINE: u64 = 64;

/// The host's processor as a [`Backend`]. Weights are packed in tiles as they are read.
pub struct Cpu {
    kernels: &'static Kernels,
    pool: Pool,
    exact_activations: bool,
    memory: Option<Memory>,
}

impl Cpu {
    /// Chooses the kernels; starts no thread and takes no memory before [`reserve`](Backend::reserve).
    pub fn new(options: &Options) -> Result<Cpu> {
        Self::with_kernels(options, Kernels::detect())
    }

    /// As [`new`](Self::new), with a variant of [`Kernels::supported`].
    pub fn with_kernels(options: &Options, kernels: &'static Kernels) -> Result<Cpu> {
        Ok(Cpu {
            kernels,
            pool: Pool::idle(options.n_threads, options.hooks.executor.clone())?,
            exact_activations: options.exact_activations,
            memory: None,
        })
    }

    /// Threads that compute, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    /// Name of the kernels' variant.
    pub fn kernels_name(&self) -> &'static str {
        self.kernels.name
    }

    fn memory(&self) -> Result<&Memory> {
        self.memory.as_ref().ok_or_else(|| Error::Internal("the backend has no memory yet".into()))
    }

    fn memory_mut(&mut self) -> Result<&mut Memory> {
        self.memory.as_mut().ok_or_else(|| Error::Internal("the backend has no memory yet".into()))
    }

    /// What activations a weight meets.
    fn precision(&self, weight: &Linear) -> Precision {
        if weight.dtype.is_quantised() && !self.exact_activations {
            Precision::Q8
        } else {
            Precision::Exact
        }
    }
}

impl Backend for Cpu {
    fn linear_bytes(&self, dtype: DType, n_out: u32, n_in: u32) -> Result<u64> {
        if dtype.row_bytes(u64::from(n_in)).is_none() {
            let block = dtype.block_len();
            return Err(Error::BadModel(format!(
                "a row of {n_in} is no multiple of {dtype:?}'s block of {block}"
            )));
        }
        packed_bytes(dtype, n_out.into(), n_in.into()).ok_or_else(|| {
            Error::BadModel(format!("{n_out} rows of {n_in} {dtype:?} weights are too many"))
        })
    }

    fn reserve(
        &mut self,
        startup: Startup,
        sizes: BlockSizes,
        _limits: &PassLimits,
        kv: &KvLayout,
        hooks: &Hooks,
    ) -> Result<()> {
        if self.memory.is_some() {
            return Err(Error::Internal("the backend's memory is taken once".into()));
        }
        self.memory = Some(Memory::take(startup, sizes, kv, hooks)?);
        self.pool.start()
    }

    fn alignment(&self) -> u64 {
        CACHE_LINE
    }

    fn prepare(
        &mut self,
        _limits: &PassLimits,
        kv: &KvLayout,
        _attention: &[AttendOp],
    ) -> Result<()> {
        for (name, kind) in [("k_type", kv.k_type), ("v_type", kv.v_type)] {
            if matches!(kind, KvType::Int8 | KvType::Fp8) {
                return Err(Error::Unsupported(format!(
                    "options.{name}: {kind:?} is for CUDA devices; the CPU has BF16, F16 and F32"
                )));
            }
        }
        Ok(())
    }

    fn bookkeeping_bytes(&self, _limits: &PassLimits, kv: &KvLayout) -> u64 {
        Memory::heap_bytes(kv) + self.pool.heap_bytes()
    }

    fn write_linear(&mut self, linear: &Linear, first_row: u32, bytes: &[u8]) -> Result<()> {
        load::write_linear(self, linear, first_row as usize, bytes)
    }

    fn write_vector(&mut self, vector: Vector, values: &[f32]) -> Result<()> {
        if values.len() != vector.len as usize {
            return Err(Error::Internal(format!("{} values for {vector:?}", values.len())));
        }
        self.memory_mut()?.vector_mut(vector).copy_from_slice(values);
        Ok(())
    }

    fn poison(&mut self, region: &Region) {
        if let Some(memory) = &mut self.memory {
            memory.lend::<u8>(region).fill(0xFF);
        }
    }

    fn fetched(&self, region: &Region, n_values: usize, _output: Output) -> Result<&[f32]> {
        Ok(&self.memory()?.region(region)[..n_values])
    }

    fn fetched_mut(
        &mut self,
        region: &Region,
        n_values: usize,
        _output: Output,
    ) -> Result<&mut [f32]> {
        Ok(&mut self.memory_mut()?.lend(region)[..n_values])
    }

    fn place_of(&mut self, region: &Region) -> Result<Placed> {
        let address = self.memory()?.region::<u8>(region).as_ptr().addr() as u64;
        Ok(Placed { address, cuda_device: None, event: 0 })
    }

    fn rope_table(
        &mut self,
        area: &mut Area,
        rope: &Rope,
        batch: &BatchView<'_>,
        table: &mut Region,
    ) -> Result<()> {
        rope::rope_table(self, area, rope, batch, table)
    }

    fn embed(
        &mut self,
        area: &mut Area,
        embedding: &Embedding,
        batch: &BatchView<'_>,
        x: &mut Region,
    ) -> Result<()> {
        embed::embed(self, area, embedding, batch, x)
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
        qkv::qkv(self, area, op, layer, batch, rope_table, x, q)
    }

    fn attend(
        &mut self,
        area: &mut Area,
        op: &AttendOp,
        layer: Layer,
        batch: &BatchView<'_>,
        q: &mut Region,
    ) -> Result<()> {
        attention::attend(self, area, op, layer, batch, q)
    }

    fn project_residual(
        &mut self,
        area: &mut Area,
        op: &ProjectOp,
        n_rows: usize,
        input: &Region,
        x: &mut Region,
    ) -> Result<()> {
        project::project_residual(self, area, op, n_rows, input, x)
    }

    fn mlp(
        &mut self,
        area: &mut Area,
        op: &MlpOp,
        n_rows: usize,
        tile_rows: usize,
        x: &mut Region,
    ) -> Result<()> {
        mlp::mlp(self, area, op, n_rows, tile_rows, x)
    }

    fn final_norm(
        &mut self,
        area: &mut Area,
        norm: &Norm,
        rows: &[u32],
        x: &mut Region,
    ) -> Result<()> {
        head::final_norm(self, area, norm, rows, x)
    }

    fn head(
        &mut self,
        area: &mut Area,
        op: &HeadOp,
        rows: &[u32],
        x: &Region,
        logits: &mut Region,
    ) -> Result<()> {
        head::head(self, area, op, rows, x, logits)
    }

    fn sample(
        &mut self,
        area: &mut Area,
        vocab_size: u32,
        rows: &mut [SampleRow<'_>],
        logits: &mut Region,
    ) -> Result<()> {
        sample::sample(self, area, vocab_size, rows, logits)
    }
}
