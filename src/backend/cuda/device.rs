//! The device, opened once; and all that runs on it after memory was taken.

use super::fault::{Fault, Result};
use super::graph::Graphs;
use super::large::Large;
use super::load::Staging;
use super::memory::Memory;
use super::tables::Tables;
use crate::backend::Output;
use crate::backend::ops::{BatchView, RowInput};
use crate::error::Error;
use crate::options::{CudaOptions, Device, Options};
use larder_kernels::driver::{Context, DeviceInfo, Event, Stream, Unavailable};
use larder_kernels::modules::Kernels;
use larder_kernels::sample::Sampler;
use std::ffi::c_void;
use std::ptr::NonNull;

/// Multiprocessors of the device that plans are made for where there is none: an H100's.
pub const ASSUMED_MULTIPROCESSORS: u32 = 132;

/// The device that the options ask for, or why there is none.
pub struct Found {
    index: u32,
    info: std::result::Result<DeviceInfo, Unavailable>,
    /// The host's `CUcontext`, 0: none.
    context: usize,
    /// The host's `CUstream`, 0: none.
    stream: usize,
}

impl Found {
    /// Looks for the device that the options ask for. That there is none is no error yet: plans need none.
    ///
    /// # Errors
    /// `InvalidArgument` for a stream without its context.
    pub fn new(options: &Options) -> std::result::Result<Found, Error> {
        let index = match options.device {
            Device::Cuda { index } => index,
            Device::Cpu => 0,
        };
        let CudaOptions { context, stream, .. } = options.cuda;
        if stream != 0 && context == 0 {
            return Err(Error::InvalidArgument(
                "options.cuda_stream is set, but options.cuda_context, to which it belongs, is not"
                    .into(),
            ));
        }
        Ok(Found { index, info: DeviceInfo::find(index, pointer(context)), context, stream })
    }

    /// The device's number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Of the device, or of the one assumed.
    pub fn n_multiprocessors(&self) -> u32 {
        self.info.as_ref().map_or(ASSUMED_MULTIPROCESSORS, |info| info.n_multiprocessors)
    }

    /// A line about the device.
    pub fn describe(&self) -> String {
        match &self.info {
            Ok(info) => {
                let (major, minor) = info.compute_capability;
                format!(
                    "CUDA device {}: {}, compute capability {major}.{minor}, {} multiprocessors\n",
                    self.index, info.name, info.n_multiprocessors
                )
            }
            Err(reason) => format!(
                "planned for a CUDA device of {ASSUMED_MULTIPROCESSORS} multiprocessors: {reason}\n"
            ),
        }
    }

    /// The device's context; or the reason why it cannot be used.
    pub fn open(&self) -> Result<Context> {
        let info = self.info.clone();
        info.and_then(|_| Context::open(self.index, pointer(self.context))).map_err(unavailable)
    }

    /// The host's stream, or a new one.
    pub fn stream(&self, context: &Context) -> Result<Stream> {
        match self.stream {
            0 => Ok(Stream::new(context)?),
            stream => Ok(Stream::of_host(context, std::ptr::with_exposed_provenance_mut(stream))),
        }
    }
}

fn pointer(address: usize) -> Option<NonNull<c_void>> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(address))
}

fn unavailable(reason: Unavailable) -> Fault {
    match reason {
        Unavailable::Cuda(error) => error.into(),
        reason => Fault::Larder(Error::Unsupported(format!(
            "options.device asks for a CUDA device, but {reason}"
        ))),
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

impl Ready {
    /// Runs a recorded pass in which all rows are padding, and copies a number back: what the driver only does at the
    /// first time is done at create.
    pub fn rehearse(&mut self, n_rows: u32) -> Result<()> {
        let Ready { graphs, tables, memory, stream, .. } = self;
        let nothing = BatchView {
            n_rows: 0,
            input: RowInput::Tokens(&[]),
            positions: &[],
            slots: &[],
            rows: &[],
            sequences: &[],
            segments: &[],
        };
        tables.upload(memory, stream, &nothing, &[], n_rows as usize)?;
        graphs.launch(n_rows, stream)?;
        let (from, to) = (memory.area(4)?, memory.output_mut(Output::Hidden));
        // SAFETY: a row of hidden states has more than one number; nobody looks there before the wait.
        unsafe { stream.copy_to_host(to.as_mut_ptr().cast(), from, 4) }?;
        Ok(stream.synchronize()?)
    }
}

impl Drop for Ready {
    /// Nothing may run any more when memory goes back. An error was told before, or has nobody to be told.
    fn drop(&mut self) {
        let _entered = self.context.enter();
        let _ = self.stream.synchronize();
    }
}
