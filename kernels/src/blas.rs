//! Large products through cuBLASLt, which is looked for at run time: where it is missing, or has no algorithm for a
//! product, the caller uses larder's own kernel.
//!
//! [`Blas::prepare`] chooses the algorithms of a shape once, one for every 64 rows; [`Blas::matmul`] then allocates
//! nothing. Row-major matrices are column-major ones transposed, so `out = input * weights^T` is asked for as
//! `out^T = weights * input^T`.

mod descriptors;

use cudarc::cublaslt::sys::{self, cublasLtMatmulAlgo_t, cublasStatus_t};

use crate::driver::{Context, DevicePtr, Result, Stream};
use descriptors::{Handle, Matrix, Operation, Preference, call, status};

/// Rows that share an algorithm.
const BUCKET_ROWS: u32 = 64;

/// The alignment in bytes that addresses have to have, the workspace's included.
pub const ALIGNMENT: u64 = 16;

/// The oldest library that is used.
const OLDEST_VERSION: usize = 120_000;

/// Types of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 32 bits.
    F32,
    /// IEEE, 16 bits.
    F16,
    /// The upper half of an f32.
    Bf16,
}

/// A kind of product: `out [rows][n_out] = alpha * input [rows][n_in] * weights [n_out][n_in]^T (+ out)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Columns of the output.
    pub n_out: u32,
    /// Columns that are summed over.
    pub n_in: u32,
    /// Elements from one row of the input to the next, at least n_in.
    pub input_ld: u32,
    /// Elements from one row of the weights to the next, at least n_in (more for a slice of columns).
    pub weight_ld: u32,
    /// Elements from one row of the output to the next, at least n_out.
    pub out_ld: u32,
    /// Type of input and weights: F16 or Bf16.
    pub input: Element,
    /// Type of the output: F32, or the input's.
    pub out: Element,
    /// Whether the product is added to what the output holds.
    pub accumulate: bool,
}

/// A prepared [`Shape`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared(u32);

/// What one product works on.
#[derive(Debug, Clone, Copy)]
pub struct Operands {
    /// [n_rows] rows of the input.
    pub input: DevicePtr,
    /// Rows of the weights.
    pub weights: DevicePtr,
    /// [n_rows] rows of the output.
    pub out: DevicePtr,
    /// Rows of input and output.
    pub n_rows: u32,
    /// Factor of the product.
    pub alpha: f32,
    /// Scratch that no one else uses until the product has run.
    pub workspace: DevicePtr,
    /// Its size.
    pub workspace_bytes: u64,
}

/// What became of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It is enqueued.
    Enqueued,
    /// There is no algorithm for it: nothing was done, the caller's own kernel has to do it.
    NotPossible,
}

/// The library with the shapes that were prepared.
pub struct Blas {
    handle: Handle,
    shapes: Vec<PreparedShape>,
}

struct PreparedShape {
    shape: Shape,
    operation: Operation,
    weights: Matrix,
    input: Matrix,
    out: Matrix,
    /// The row count that `input` and `out` are set to.
    n_rows: u32,
    buckets: Vec<Bucket>,
}

/// The algorithm of 64 row counts.
#[derive(Clone, Copy)]
struct Bucket {
    algorithm: Option<cublasLtMatmulAlgo_t>,
    /// One bit for each row count whose algorithm was checked, and for each that can be done.
    checked: u64,
    possible: u64,
    /// The most workspace that any of the possible row counts needs, and what it must not exceed.
    workspace_bytes: u64,
    workspace_limit: u64,
}

impl Blas {
    /// Opens the library; `None` when there is none, or only one that is too old.
    pub fn open(context: &Context) -> Result<Option<Self>> {
        // SAFETY: looks for the library, which has no unusual constructors.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        // SAFETY: takes nothing.
        if unsafe { sys::cublasLtGetVersion() } < OLDEST_VERSION {
            return Ok(None);
        }
        Ok(Some(Self { handle: Handle::new(context)?, shapes: Vec::new() }))
    }

    /// Chooses the algorithms for up to `max_rows` rows of `shape`, none of which needs more than `workspace_bytes`.
    /// The same shape again gives what is prepared already.
    pub fn prepare(
        &mut self,
        shape: Shape,
        max_rows: u32,
        workspace_bytes: u64,
    ) -> Result<Prepared> {
        let known = self.shapes.iter().position(|prepared| prepared.shape == shape);
        let index = match known {
            Some(index) => index,
            None => {
                self.shapes.push(PreparedShape::new(shape)?);
                self.shapes.len() - 1
            }
        };
        self.shapes[index].choose(&self.handle, max_rows, workspace_bytes)?;
        Ok(Prepared(index as u32))
    }

    /// Enqueues a product. Allocates nothing.
    ///
    /// # Safety
    /// The addresses are device memory of the sizes that shape and row count say until the product has run.
    pub unsafe fn matmul(
        &mut self,
        stream: &Stream,
        prepared: Prepared,
        operands: &Operands,
    ) -> Result<Outcome> {
        let Some(shape) = self.shapes.get_mut(prepared.0 as usize) else {
            return Ok(Outcome::NotPossible);
        };
        let Operands { input, weights, out, n_rows, workspace, .. } = *operands;
        if n_rows == 0 {
            return Ok(Outcome::Enqueued);
        }
        if [input, weights, out, workspace].iter().any(|address| address % ALIGNMENT != 0) {
            return Ok(Outcome::NotPossible);
        }
        let Some(algorithm) = shape.algorithm(&self.handle, n_rows, operands.workspace_bytes)?
        else {
            return Ok(Outcome::NotPossible);
        };
        let beta: f32 = if shape.shape.accumulate { 1.0 } else { 0.0 };
        // SAFETY: descriptors and handle live, the factors are read before the call returns, and the memory is what
        // the caller says.
        let result = status(unsafe {
            call!(cublasLtMatmul(
                self.handle.raw(),
                shape.operation.raw(),
                (&raw const operands.alpha).cast(),
                weights as *const _,
                shape.weights.raw(),
                input as *const _,
                shape.input.raw(),
                (&raw const beta).cast(),
                out as *const _,
                shape.out.raw(),
                out as *mut _,
                shape.out.raw(),
                &algorithm,
                workspace as *mut _,
                operands.workspace_bytes as usize,
                stream.raw().cast(),
            ))
        })?;
        if result == cublasStatus_t::CUBLAS_STATUS_SUCCESS {
            return Ok(Outcome::Enqueued);
        }
        shape.refuse(n_rows);
        Ok(Outcome::NotPossible)
    }

    /// The most workspace that any algorithm of a prepared shape needs.
    pub fn workspace_bytes(&self, prepared: Prepared) -> u64 {
        let buckets = self.shapes.get(prepared.0 as usize).map(|shape| shape.buckets.as_slice());
        buckets.unwrap_or_default().iter().map(|bucket| bucket.workspace_bytes).max().unwrap_or(0)
    }
}

impl PreparedShape {
    fn new(shape: Shape) -> Result<Self> {
        let Shape { n_out, n_in, input_ld, weight_ld, out_ld, input, out, .. } = shape;
        Ok(Self {
            shape,
            operation: Operation::new()?,
            weights: Matrix::new(input, n_in, n_out, weight_ld)?,
            input: Matrix::new(input, n_in, 1, input_ld)?,
            out: Matrix::new(out, n_out, 1, out_ld)?,
            n_rows: 1,
            buckets: Vec::new(),
        })
    }

    /// Chooses the algorithms of the buckets that are still missing up to `max_rows`.
    fn choose(&mut self, handle: &Handle, max_rows: u32, workspace_bytes: u64) -> Result<()> {
        let n_buckets = max_rows.div_ceil(BUCKET_ROWS) as usize;
        let preference = Preference::new(workspace_bytes, ALIGNMENT as u32)?;
        for bucket in self.buckets.len()..n_buckets {
            self.set_rows((bucket as u32 + 1) * BUCKET_ROWS)?;
            let found = preference.best(
                handle,
                &self.operation,
                [&self.weights, &self.input, &self.out],
                workspace_bytes,
            )?;
            self.buckets.push(Bucket {
                algorithm: found.map(|(algorithm, _)| algorithm),
                checked: 0,
                possible: 0,
                workspace_bytes: found.map_or(0, |(_, bytes)| bytes),
                workspace_limit: workspace_bytes,
            });
        }
        Ok(())
    }

    /// The algorithm for a row count, checked for it when it comes for the first time. The layouts are set to it.
    fn algorithm(
        &mut self,
        handle: &Handle,
        n_rows: u32,
        workspace_bytes: u64,
    ) -> Result<Option<cublasLtMatmulAlgo_t>> {
        let (index, bit) = place(n_rows);
        let Some(&Bucket { algorithm: Some(algorithm), checked, .. }) = self.buckets.get(index)
        else {
            return Ok(None);
        };
        self.set_rows(n_rows)?;
        if checked & bit == 0 {
            let matrices = [&self.weights, &self.input, &self.out];
            let needed = handle.check(&self.operation, matrices, &algorithm)?;
            let bucket = &mut self.buckets[index];
            bucket.checked |= bit;
            if let Some(bytes) = needed.filter(|&bytes| bytes <= bucket.workspace_limit) {
                bucket.possible |= bit;
                bucket.workspace_bytes = bucket.workspace_bytes.max(bytes);
            }
        }
        let bucket = &self.buckets[index];
        let is_possible = bucket.possible & bit != 0 && bucket.workspace_bytes <= workspace_bytes;
        Ok(is_possible.then_some(algorithm))
    }

    /// Notes that a row count cannot be done although the check said so.
    fn refuse(&mut self, n_rows: u32) {
        let (index, bit) = place(n_rows);
        if let Some(bucket) = self.buckets.get_mut(index) {
            bucket.possible &= !bit;
        }
    }

    fn set_rows(&mut self, n_rows: u32) -> Result<()> {
        if self.n_rows != n_rows {
            // Neither count is known if one of the two fails.
            self.n_rows = 0;
            self.input.set_columns(n_rows)?;
            self.out.set_columns(n_rows)?;
            self.n_rows = n_rows;
        }
        Ok(())
    }
}

/// The bucket of a row count (at least 1), and its bit there.
fn place(n_rows: u32) -> (usize, u64) {
    let index = n_rows - 1;
    ((index / BUCKET_ROWS) as usize, 1 << (index % BUCKET_ROWS))
}
