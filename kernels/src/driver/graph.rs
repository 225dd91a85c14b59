//! Graphs: what a stream was asked to do once, to be done again by one call.

use std::ptr::null_mut;

use cudarc::driver::sys::{CUgraph, CUgraphExec, CUstreamCaptureMode};

use super::{Context, Result, Stream, call};

/// A captured piece of a stream, ready to run. Destroyed on drop.
#[derive(Debug)]
pub struct Graph {
    raw: CUgraphExec,
    context: Context,
}

// SAFETY: the handle may be used from any thread, one at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// Enqueues all that was captured.
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both live.
        unsafe { call!(cuGraphLaunch(self.raw, stream.raw().cast())) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _entered = self.context.enter();
        // SAFETY: instantiated by `end_capture` and destroyed once.
        let _ = unsafe { call!(cuGraphExecDestroy(self.raw)) };
    }
}

/// A graph as captured, needed until it is instantiated.
struct Captured(CUgraph);

impl Drop for Captured {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by cuStreamEndCapture, destroyed once.
            let _ = unsafe { call!(cuGraphDestroy(self.0)) };
        }
    }
}

impl Stream {
    /// Captures what `record` enqueues instead of running it. Whatever fails, the stream is as before afterwards.
    pub fn capture<E: From<super::CudaError>>(
        &self,
        record: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<Graph, E> {
        self.begin_capture()?;
        match record() {
            Ok(()) => Ok(self.end_capture()?),
            Err(error) => {
                drop(self.end());
                Err(error)
            }
        }
    }

    /// From here to [`Stream::end_capture`] what is enqueued is recorded and does not run. Other threads are not
    /// concerned.
    pub fn begin_capture(&self) -> Result<()> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives.
        unsafe { call!(cuStreamBeginCapture_v2(self.raw().cast(), mode)) }
    }

    /// Ends the recording and makes it ready on the device.
    pub fn end_capture(&self) -> Result<Graph> {
        let captured = self.end()?;
        let mut raw = null_mut();
        // SAFETY: a place for a handle, and a graph that lives.
        unsafe { call!(cuGraphInstantiateWithFlags(&mut raw, captured.0, 0)) }?;
        let graph = Graph { raw, context: self.context().clone() };
        // SAFETY: both live.
        unsafe { call!(cuGraphUpload(graph.raw, self.raw().cast())) }?;
        Ok(graph)
    }

    fn end(&self) -> Result<Captured> {
        let mut captured = Captured(null_mut());
        // SAFETY: a place for a handle. After a failure it is null, or to be destroyed all the same.
        unsafe { call!(cuStreamEndCapture(self.raw().cast(), &mut captured.0)) }?;
        Ok(captured)
    }
}
