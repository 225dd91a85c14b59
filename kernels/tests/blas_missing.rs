//! A process with a driver but without cuBLASLt: that is no error.
#![cfg(feature = "standin")]

use std::ffi::CString;

use larder_kernels::blas::Blas;
use larder_kernels::driver::Context;
use larder_kernels::standin;

#[test]
fn without_the_library_there_are_no_products_of_its() {
    let path = standin::folder().join("libcuda.so");
    let path = CString::new(path.as_os_str().as_encoded_bytes()).expect("a path without zeros");
    // SAFETY: a library that this crate has built, which stays loaded.
    let driver = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    assert!(!driver.is_null());
    // SAFETY: looks for the library only.
    if unsafe { cudarc::cublaslt::sys::is_culib_present() } {
        return; // This machine has it.
    }
    let context = Context::open(0, None).expect("the stand-in");
    let _entered = context.enter().expect("enters");
    assert!(Blas::open(&context).expect("no error").is_none());
}
