//! What the driver says when a call fails, and why a device cannot be used at all.

use std::ffi::CStr;
use std::fmt;

use cudarc::driver::sys::{self, CUresult};

/// What a call of the driver returns.
pub type Result<T> = std::result::Result<T, CudaError>;

/// A call of the driver (or of a CUDA library) that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaError {
    /// The call's name, as documented: "cuMemAlloc".
    pub call: &'static str,
    /// The number of the error.
    pub code: u32,
    /// The error's name, number and text.
    pub message: String,
}

impl CudaError {
    /// True when the context is lost: every later call fails too, and only a new process (or, for the host, a new
    /// context) helps.
    pub fn is_sticky(&self) -> bool {
        const STICKY: [CUresult; 13] = [
            CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
            CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE,
            CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
            CUresult::CUDA_ERROR_ASSERT,
            CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
            CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION,
            CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
            CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
            CUresult::CUDA_ERROR_INVALID_PC,
            CUresult::CUDA_ERROR_LAUNCH_FAILED,
            CUresult::CUDA_ERROR_EXTERNAL_DEVICE,
        ];
        STICKY.iter().any(|&sticky| sticky as u32 == self.code)
    }

    /// The same error with a remark behind its text.
    pub(crate) fn with(mut self, remark: &str) -> Self {
        self.message.push_str(remark);
        self
    }

    /// An error that larder itself finds before the driver would: `result` as `call` would have returned it.
    pub(crate) fn found(call: &'static str, result: CUresult, remark: &str) -> Self {
        Self { call, code: result as u32, message: describe(result) }.with(remark)
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.message)
    }
}

impl std::error::Error for CudaError {}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The driver's library was not found.
    #[error("no CUDA driver is installed (libcuda was not found)")]
    NoDriver,
    /// The driver is older than the CUDA version that the kernels were built by (thousands are the major version).
    #[error(
        "the CUDA driver supports CUDA {}.{} and the kernels need {}.{}: a driver of at least 580 is needed",
        found / 1000, found % 1000 / 10, needed / 1000, needed % 1000 / 10
    )]
    DriverTooOld {
        /// What the driver supports.
        found: u32,
        /// What the kernels need.
        needed: u32,
    },
    /// There is no device of that index.
    #[error("there is no CUDA device {index}: the driver knows {count}")]
    NoDevice {
        /// The index asked for.
        index: u32,
        /// How many devices there are.
        count: u32,
    },
    /// The kernels were not built for the device.
    #[error(
        "the device has compute capability {}.{} and the kernels need {}.{} or newer",
        found.0, found.1, oldest.0, oldest.1
    )]
    Architecture {
        /// The device's compute capability.
        found: (u32, u32),
        /// The oldest one that the kernels cover.
        oldest: (u32, u32),
    },
    /// A call failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

/// The result of `call` as a value.
#[inline]
pub(crate) fn check(call: &'static str, result: CUresult) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(failure(call, result)) }
}

#[cold]
fn failure(call: &'static str, result: CUresult) -> CudaError {
    // The version of an entry point is no part of its documented name.
    let call = call.strip_suffix("_v2").unwrap_or(call);
    CudaError { call, code: result as u32, message: describe(result) }
}

/// "CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"
fn describe(result: CUresult) -> String {
    let mut name = std::ptr::null();
    let mut text = std::ptr::null();
    // SAFETY: both calls store a pointer to a string of the driver's, or null for an error that they do not know.
    unsafe {
        let _ = sys::cuGetErrorName(result, &mut name);
        let _ = sys::cuGetErrorString(result, &mut text);
    }
    let string = |pointer: *const std::ffi::c_char, otherwise: &str| {
        if pointer.is_null() {
            return otherwise.to_owned();
        }
        // SAFETY: not null, so a string that ends in zero and that the driver keeps.
        unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
    };
    format!("{} ({}): {}", string(name, "unknown error"), result as u32, string(text, "no text"))
}
