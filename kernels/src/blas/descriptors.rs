//! cuBLASLt's handle and descriptors, each destroyed on drop.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;

use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t,
    cublasStatus_t, cudaDataType_t,
};

use super::Element;
use crate::driver::{Context, CudaError, Result};

/// Algorithms that are asked for at once; the first that can be used is taken.
const N_CANDIDATES: usize = 8;

/// Split sums are added as f32 in the workspace, never rounded in between.
const REDUCTION_IN_F32: u32 = 2;

/// cublasOperation_t's CUBLAS_OP_T.
const TRANSPOSED: i32 = 1;

/// The call's name with what it returned.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        (stringify!($function), cudarc::cublaslt::sys::$function($($argument),*))
    };
}
pub(super) use call;

/// What a call returned, when that is success or means that there is no such product; any other status is an error.
pub(super) fn status((call, status): (&'static str, cublasStatus_t)) -> Result<cublasStatus_t> {
    use cublasStatus_t::*;
    match status {
        CUBLAS_STATUS_SUCCESS
        | CUBLAS_STATUS_NOT_SUPPORTED
        | CUBLAS_STATUS_INVALID_VALUE
        | CUBLAS_STATUS_ARCH_MISMATCH => Ok(status),
        _ => Err(failure(call, status)),
    }
}

/// A call that has to succeed.
fn check((call, status): (&'static str, cublasStatus_t)) -> Result<()> {
    match status {
        cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        _ => Err(failure(call, status)),
    }
}

#[cold]
fn failure(call: &'static str, status: cublasStatus_t) -> CudaError {
    // SAFETY: the library keeps the string, which ends in zero, or gives null.
    let text = unsafe {
        let text = sys::cublasLtGetStatusString(status);
        if text.is_null() { c"no text" } else { CStr::from_ptr(text) }
    };
    let message = format!("{status:?} ({}): {}", status as u32, text.to_string_lossy());
    CudaError { call, code: status as u32, message }
}

/// The library's handle for a context's device.
pub(super) struct Handle {
    raw: cublasLtHandle_t,
    context: Context,
}

// SAFETY: the handle may be used from any thread.
unsafe impl Send for Handle {}

impl Handle {
    pub(super) fn new(context: &Context) -> Result<Self> {
        let mut raw = null_mut();
        // SAFETY: a place for a handle; destroyed on drop.
        check(unsafe { call!(cublasLtCreate(&mut raw)) })?;
        Ok(Self { raw, context: context.clone() })
    }

    pub(super) fn raw(&self) -> cublasLtHandle_t {
        self.raw
    }

    /// Whether `algorithm` can do the product of [weights, input, out] as they are set: then the workspace that it
    /// needs.
    pub(super) fn check(
        &self,
        operation: &Operation,
        [weights, input, out]: [&Matrix; 3],
        algorithm: &cublasLtMatmulAlgo_t,
    ) -> Result<Option<u64>> {
        let mut found = no_result();
        // SAFETY: handle and descriptors live; a place for a result.
        let result = status(unsafe {
            call!(cublasLtMatmulAlgoCheck(
                self.raw,
                operation.0,
                weights.0,
                input.0,
                out.0,
                out.0,
                algorithm,
                &mut found,
            ))
        })?;
        let is_possible = result == cublasStatus_t::CUBLAS_STATUS_SUCCESS
            && found.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS;
        Ok(is_possible.then_some(found.workspaceSize as u64))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _entered = self.context.enter();
        // SAFETY: created by `new` and destroyed once.
        let _ = unsafe { sys::cublasLtDestroy(self.raw) };
    }
}

/// The operation: the first matrix transposed, sums in f32.
pub(super) struct Operation(cublasLtMatmulDesc_t);

// SAFETY: a description in host memory, owned.
unsafe impl Send for Operation {}

impl Operation {
    pub(super) fn new() -> Result<Self> {
        let mut raw = null_mut();
        let compute = cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let scale = cudaDataType_t::CUDA_R_32F;
        // SAFETY: a place for a handle; destroyed on drop.
        check(unsafe { call!(cublasLtMatmulDescCreate(&mut raw, compute, scale)) })?;
        let operation = Self(raw);
        let which = cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        let (value, bytes) = attribute(&TRANSPOSED);
        // SAFETY: the descriptor lives, and the value is read before the call returns.
        check(unsafe { call!(cublasLtMatmulDescSetAttribute(raw, which, value, bytes)) })?;
        Ok(operation)
    }

    pub(super) fn raw(&self) -> cublasLtMatmulDesc_t {
        self.0
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed once.
        let _ = unsafe { sys::cublasLtMatmulDescDestroy(self.0) };
    }
}

/// The layout of a column-major matrix.
pub(super) struct Matrix(cublasLtMatrixLayout_t);

// SAFETY: a description in host memory, owned.
unsafe impl Send for Matrix {}

impl Matrix {
    pub(super) fn new(element: Element, rows: u32, columns: u32, ld: u32) -> Result<Self> {
        let kind = match element {
            Element::F32 => cudaDataType_t::CUDA_R_32F,
            Element::F16 => cudaDataType_t::CUDA_R_16F,
            Element::Bf16 => cudaDataType_t::CUDA_R_16BF,
        };
        let (rows, columns, ld) = (rows.into(), columns.into(), ld.into());
        let mut raw = null_mut();
        // SAFETY: a place for a handle; destroyed on drop.
        check(unsafe { call!(cublasLtMatrixLayoutCreate(&mut raw, kind, rows, columns, ld)) })?;
        Ok(Self(raw))
    }

    pub(super) fn set_columns(&mut self, columns: u32) -> Result<()> {
        let columns = u64::from(columns);
        let which = cublasLtMatrixLayoutAttribute_t::CUBLASLT_MATRIX_LAYOUT_COLS;
        let (value, bytes) = attribute(&columns);
        // SAFETY: the layout lives, and the value is read before the call returns.
        check(unsafe { call!(cublasLtMatrixLayoutSetAttribute(self.0, which, value, bytes)) })
    }

    pub(super) fn raw(&self) -> cublasLtMatrixLayout_t {
        self.0
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed once.
        let _ = unsafe { sys::cublasLtMatrixLayoutDestroy(self.0) };
    }
}

/// What an algorithm may use and count on.
pub(super) struct Preference(cublasLtMatmulPreference_t);

impl Preference {
    pub(super) fn new(workspace_bytes: u64, alignment: u32) -> Result<Self> {
        use cublasLtMatmulPreferenceAttributes_t::*;
        let mut raw = null_mut();
        // SAFETY: a place for a handle; destroyed on drop.
        check(unsafe { call!(cublasLtMatmulPreferenceCreate(&mut raw)) })?;
        let preference = Self(raw);
        preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes)?;
        preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &REDUCTION_IN_F32)?;
        for which in [
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(which, &alignment)?;
        }
        Ok(preference)
    }

    fn set<T>(&self, which: cublasLtMatmulPreferenceAttributes_t, value: &T) -> Result<()> {
        let (value, bytes) = attribute(value);
        // SAFETY: the preference lives, and the value is read before the call returns.
        check(unsafe { call!(cublasLtMatmulPreferenceSetAttribute(self.0, which, value, bytes)) })
    }

    /// The best algorithm for the product of [weights, input, out] as they are set that needs no more than
    /// `workspace_bytes`, with the bytes that it needs. None when there is no such algorithm.
    pub(super) fn best(
        &self,
        handle: &Handle,
        operation: &Operation,
        [weights, input, out]: [&Matrix; 3],
        workspace_bytes: u64,
    ) -> Result<Option<(cublasLtMatmulAlgo_t, u64)>> {
        let mut found = [no_result(); N_CANDIDATES];
        let mut n_found: c_int = 0;
        // SAFETY: handle and descriptors live; places for that many results and their number.
        let result = status(unsafe {
            call!(cublasLtMatmulAlgoGetHeuristic(
                handle.raw,
                operation.0,
                weights.0,
                input.0,
                out.0,
                out.0,
                self.0,
                N_CANDIDATES as c_int,
                found.as_mut_ptr(),
                &mut n_found,
            ))
        })?;
        if result != cublasStatus_t::CUBLAS_STATUS_SUCCESS {
            return Ok(None);
        }
        let n_found = usize::try_from(n_found).unwrap_or(0);
        let usable = found.iter().take(n_found).find(|candidate| {
            candidate.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS
                && candidate.workspaceSize as u64 <= workspace_bytes
        });
        Ok(usable.map(|candidate| (candidate.algo, candidate.workspaceSize as u64)))
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed once.
        let _ = unsafe { sys::cublasLtMatmulPreferenceDestroy(self.0) };
    }
}

fn no_result() -> cublasLtMatmulHeuristicResult_t {
    cublasLtMatmulHeuristicResult_t {
        algo: cublasLtMatmulAlgo_t { data: [0; 8] },
        workspaceSize: 0,
        state: cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
        wavesCount: 0.0,
        reserved: [0; 4],
    }
}

/// An attribute's value as the library takes it.
fn attribute<T>(value: &T) -> (*const c_void, usize) {
    (std::ptr::from_ref(value).cast(), size_of::<T>())
}
