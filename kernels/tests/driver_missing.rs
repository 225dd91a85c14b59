//! A process in which no driver is loaded: on a machine without one, opening says so.

use larder_kernels::driver::{Context, Unavailable};

#[test]
fn without_a_driver_the_reason_is_given() {
    // SAFETY: looks for the library only.
    if unsafe { cudarc::driver::sys::is_culib_present() } {
        return; // This machine has a driver.
    }
    let reason = Context::open(0, None).expect_err("there is no driver");
    assert_eq!(reason, Unavailable::NoDriver);
    assert_eq!(reason.to_string(), "no CUDA driver is installed (libcuda was not found)");
}
