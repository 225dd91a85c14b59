//! Modules: compiled kernels in the context.

use std::ffi::CString;
use std::ptr::null_mut;

use cudarc::driver::sys::{CUmodule, CUresult};

use super::{Context, CudaError, Function, Result, call};

/// A loaded fatbin, cubin or PTX text; unloaded on drop, and its functions with it.
#[derive(Debug)]
pub struct Module {
    raw: CUmodule,
    context: Context,
}

// SAFETY: a module's handle may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: looking up a function changes nothing that the driver does not guard.
unsafe impl Sync for Module {}

impl Module {
    /// Loads an image. The driver keeps its own copy.
    pub fn load(context: &Context, image: &[u8]) -> Result<Self> {
        const CALL: &str = "cuModuleLoadData";
        // The driver is not told the length and reads a header of 16 bytes first, at an address that divides by 8.
        if image.len() < 16 {
            let remark = " (the library was built without kernels)";
            return Err(CudaError::found(CALL, CUresult::CUDA_ERROR_INVALID_IMAGE, remark));
        }
        let mut words = vec![0u64; image.len().div_ceil(8) + 1];
        // SAFETY: `words` has room for the image, and does not overlap with it.
        unsafe { words.as_mut_ptr().cast::<u8>().copy_from(image.as_ptr(), image.len()) };
        let mut raw = null_mut();
        // SAFETY: a place for a handle, and an image that says how long it is (PTX: a zero at the end).
        unsafe { call!(cuModuleLoadData(&mut raw, words.as_ptr().cast())) }.map_err(|error| {
            error.with("; kernels built by CUDA 13 need a driver of at least 580")
        })?;
        Ok(Self { raw, context: context.clone() })
    }

    /// Finds a kernel by its name.
    pub fn function(&self, name: &str) -> Result<Function> {
        let mut raw = null_mut();
        let c_name = CString::new(name).map_err(|_| {
            let remark = " (a name with a zero byte)";
            CudaError::found("cuModuleGetFunction", CUresult::CUDA_ERROR_NOT_FOUND, remark)
        })?;
        // SAFETY: a place for a handle, and a name that ends in zero.
        unsafe { call!(cuModuleGetFunction(&mut raw, self.raw, c_name.as_ptr())) }
            .map_err(|error| error.with(&format!(" (kernel {name})")))?;
        Ok(Function::new(raw, self.context.has_dependent_launch()))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _entered = self.context.enter();
        // SAFETY: loaded by `load` and unloaded once.
        let _ = unsafe { call!(cuModuleUnload(self.raw)) };
    }
}
