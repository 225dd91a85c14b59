//! The CUDA driver, as far as larder needs it: a context, blocks of memory, a stream, modules and launches, events
//! and graphs. Every call goes to the driver library that is found at run time, and its result becomes a value:
//! nothing here panics, prints, or resets a device.
//!
//! All but [`Context::open`] expects the context to be current: callers hold what [`Context::enter`] returns. Drops
//! enter by themselves.

mod context;
mod error;
mod graph;
mod launch;
mod memory;
mod module;
mod stream;

pub use context::{Context, DeviceInfo, Entered, NEEDED_DRIVER, OLDEST_ARCHITECTURE};
pub use error::{CudaError, Result, Unavailable};
pub use graph::Graph;
pub use launch::{Function, Launch};
pub use memory::{DeviceBlock, GiveBack, PinnedBlock};
pub use module::Module;
pub use stream::{Event, Stream};

/// An address in device memory.
pub type DevicePtr = u64;

/// Calls the driver and turns its result into a [`Result`] that knows the call's name. Used inside `unsafe`.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        $crate::driver::error::check(
            stringify!($function),
            cudarc::driver::sys::$function($($argument),*),
        )
    };
}
pub(crate) use call;
