//! Launching kernels.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{
    CUfunction, CUfunction_attribute, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchConfig, CUresult,
};

use super::{CudaError, Result, Stream, call};

/// A kernel of a module. Valid as long as the module.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    raw: CUfunction,
    has_dependent_launch: bool,
}

// SAFETY: a function's handle may be used from any thread.
unsafe impl Send for Function {}
// SAFETY: launches do not change the function; its attributes are guarded by the driver.
unsafe impl Sync for Function {}

/// The size of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y and z; y and z below 65536.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z; at most 1024 together.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block; above 48 KiB after [`Function::allow_shared`].
    pub shared_bytes: u32,
    /// The kernel waits by itself for the launches in front of it (`pdl_wait`), so it may begin before they have
    /// ended, where the device can do that.
    pub dependent: bool,
}

impl Function {
    pub(super) fn new(raw: CUfunction, has_dependent_launch: bool) -> Self {
        Self { raw, has_dependent_launch }
    }

    /// Stands for a kernel that there is not.
    pub(crate) fn missing() -> Self {
        Self { raw: null_mut(), has_dependent_launch: false }
    }

    /// The shared memory that the kernel has without a launch asking for it.
    pub fn static_shared_bytes(&self) -> Result<u32> {
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        let mut bytes: c_int = 0;
        // SAFETY: a place for a number, and the module of the function is loaded.
        unsafe { call!(cuFuncGetAttribute(&mut bytes, which, self.raw)) }?;
        Ok(u32::try_from(bytes).unwrap_or(0))
    }

    /// Allows launches with up to that much dynamic shared memory. Needed above 48 KiB.
    pub fn allow_shared(&self, bytes: u32) -> Result<()> {
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        // SAFETY: the module of the function is loaded.
        unsafe { call!(cuFuncSetAttribute(self.raw, which, bytes)) }
    }

    /// Enqueues a launch. `args` are pointers to the kernel's parameters in order ([`args!`](crate::args)); they are
    /// read before this returns.
    ///
    /// # Safety
    /// Number and types of the parameters are the kernel's, the module is loaded, and the memory that the parameters
    /// name is what the kernel expects until the launch has run.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        launch: Launch,
        args: &mut [*mut c_void],
    ) -> Result<()> {
        if self.raw.is_null() {
            let remark = " (the library has no kernel of that name)";
            return Err(CudaError::found("cuLaunchKernel", CUresult::CUDA_ERROR_NOT_FOUND, remark));
        }
        let Launch { grid: [gx, gy, gz], block: [bx, by, bz], shared_bytes, dependent } = launch;
        let stream = stream.raw().cast();
        let parameters = args.as_mut_ptr();
        if !(dependent && self.has_dependent_launch) {
            // SAFETY: as the caller says.
            return unsafe {
                call!(cuLaunchKernel(
                    self.raw,
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    shared_bytes,
                    stream,
                    parameters,
                    null_mut(),
                ))
            };
        }
        let mut attribute = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: gx,
            gridDimY: gy,
            gridDimZ: gz,
            blockDimX: bx,
            blockDimY: by,
            blockDimZ: bz,
            sharedMemBytes: shared_bytes,
            hStream: stream,
            attrs: &mut attribute,
            numAttrs: 1,
        };
        // SAFETY: as the caller says; config and attribute are read before the call returns.
        unsafe { call!(cuLaunchKernelEx(&config, self.raw, parameters, null_mut())) }
    }
}

/// Pointers to local variables, as [`Function::launch`] takes them: `launch(.., &mut args![x, n_rows])`. The
/// variables have the kernel's types.
#[macro_export]
macro_rules! args {
    ($($argument:expr),* $(,)?) => {
        [$((&raw const $argument).cast_mut().cast::<std::ffi::c_void>()),*]
    };
}
