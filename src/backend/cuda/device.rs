//! The device, opened once; and all that runs on it after memory was taken.

use super::fault::{Fault, Result};
use super::graph::Graphs;
use super::large::Large;
use super::load::Staging;
use super::memory::Memory;
use super::tables::Tables;
use crate::error::Error;
use crate::options::{Device, Options};
use larder_kernels::driver::{Context, Event, Stream, Unavailable};
use larder_kernels::modules::Kernels;
use larder_kernels::sample::Sampler;
use std::ptr::NonNull;

/// Multiprocessors of the device that plans are made for where there is none: an H100's.
pub const ASSUMED_MULTIPROCESSORS: u32 = 132;

/// A device, or why there is none.
pub struct Opened {
    index: u32,
    context: std::result::Result<Context, Unavailable>,
    /// The host's `CUstream`, 0: none.
    stream: usize,
}

impl Opened {
    /// Looks for the device that the options ask for. That there is none is no error yet: plans need none.
    ///
    /// # Errors
    /// `InvalidArgument` for a stream without its context.
    pub fn new(options: &Options) -> std::result::Result<Opened, Error> {
        let index = match options.device {
            Device::Cuda { index } => index,
            Device::Cpu => 0,
        };
        let stream = options.cuda.stream;
        let host = NonNull::new(std::ptr::with_exposed_provenance_mut(options.cuda.context));
        if stream != 0 && host.is_none() {
            return Err(Error::InvalidArgument(
                "options.cuda_stream is set, but options.cuda_context, to which it belongs, is not"
                    .into(),
            ));
        }
        Ok(Opened { index, context: Context::open(index, host), stream })
    }

    /// The device's number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Of the device, or of the one assumed.
    pub fn n_multiprocessors(&self) -> u32 {
        let known = self.context.as_ref().map(|context| context.info().n_multiprocessors);
        known.unwrap_or(ASSUMED_MULTIPROCESSORS)
    }

    /// The context; or the reason why the device cannot be used.
    pub fn context(&self) -> Result<Context> {
        match &self.context {
            Ok(context) => Ok(context.clone()),
            Err(Unavailable::Cuda(error)) => Err(error.clone().into()),
            Err(reason) => Err(Fault::Larder(Error::Unsupported(format!(
                "options.device asks for a CUDA device, but {reason}"
            )))),
        }
    }

    /// The host's stream, or a new one.
    pub fn stream(&self, context: &Context) -> Result<Stream> {
        match self.stream {
            0 => Ok(Stream::new(context)?),
            stream => Ok(Stream::of_host(context, std::ptr::with_exposed_provenance_mut(stream))),
        }
    }
}

/// What the next operations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Launched one by one.
    Launched,
    /// Recorded for this number of rows; nothing runs.
    Recorded { n_rows: u32 },
    /// Already enqueued by [`begin`](crate::backend::Backend::begin), up to the final norm.
    Replayed,
}

/// Everything on the device. Dropped from the top down.
pub struct Ready {
    /// Activations keep f32's precision in products of any number of rows.
    pub exact: bool,
    pub graphs: Graphs,
    pub tables: Tables,
    pub staging: Staging,
    /// Recorded behind what the host is told the place of.
    pub placed: Event,
    pub sampler: Sampler,
    pub memory: Memory,
    pub large: Option<Large>,
    pub kernels: Kernels,
    pub stream: Stream,
    pub context: Context,
}

impl Drop for Ready {
    /// Nothing may run any more when memory goes back. An error was told before, or has nobody to be told.
    fn drop(&mut self) {
        let _entered = self.context.enter();
        let _ = self.stream.synchronize();
    }
}
