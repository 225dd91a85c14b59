//! Streams and events.

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream, CUstream_flags};

use super::memory::size;
use super::{Context, DevicePtr, Result, call};

/// A stream: larder's own, destroyed on drop, or the host's.
#[derive(Debug)]
pub struct Stream {
    raw: CUstream,
    context: Context,
    is_own: bool,
}

// SAFETY: a stream's handle may be used from any thread.
unsafe impl Send for Stream {}

impl Stream {
    /// A stream that does not wait for the default stream.
    pub fn new(context: &Context) -> Result<Self> {
        let mut raw = null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a place for a handle; destroyed on drop.
        unsafe { call!(cuStreamCreate(&mut raw, flags)) }?;
        Ok(Self { raw, context: context.clone(), is_own: true })
    }

    /// The host's stream (a CUstream of this context), which the host keeps alive for as long.
    pub fn of_host(context: &Context, raw: *mut c_void) -> Self {
        Self { raw: raw.cast(), context: context.clone(), is_own: false }
    }

    /// Waits until all that was enqueued has run. An error of any of it is returned here.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives.
        unsafe { call!(cuStreamSynchronize(self.raw)) }
    }

    /// Enqueues a copy from the host.
    ///
    /// # Safety
    /// `src` is readable for `bytes` until the copy has run, and `dst` is device memory of that size.
    pub unsafe fn copy_to_device(&self, dst: DevicePtr, src: *const u8, bytes: u64) -> Result<()> {
        // SAFETY: as the caller says.
        unsafe { call!(cuMemcpyHtoDAsync_v2(dst, src.cast(), size(bytes), self.raw)) }
    }

    /// Enqueues a copy to the host.
    ///
    /// # Safety
    /// `dst` is writable for `bytes` until the copy has run, and `src` is device memory of that size.
    pub unsafe fn copy_to_host(&self, dst: *mut u8, src: DevicePtr, bytes: u64) -> Result<()> {
        // SAFETY: as the caller says.
        unsafe { call!(cuMemcpyDtoHAsync_v2(dst.cast(), src, size(bytes), self.raw)) }
    }

    /// Enqueues a copy within the device; the two do not overlap.
    ///
    /// # Safety
    /// `dst` and `src` are device memory of that size for as long as the copy takes.
    pub unsafe fn copy_on_device(&self, dst: DevicePtr, src: DevicePtr, bytes: u64) -> Result<()> {
        // SAFETY: as the caller says.
        unsafe { call!(cuMemcpyDtoDAsync_v2(dst, src, size(bytes), self.raw)) }
    }

    /// Enqueues the filling of device memory with one byte.
    ///
    /// # Safety
    /// `dst` is device memory of that size for as long as it takes.
    pub unsafe fn fill(&self, dst: DevicePtr, byte: u8, bytes: u64) -> Result<()> {
        // SAFETY: as the caller says.
        unsafe { call!(cuMemsetD8Async(dst, byte, size(bytes), self.raw)) }
    }

    /// The CUstream.
    pub fn raw(&self) -> *mut c_void {
        self.raw.cast()
    }

    /// The stream's context.
    pub fn context(&self) -> &Context {
        &self.context
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_own {
            let _entered = self.context.enter();
            // SAFETY: created by `new` and destroyed once.
            let _ = unsafe { call!(cuStreamDestroy_v2(self.raw)) };
        }
    }
}

/// A point in a stream that can be waited for.
#[derive(Debug)]
pub struct Event {
    raw: CUevent,
    context: Context,
}

// SAFETY: an event's handle may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// An event to wait for, without a time.
    pub fn new(context: &Context) -> Result<Self> {
        Self::with_flags(context, CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// An event that also knows when it took place, for benchmarks.
    pub fn timed(context: &Context) -> Result<Self> {
        Self::with_flags(context, CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with_flags(context: &Context, flags: CUevent_flags) -> Result<Self> {
        let mut raw = null_mut();
        // SAFETY: a place for a handle; destroyed on drop.
        unsafe { call!(cuEventCreate(&mut raw, flags as u32)) }?;
        Ok(Self { raw, context: context.clone() })
    }

    /// Enqueues the event.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both live.
        unsafe { call!(cuEventRecord(self.raw, stream.raw)) }
    }

    /// Waits until it has taken place.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the event lives.
        unsafe { call!(cuEventSynchronize(self.raw)) }
    }

    /// The milliseconds from this event to `end`; both are [`Event::timed`] and have taken place.
    pub fn elapsed_ms(&self, end: &Event) -> Result<f32> {
        let mut milliseconds = 0.0;
        // SAFETY: a place for a number, and two events that live.
        unsafe { call!(cuEventElapsedTime_v2(&mut milliseconds, self.raw, end.raw)) }?;
        Ok(milliseconds)
    }

    /// The CUevent.
    pub fn raw(&self) -> *mut c_void {
        self.raw.cast()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _entered = self.context.enter();
        // SAFETY: created by `with_flags` and destroyed once.
        let _ = unsafe { call!(cuEventDestroy_v2(self.raw)) };
    }
}
