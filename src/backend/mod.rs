//! The operations that a decoder needs, over rows, and the memory they work in. Knows sizes and views, not
//! models or sequences. Nothing here allocates after [`Backend::reserve`].

pub mod block;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod ops;

use crate::area::{Area, Region};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ids::Layer;
use crate::options::Hooks;
use ops::{
    AttendOp, BatchView, Embedding, HeadOp, KvLayout, Linear, MlpOp, Norm, ProjectOp, QkvOp, Rope,
    SampleRow, Vector,
};

/// Sizes of the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    pub weights_bytes: u64,
    pub kv_repo_bytes: u64,
    /// The area's plan, and behind it the backend's tables.
    pub compute_area_bytes: u64,
    /// Of these, the tables'.
    pub tables_bytes: u64,
    /// Host memory through which a device is fed and read.
    pub pinned_bytes: u64,
}

/// The most of everything that a pass may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PassLimits {
    pub n_rows: u32,
    pub n_sequences: u32,
    pub n_logits_rows: u32,
    pub sequence_tokens: u32,
    pub total_tokens: u32,
    pub hidden_size: u32,
    pub vocab_size: u32,
}

/// Where a region lies, for someone who reads it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub address: u64,
    /// Number of the CUDA device; `None`: the host's memory.
    pub cuda_device: Option<u32>,
    /// A `CUevent` behind which the region is written; 0: it is.
    pub event: usize,
}

/// Rows that the host may look at after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Logits,
    Hidden,
}

/// The right to take device memory. `engine::create` makes one; [`Backend::reserve`] consumes it, so nothing
/// later can allocate.
#[derive(Debug)]
pub struct Startup(pub(crate) ());

/// One device. Every operation asks `area` for its temporaries; while `area` is tracing, an operation only
/// asks and launches nothing, so the plan is made by the very code that runs (see [`crate::area`]).
///
/// Operations work on the rows of `batch` or on the first `n_rows` rows of a region. All regions are f32 unless
/// said otherwise. A row's result never depends on the other rows, on the chunking, on slots or on threads.
pub trait Backend: Sized + Send {
    /// Bytes of a weight matrix `[n_out, n_in]` in the weights block, as this backend packs it.
    fn linear_bytes(&self, dtype: DType, n_out: u32, n_in: u32) -> Result<u64>;

    /// Of every offset in the weights block and in the compute area.
    fn alignment(&self) -> u64;

    /// Whether weights, KV repo and compute area lie outside of the host's memory.
    fn is_device(&self) -> bool {
        false
    }

    /// Lines about the device, for people; empty where there is nothing to say.
    fn describe(&self) -> String {
        String::new()
    }

    /// Told before the first pass is traced: the most of everything, and each layer's attention. `total_tokens` may
    /// be lower in the end.
    ///
    /// # Errors
    /// `Unsupported` for sizes or K/V types that the backend has no kernel for.
    fn prepare(&mut self, limits: &PassLimits, kv: &KvLayout, attention: &[AttendOp])
    -> Result<()>;

    /// Bytes of tables behind the area's plan.
    fn tables_bytes(&self, _limits: &PassLimits) -> u64 {
        0
    }

    /// Bytes of pinned host memory.
    fn pinned_bytes(&self, _limits: &PassLimits) -> u64 {
        0
    }

    /// Host bytes that [`reserve`](Self::reserve) takes for its own tables, beside the blocks.
    fn bookkeeping_bytes(&self, limits: &PassLimits, kv: &KvLayout) -> u64;

    /// Starts what computes, and takes the weights, the KV repo (zeroed) and the compute area. Once.
    fn reserve(
        &mut self,
        startup: Startup,
        sizes: BlockSizes,
        limits: &PassLimits,
        kv: &KvLayout,
        hooks: &Hooks,
    ) -> Result<()>;

    /// Writes rows `first_row ..` of a weight matrix from the file's bytes (whole rows, in the file's layout).
    fn write_linear(&mut self, linear: &Linear, first_row: u32, bytes: &[u8]) -> Result<()>;

    /// Writes an f32 vector (norm weights, biases, rope frequencies).
    fn write_vector(&mut self, vector: Vector, values: &[f32]) -> Result<()>;

    /// Overwrites a dead region with NaN bytes; debug builds call it.
    fn poison(&mut self, region: &Region);

    /// Numbers of rows for which [`begin_capture`](Self::begin_capture) is to be called, once, after the weights are
    /// there. None where passes are not captured.
    fn capture_rows(&self) -> Vec<u32> {
        Vec::new()
    }

    /// The operations of the next pass, up to and including the final norm of all its rows, are recorded for a pass of
    /// `n_rows` rows of as many sequences.
    fn begin_capture(&mut self, _n_rows: u32) -> Result<()> {
        Err(Error::Internal("this backend records no passes".into()))
    }

    /// Ends the recording.
    fn end_capture(&mut self) -> Result<()> {
        Err(Error::Internal("this backend records no passes".into()))
    }

    /// Begins a pass over `batch`, of whose rows `wanted` will go through the final norm. Where a recorded pass can
    /// stand in, it runs now, and the operations up to the final norm only ask the area.
    fn begin(&mut self, _batch: &BatchView<'_>, _wanted: &[u32]) -> Result<()> {
        Ok(())
    }

    /// Waits for the device and makes the first `n_values` of a region visible to the host, until the next pass.
    fn fetch(&mut self, _region: &Region, _n_values: usize, _output: Output) -> Result<()> {
        Ok(())
    }

    /// What was fetched.
    fn fetched(&self, region: &Region, n_values: usize, output: Output) -> Result<&[f32]>;

    /// What was fetched, to be changed in place before it is handed out.
    fn fetched_mut(
        &mut self,
        region: &Region,
        n_values: usize,
        output: Output,
    ) -> Result<&mut [f32]>;

    /// Where a region lies; on a device with an event behind all that was launched.
    fn place_of(&mut self, region: &Region) -> Result<Placed>;

    /// cos and sin of every row's position: `table [rows][rope.dim / 2][2]`.
    fn rope_table(
        &mut self,
        area: &mut Area,
        rope: &Rope,
        batch: &BatchView<'_>,
        table: &mut Region,
    ) -> Result<()>;

    /// Token ids or given embeddings → `x [rows, hidden]`.
    fn embed(
        &mut self,
        area: &mut Area,
        embedding: &Embedding,
        batch: &BatchView<'_>,
        x: &mut Region,
    ) -> Result<()>;

    /// `x`, norm, projections, bias, q/k norm, RoPE → `q [rows, n_heads, head_dim]`; K and V go straight to the
    /// KV repo at each row's slot. `rope_table` is what [`rope_table`](Self::rope_table) made.
    #[allow(
        clippy::too_many_arguments,
        reason = "all of them are what the operation reads or writes"
    )]
    fn qkv(
        &mut self,
        area: &mut Area,
        op: &QkvOp,
        layer: Layer,
        batch: &BatchView<'_>,
        rope_table: Option<&Region>,
        x: &Region,
        q: &mut Region,
    ) -> Result<()>;

    /// Attention of every row over its own sequence up to itself; the output takes `q`'s place.
    fn attend(
        &mut self,
        area: &mut Area,
        op: &AttendOp,
        layer: Layer,
        batch: &BatchView<'_>,
        q: &mut Region,
    ) -> Result<()>;

    /// `x += norm_after(input · weightᵀ + bias) · multiplier` with `input [rows, n_in]`.
    fn project_residual(
        &mut self,
        area: &mut Area,
        op: &ProjectOp,
        n_rows: usize,
        input: &Region,
        x: &mut Region,
    ) -> Result<()>;

    /// `x += norm_after(down(activation(gate(norm(x))) · up(norm(x)))) · multiplier`, `tile_rows` rows at a time.
    fn mlp(
        &mut self,
        area: &mut Area,
        op: &MlpOp,
        n_rows: usize,
        tile_rows: usize,
        x: &mut Region,
    ) -> Result<()>;

    /// Final norm of the listed rows of `x`, in ascending order, moved together to the front of `x`.
    fn final_norm(
        &mut self,
        area: &mut Area,
        norm: &Norm,
        rows: &[u32],
        x: &mut Region,
    ) -> Result<()>;

    /// Rows `rows` of the normed `x` → `logits [rows.len(), vocab]`, capped and scaled.
    fn head(
        &mut self,
        area: &mut Area,
        op: &HeadOp,
        rows: &[u32],
        x: &Region,
        logits: &mut Region,
    ) -> Result<()>;

    /// One token for each of `rows` from `logits [rows.len(), vocab]`; changes `logits`.
    fn sample(
        &mut self,
        area: &mut Area,
        vocab_size: u32,
        rows: &mut [SampleRow<'_>],
        logits: &mut Region,
    ) -> Result<()>;
}
