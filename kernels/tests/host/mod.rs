//! What a program that uses larder has of CUDA itself: a context and a stream that larder did not make.
#![allow(dead_code)] // each test file uses a part

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

use cudarc::driver::sys::{self, CUcontext, CUresult, CUstream};

/// What is current in this thread.
pub fn current() -> *mut c_void {
    let mut raw = null_mut();
    // SAFETY: a place for a handle.
    check(unsafe { sys::cuCtxGetCurrent(&mut raw) });
    raw.cast()
}

fn check(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// A context and a stream, destroyed on drop. The context is not current.
pub struct Host {
    context: CUcontext,
    stream: CUstream,
}

impl Host {
    pub fn new() -> Self {
        let (mut context, mut stream, mut device) = (null_mut(), null_mut(), 0);
        // SAFETY: places for handles; what is made is destroyed on drop.
        unsafe {
            check(sys::cuInit(0));
            check(sys::cuDeviceGet(&mut device, 0));
            check(sys::cuCtxCreate_v4(&mut context, null_mut(), 0, device));
            check(sys::cuStreamCreate(&mut stream, 0));
            check(sys::cuCtxPopCurrent_v2(&mut null_mut()));
        }
        Self { context, stream }
    }

    pub fn context(&self) -> *mut c_void {
        self.context.cast()
    }

    pub fn non_null(&self) -> Option<NonNull<c_void>> {
        NonNull::new(self.context())
    }

    pub fn stream(&self) -> *mut c_void {
        self.stream.cast()
    }

    /// Makes the context current until the value is dropped.
    pub fn enter(&self) -> HostEntered {
        // SAFETY: a context that lives.
        check(unsafe { sys::cuCtxPushCurrent_v2(self.context) });
        HostEntered
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let entered = self.enter();
        // SAFETY: made by `new`, destroyed once.
        check(unsafe { sys::cuStreamDestroy_v2(self.stream) });
        drop(entered);
        // SAFETY: as above.
        check(unsafe { sys::cuCtxDestroy_v2(self.context) });
    }
}

pub struct HostEntered;

impl Drop for HostEntered {
    fn drop(&mut self) {
        // SAFETY: `Host::enter` has pushed a context.
        check(unsafe { sys::cuCtxPopCurrent_v2(&mut null_mut()) });
    }
}
