//! The backend for CUDA devices: kernels of the crate `larder-kernels`, in one block of device memory for the weights,
//! one for the KV repo, and one for the compute area with the tables of a pass behind it.
//!
//! One file an operation. Each asks the area for all it needs, in the same order whatever the batch, and enqueues its
//! launches; only [`fetch`](Backend::fetch) and [`sample`](Backend::sample) wait. Passes with one row a sequence
//! replay a recorded graph. Plans need no device.

mod attend;
mod blocks;
mod device;
mod embed;
mod fault;
mod graph;
mod head;
mod large;
mod linear;
mod load;
mod memory;
mod mlp;
mod products;
mod project;
mod qkv;
mod rope;
mod sample;
mod tables;
mod tiles;

use super::ops::{
    AttendOp, BatchView, Embedding, HeadOp, KvLayout, Linear, MlpOp, Norm, ProjectOp, QkvOp, Rope,
    RowInput, SampleRow, Vector,
};
use super::{Backend, BlockSizes, Output, PassLimits, Placed, Startup};
use crate::area::{Area, Region};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Layer;
use crate::options::{CudaWeights, Hooks, Options};
use device::{Found, Pass, Ready};
use fault::Fault;
use graph::{Graphs, buckets};
use larder_kernels::attention::Shape;
use larder_kernels::blas;
use larder_kernels::driver::Event;
use larder_kernels::modules::Kernels;
use large::Large;
use load::Staging;
use memory::{ALIGNMENT, Memory, PinnedParts};
use qkv::QkvRows;
use tables::Tables;

/// A CUDA device as a [`Backend`].
pub struct Cuda {
    found: Found,
    plain_weights: CudaWeights,
    exact: bool,
    /// The kinds of attention that the layers have, and which one each layer has.
    shapes: Vec<Shape>,
    shape_of_layer: Vec<u32>,
    /// What passes ask of cuBLASLt.
    large_shapes: Vec<blas::Shape>,
    limits: PassLimits,
    pass: Pass,
    ready: Option<Box<Ready>>,
    /// The text of the error behind which nothing runs any more.
    failed: Option<String>,
    /// An error of a call that has no result, for the next one to tell.
    untold: Option<Error>,
}

impl Cuda {
    /// Looks for the device. That there is none is told by [`reserve`](Backend::reserve).
    ///
    /// # Errors
    /// `InvalidArgument` for a stream of the host without its context.
    pub fn new(options: &Options) -> Result<Cuda> {
        Ok(Cuda {
            found: Found::new(options)?,
            plain_weights: options.cuda.weights,
            exact: options.exact_activations,
            shapes: Vec::new(),
            shape_of_layer: Vec::new(),
            large_shapes: Vec::new(),
            limits: PassLimits::default(),
            pass: Pass::Launched,
            ready: None,
            failed: None,
            untold: None,
        })
    }

    fn n_multiprocessors(&self) -> u32 {
        self.found.n_multiprocessors()
    }

    /// What launches go to.
    fn ready(&mut self) -> fault::Result<&mut Ready> {
        let ready = self.ready.as_deref_mut();
        ready.ok_or_else(|| Fault::defect("the backend has no memory yet".into()))
    }

    /// What the trunk's launches go to; `None` when there are none: while tracing, and in a replayed pass.
    fn launches(&mut self, area: &Area) -> fault::Result<Option<&mut Ready>> {
        match area.is_tracing() || self.pass == Pass::Replayed {
            true => Ok(None),
            false => self.ready().map(Some),
        }
    }

    /// Runs `work` with the context current. An error that the device does not survive is remembered.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Cuda) -> fault::Result<T>) -> Result<T> {
        if let Some(error) = self.untold.take() {
            return Err(error);
        }
        if let Some(text) = &self.failed {
            return Err(Error::EngineFailed(text.clone()));
        }
        let context = self.ready.as_ref().map(|ready| ready.context.clone());
        let worked = match context.as_ref().map(|context| context.enter()).transpose() {
            Ok(_entered) => work(self),
            Err(error) => Err(error.into()),
        };
        worked.map_err(|fault| self.failure(fault))
    }

    /// As [`guarded`](Self::guarded) for the trunk's operations, which only ask the area in a replayed pass.
    fn operation(
        &mut self,
        area: &mut Area,
        work: impl FnOnce(&mut Cuda, &mut Area) -> fault::Result<()>,
    ) -> Result<()> {
        match area.is_tracing() || self.pass == Pass::Replayed {
            true => work(self, area).map_err(Fault::into_error),
            false => self.guarded(|cuda| work(cuda, area)),
        }
    }

    fn failure(&mut self, fault: Fault) -> Error {
        if let (Pass::Recorded { .. }, Some(ready)) = (self.pass, &self.ready) {
            // The stream, which may be the host's, does not stay in recording.
            let _ = ready.stream.end_capture();
            self.pass = Pass::Launched;
        }
        let is_sticky = fault.is_sticky();
        let error = fault.into_error();
        if is_sticky {
            self.failed = Some(error.to_string());
        }
        error
    }

    fn parts(&self, limits: &PassLimits) -> PinnedParts {
        PinnedParts::new(self.tables_bytes(limits), sample::pinned_bytes(limits), limits)
    }

    fn take(
        &mut self,
        startup: Startup,
        sizes: &BlockSizes,
        limits: &PassLimits,
        kv: &KvLayout,
        hooks: &Hooks,
    ) -> fault::Result<()> {
        if self.ready.is_some() {
            return Err(Fault::defect("the backend's memory is taken once".into()));
        }
        let context = self.found.open()?;
        let entered = context.enter()?;
        let stream = self.found.stream(&context)?;
        let kernels = Kernels::load(&context)?;
        let parts = self.parts(limits);
        let memory = Memory::take(startup, &context, &stream, sizes, parts, kv, hooks)?;
        self.limits = *limits;
        self.ready = Some(Box::new(Ready {
            exact: self.exact,
            graphs: Graphs::default(),
            tables: Tables::new(&context, &self.shapes, self.n_multiprocessors(), limits)?,
            staging: Staging::new(&context)?,
            placed: Event::new(&context)?,
            sampler: sample::sampler(limits),
            large: Large::open(&context, &self.large_shapes, limits.n_rows)?,
            memory,
            kernels,
            stream,
            context: context.clone(),
        }));
        large::rehearse(self.ready()?, limits.n_rows)?;
        drop(entered);
        Ok(())
    }

    /// See [`Backend::begin`].
    fn begin_pass(&mut self, batch: &BatchView<'_>, wanted: &[u32]) -> fault::Result<()> {
        let decode_only = batch.sequences.iter().all(|sequence| sequence.n == 1);
        // What was recorded reads tokens, and norms all rows.
        let is_plain = matches!(batch.input, RowInput::Tokens(_)) && wanted.len() == batch.n_rows;
        let ready = self.ready()?;
        let bucket = match decode_only && is_plain {
            true => ready.graphs.bucket(batch.n_rows),
            false => None,
        };
        let n_launched = bucket.map_or(batch.n_rows, |rows| rows as usize);
        let Ready { tables, memory, stream, graphs, .. } = ready;
        tables.upload(memory, stream, batch, wanted, n_launched)?;
        if let Some(bucket) = bucket {
            graphs.launch(bucket, stream)?;
        }
        self.pass = match bucket {
            Some(_) => Pass::Replayed,
            None => Pass::Launched,
        };
        Ok(())
    }
}

impl Backend for Cuda {
    fn linear_bytes(&self, dtype: DType, n_out: u32, n_in: u32) -> Result<u64> {
        let layout = linear::layout(self.plain_weights, dtype, n_out, n_in);
        layout.map(|layout| layout.bytes()).map_err(Fault::into_error)
    }

    fn alignment(&self) -> u64 {
        ALIGNMENT
    }

    fn is_device(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.found.describe()
    }

    fn prepare(
        &mut self,
        limits: &PassLimits,
        kv: &KvLayout,
        attention: &[AttendOp],
    ) -> Result<()> {
        attend::check(kv)?;
        self.limits = *limits;
        (self.shapes, self.shape_of_layer) = attend::shapes(attention);
        Ok(())
    }

    fn tables_bytes(&self, limits: &PassLimits) -> u64 {
        Tables::bytes(&self.shapes, self.n_multiprocessors(), limits)
    }

    fn pinned_bytes(&self, limits: &PassLimits) -> u64 {
        self.parts(limits).bytes()
    }

    fn bookkeeping_bytes(&self, limits: &PassLimits, kv: &KvLayout) -> u64 {
        // The planner's lists are about as long as the tables that they become.
        let planner = self.tables_bytes(limits);
        Memory::heap_bytes(kv) + planner + sample::heap_bytes(limits) + size_of::<Ready>() as u64
    }

    fn reserve(
        &mut self,
        startup: Startup,
        sizes: BlockSizes,
        limits: &PassLimits,
        kv: &KvLayout,
        hooks: &Hooks,
    ) -> Result<()> {
        self.take(startup, &sizes, limits, kv, hooks).map_err(|fault| self.failure(fault))
    }

    fn write_linear(&mut self, linear: &Linear, first_row: u32, bytes: &[u8]) -> Result<()> {
        self.guarded(|cuda| load::linear(cuda, linear, first_row, bytes))
    }

    fn write_vector(&mut self, vector: Vector, values: &[f32]) -> Result<()> {
        self.guarded(|cuda| load::vector(cuda, vector, values))
    }

    fn poison(&mut self, region: &Region) {
        if self.pass == Pass::Replayed {
            return;
        }
        let filled = self.guarded(|cuda| {
            let Ready { memory, stream, .. } = cuda.ready()?;
            // SAFETY: the region's own memory.
            Ok(unsafe { stream.fill(memory.region(region)?, 0xFF, region.bytes()) }?)
        });
        self.untold = filled.err();
    }

    fn capture_rows(&self) -> Vec<u32> {
        buckets(self.limits.n_rows, self.limits.n_sequences).collect()
    }

    fn begin_capture(&mut self, n_rows: u32) -> Result<()> {
        self.guarded(|cuda| {
            cuda.ready()?.stream.begin_capture()?;
            cuda.pass = Pass::Recorded { n_rows };
            Ok(())
        })
    }

    fn end_capture(&mut self) -> Result<()> {
        self.guarded(|cuda| {
            let Pass::Recorded { n_rows } = cuda.pass else {
                return Err(Fault::defect("no pass is being recorded".into()));
            };
            cuda.pass = Pass::Launched;
            let ready = cuda.ready()?;
            let is_first = ready.graphs.is_empty();
            ready.graphs.add(n_rows, ready.stream.end_capture()?);
            if is_first { ready.rehearse(n_rows) } else { Ok(()) }
        })
    }

    fn begin(&mut self, batch: &BatchView<'_>, wanted: &[u32]) -> Result<()> {
        self.guarded(|cuda| cuda.begin_pass(batch, wanted))
    }

    fn fetch(&mut self, region: &Region, n_values: usize, output: Output) -> Result<()> {
        self.guarded(|cuda| head::fetch(cuda, region, n_values, output))
    }

    fn fetched(&self, _region: &Region, n_values: usize, output: Output) -> Result<&[f32]> {
        let ready = self.ready.as_deref();
        let values = ready.and_then(|ready| ready.memory.output(output).get(..n_values));
        values.ok_or_else(not_fetched)
    }

    fn fetched_mut(
        &mut self,
        _region: &Region,
        n_values: usize,
        output: Output,
    ) -> Result<&mut [f32]> {
        let ready = self.ready.as_deref_mut();
        let values = ready.and_then(|ready| ready.memory.output_mut(output).get_mut(..n_values));
        values.ok_or_else(not_fetched)
    }

    fn place_of(&mut self, region: &Region) -> Result<Placed> {
        let index = self.found.index();
        self.guarded(|cuda| {
            let Ready { memory, stream, placed, .. } = cuda.ready()?;
            placed.record(stream)?;
            Ok(Placed {
                address: memory.region(region)?,
                cuda_device: Some(index),
                event: placed.raw().expose_provenance(),
            })
        })
    }

    fn rope_table(
        &mut self,
        area: &mut Area,
        rope: &Rope,
        batch: &BatchView<'_>,
        table: &mut Region,
    ) -> Result<()> {
        self.operation(area, |cuda, area| rope::rope_table(cuda, area, rope, batch.n_rows, table))
    }

    fn embed(
        &mut self,
        area: &mut Area,
        embedding: &Embedding,
        batch: &BatchView<'_>,
        x: &mut Region,
    ) -> Result<()> {
        self.operation(area, |cuda, area| embed::embed(cuda, area, embedding, batch, x))
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
        let rows = QkvRows { rope_table, n_rows: batch.n_rows, x, q };
        self.operation(area, |cuda, area| qkv::qkv(cuda, area, op, layer, rows))
    }

    fn attend(
        &mut self,
        area: &mut Area,
        op: &AttendOp,
        layer: Layer,
        _batch: &BatchView<'_>,
        q: &mut Region,
    ) -> Result<()> {
        self.operation(area, |cuda, area| attend::attend(cuda, area, op, layer, q))
    }

    fn project_residual(
        &mut self,
        area: &mut Area,
        op: &ProjectOp,
        n_rows: usize,
        input: &Region,
        x: &mut Region,
    ) -> Result<()> {
        self.operation(area, |cuda, area| {
            project::project_residual(cuda, area, op, n_rows, input, x)
        })
    }

    fn mlp(
        &mut self,
        area: &mut Area,
        op: &MlpOp,
        n_rows: usize,
        _tile_rows: usize,
        x: &mut Region,
    ) -> Result<()> {
        self.operation(area, |cuda, area| mlp::mlp(cuda, area, op, n_rows, x))
    }

    fn final_norm(
        &mut self,
        area: &mut Area,
        norm: &Norm,
        rows: &[u32],
        x: &mut Region,
    ) -> Result<()> {
        self.operation(area, |cuda, area| head::final_norm(cuda, area, norm, rows, x))
    }

    fn head(
        &mut self,
        area: &mut Area,
        op: &HeadOp,
        rows: &[u32],
        x: &Region,
        logits: &mut Region,
    ) -> Result<()> {
        self.guarded(|cuda| head::head(cuda, area, op, rows, x, logits))
    }

    fn sample(
        &mut self,
        area: &mut Area,
        vocab_size: u32,
        rows: &mut [SampleRow<'_>],
        logits: &mut Region,
    ) -> Result<()> {
        self.guarded(|cuda| sample::sample(cuda, area, vocab_size, rows, logits))
    }
}

#[cold]
fn not_fetched() -> Error {
    Error::Internal("more values are looked at than the pinned memory holds".into())
}
