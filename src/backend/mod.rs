//! The operations that a decoder needs, over rows, and the memory they work in. Knows sizes and views, not
//! models or sequences. Nothing here allocates after [`Backend::reserve`].

pub mod block;
pub mod cpu;
pub mod ops;

use crate::area::{Area, Region};
use crate::dtype::DType;
use crate::error::Result;
use crate::ids::Layer;
use crate::options::Hooks;
use ops::{
    AttendOp, BatchView, Embedding, HeadOp, KvLayout, Linear, MlpOp, Norm, ProjectOp, QkvOp, Rope,
    SampleRow, Vector,
};

/// Sizes of the three device blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    pub weights_bytes: u64,
    pub kv_repo_bytes: u64,
    pub compute_area_bytes: u64,
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

    /// Host bytes that [`reserve`](Self::reserve) takes for its own tables, beside the blocks.
    fn bookkeeping_bytes(&self, kv: &KvLayout) -> u64;

    /// Starts what computes, and takes the weights, the KV repo (zeroed) and the compute area. Once.
    fn reserve(
        &mut self,
        startup: Startup,
        sizes: BlockSizes,
        kv: &KvLayout,
        hooks: &Hooks,
    ) -> Result<()>;

    /// Writes rows `first_row ..` of a weight matrix from the file's bytes (whole rows, in the file's layout).
    fn write_linear(&mut self, linear: &Linear, first_row: u32, bytes: &[u8]) -> Result<()>;

    /// Writes an f32 vector (norm weights, biases, rope frequencies).
    fn write_vector(&mut self, vector: Vector, values: &[f32]) -> Result<()>;

    /// Overwrites a dead region with NaN bytes; debug builds call it.
    fn poison(&mut self, region: &Region);

    /// Waits for the device and lends a region to the host: rows of logits or hidden states.
    fn read(&self, region: &Region) -> Result<&[f32]>;

    /// The same to be changed in place, before it is handed out.
    fn read_mut(&mut self, region: &mut Region) -> Result<&mut [f32]>;

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
