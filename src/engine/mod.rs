//! The engine: one model on one device with its KV repo and its compute area. Ties the layers below together and
//! owns the memory. No C types; no file is open after create.
//!
//! `plan` reads headers and tells every byte; `create` takes exactly those bytes; then `forward` (the host decides
//! every row) and `step` (larder schedules requests) allocate nothing.
#![forbid(unsafe_code)]

mod area_mode;
mod batch;
mod blueprint;
mod core;
mod memory;
mod numbers;
mod outputs;
mod pool;
pub mod text_source;
mod trace;

use std::path::Path;
use std::sync::Arc;

use crate::area;
use crate::backend::cpu::Cpu;
#[cfg(feature = "cuda")]
use crate::backend::cuda::Cuda;
use crate::backend::{Backend, Placed};
use crate::error::{Error, Result};
use crate::ids::{SequenceHandle, TokenId};
use crate::kv::NameSpaceSettings;
use crate::options::{AreaMode, Device, Options};
use crate::serve::{Edge, Event};
use crate::text::Text;
use blueprint::Blueprint;
use core::Core;
pub use memory::Memory;
use numbers::Numbers;

/// A row of the batch whose logits are wanted.
pub const WANT_LOGITS: u8 = 1;
/// A row of the batch whose final hidden state is wanted.
pub const WANT_HIDDEN: u8 = 2;

/// The rows of one forward pass.
#[derive(Debug, Clone, Copy)]
pub struct ForwardBatch<'a> {
    pub n_rows: u32,
    /// `[n_rows]`, or `None` where embeddings are given.
    pub tokens: Option<&'a [TokenId]>,
    /// `[n_rows][hidden_size]` in place of tokens; taken as they are, without the model's embedding scale.
    pub embeddings: Option<&'a [f32]>,
    /// `[n_rows]`; the rows of one sequence in order, appended to it.
    pub sequences: &'a [SequenceHandle],
    /// `[n_rows]` of [`WANT_LOGITS`] and [`WANT_HIDDEN`]; `None`: logits of each sequence's last row.
    pub wants: Option<&'a [u8]>,
    pub pooling: Pooling,
    /// Hidden states are scaled to Euclidean length 1, after pooling.
    pub normalize: bool,
}

/// What becomes of the hidden states of one sequence's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// They come row by row.
    #[default]
    None,
    /// One row per sequence of the batch: the mean of those wanted.
    Mean,
    /// One row per sequence of the batch: the last of those wanted.
    Last,
}

/// What a forward pass computed, in the order of the batch.
#[derive(Debug, Clone, Copy)]
pub struct ForwardOutput<'a> {
    pub n_logits_rows: u32,
    pub n_hidden_rows: u32,
    /// `[n_logits_rows][vocab_size]`
    pub logits: &'a [f32],
    /// `[n_hidden_rows][hidden_size]`, after the final norm.
    pub hidden: &'a [f32],
}

/// Where a forward pass left what it computed.
#[derive(Debug, Clone, Copy)]
pub struct PlacedOutput {
    pub n_logits_rows: u32,
    pub n_hidden_rows: u32,
    /// `[n_logits_rows][vocab_size]` f32
    pub logits: Placed,
    /// `[n_hidden_rows][hidden_size]` f32, after the final norm.
    pub hidden: Placed,
}

/// An engine. Dropping it gives all memory back and ends its threads.
pub struct Engine {
    core: AnyCore,
    memory: Memory,
    description: Box<str>,
    edge: Arc<Edge>,
    text: Option<Arc<Text>>,
}

/// One arm per backend, matched once per call.
enum AnyCore {
    Cpu(Box<Core<Cpu>>),
    #[cfg(feature = "cuda")]
    Cuda(Box<Core<Cuda>>),
}

/// The same without changing the engine.
macro_rules! see_core {
    ($engine:expr, $core:ident => $call:expr) => {
        match &$engine.core {
            AnyCore::Cpu($core) => $call,
            #[cfg(feature = "cuda")]
            AnyCore::Cuda($core) => $call,
        }
    };
}

macro_rules! on_core {
    ($engine:expr, $core:ident => $call:expr) => {
        match &mut $engine.core {
            AnyCore::Cpu($core) => $call,
            #[cfg(feature = "cuda")]
            AnyCore::Cuda($core) => $call,
        }
    };
}

impl Engine {
    /// The bytes that [`create`](Self::create) would take. Reads headers, needs no device.
    ///
    /// # Errors
    /// Those of `create` that can be known from headers and options.
    pub fn plan(path: &Path, options: &Options) -> Result<Memory> {
        Ok(Self::plan_area(path, options)?.0)
    }

    /// The plan with who lies where in the compute area, for pictures.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_area(path: &Path, options: &Options) -> Result<(Memory, area::Plan)> {
        match options.device {
            Device::Cpu => blueprint(path, options, Cpu::new).map(Blueprint::into_plan),
            #[cfg(feature = "cuda")]
            Device::Cuda { .. } => blueprint(path, options, Cuda::new).map(Blueprint::into_plan),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda { index } => Err(without_cuda(index)),
        }
    }

    /// Loads the model and takes all memory.
    ///
    /// # Errors
    /// `Io`, `BadModel`, `Unsupported`, `InvalidArgument` (the option is named), `OutOfMemory` (with the numbers),
    /// `Device`, `Cancelled` by the progress hook.
    pub fn create(path: &Path, options: &Options) -> Result<Engine> {
        match options.device {
            Device::Cpu => Self::on(blueprint(path, options, Cpu::new)?, options, AnyCore::Cpu),
            #[cfg(feature = "cuda")]
            Device::Cuda { .. } => {
                Self::on(blueprint(path, options, Cuda::new)?, options, AnyCore::Cuda)
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda { index } => Err(without_cuda(index)),
        }
    }

    fn on<B: Backend>(
        blueprint: Blueprint<B>,
        options: &Options,
        any: fn(Box<Core<B>>) -> AnyCore,
    ) -> Result<Engine> {
        let memory = blueprint.memory.clone();
        let description = blueprint.description.clone();
        let text = blueprint.text.clone();
        let core = Core::create(blueprint, options)?;
        let edge = Arc::clone(core.edge());
        Ok(Engine { core: any(Box::new(core)), memory, description, edge, text })
    }

    /// The bytes that are in use: those of the plan.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// A few lines of text: the model, its sizes, what was chosen and why.
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// Submits and cancels requests, from any thread.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// Tokenizer and chat template, from any thread; `None` when the model comes without.
    pub fn text(&self) -> Option<&Arc<Text>> {
        self.text.as_ref()
    }

    /// Columns of a logits row.
    pub fn vocab_size(&self) -> u32 {
        see_core!(self, core => core.vocab_size())
    }

    /// Columns of a hidden row.
    pub fn hidden_size(&self) -> u32 {
        see_core!(self, core => core.hidden_size())
    }

    /// Opens an empty sequence.
    ///
    /// # Errors
    /// `LimitReached`: max_sequences.
    pub fn sequence_open(&mut self) -> Result<SequenceHandle> {
        on_core!(self, core => core.kv.open())
    }

    /// A sequence that shares the parent's first `n_tokens`. No K or V is copied.
    ///
    /// # Errors
    /// `StaleHandle`, `InvalidArgument` (longer than the parent), `LimitReached`.
    pub fn sequence_fork(
        &mut self,
        parent: SequenceHandle,
        n_tokens: u64,
    ) -> Result<SequenceHandle> {
        on_core!(self, core => core.kv.fork(parent, token_count(n_tokens)?))
    }

    /// Forgets all but the first `n_tokens`.
    ///
    /// # Errors
    /// `StaleHandle`, `InvalidArgument` (longer than the sequence).
    pub fn sequence_truncate(&mut self, sequence: SequenceHandle, n_tokens: u64) -> Result<()> {
        on_core!(self, core => core.kv.truncate(sequence, token_count(n_tokens)?))
    }

    /// Tokens of a sequence.
    ///
    /// # Errors
    /// `StaleHandle`.
    pub fn sequence_length(&self, sequence: SequenceHandle) -> Result<u64> {
        see_core!(self, core => core.kv.length(sequence).map(u64::from))
    }

    /// Ends a sequence and returns its slots.
    ///
    /// # Errors
    /// `StaleHandle`.
    pub fn sequence_release(&mut self, sequence: SequenceHandle) -> Result<()> {
        on_core!(self, core => core.kv.release(sequence))
    }

    /// Token slots that are free.
    pub fn free_slots(&self) -> u64 {
        see_core!(self, core => u64::from(core.kv.free_slots()))
    }

    /// Sets what the prefix cache does for a namespace.
    ///
    /// # Errors
    /// `LimitReached`: too many namespaces have settings or cached tokens.
    pub fn set_name_space(&mut self, name_space: u64, settings: NameSpaceSettings) -> Result<()> {
        on_core!(self, core => core.kv.set_name_space(name_space, settings))
    }

    /// Evicts every cached prefix that nobody reads and nobody has pinned.
    pub fn flush_cache(&mut self) {
        on_core!(self, core => core.kv.flush())
    }

    /// One forward pass over the host's rows. On any error but `Internal` and `Device` the sequences are as before.
    ///
    /// # Errors
    /// `InvalidArgument`, `StaleHandle`, `OutOfSlots`, `LimitReached`, `Device`, `Internal`.
    pub fn forward(&mut self, batch: &ForwardBatch<'_>) -> Result<ForwardOutput<'_>> {
        on_core!(self, core => core.forward(batch))
    }

    /// As [`forward`](Self::forward), but the rows stay where they were computed, until the next pass. On a device
    /// they are there when the event has passed.
    ///
    /// # Errors
    /// As `forward`; `InvalidArgument` with pooling or scaling, and where only some of the wanted rows are hidden ones.
    pub fn forward_in_place(&mut self, batch: &ForwardBatch<'_>) -> Result<PlacedOutput> {
        on_core!(self, core => core.forward_in_place(batch))
    }

    /// One forward pass over the requests that are admitted; returns the number of events written.
    ///
    /// # Errors
    /// `Device`, `Internal`: the running requests have failed.
    pub fn step(&mut self, events: &mut [Event]) -> Result<usize> {
        on_core!(self, core => core.step(events))
    }

    /// The text of an event of the last step: whole UTF-8 characters, perhaps none.
    pub fn event_text(&self, event: &Event) -> &[u8] {
        see_core!(self, core => core.event_text(event))
    }
}

/// The blueprint over a backend. Where `auto` wants a wider area than the memory limit allows, it is the smallest.
fn blueprint<B: Backend>(
    path: &Path,
    options: &Options,
    backend: fn(&Options) -> Result<B>,
) -> Result<Blueprint<B>> {
    match Blueprint::draw(path, options, backend(options)?) {
        Err(Error::OutOfMemory(_)) if options.area_mode == AreaMode::Auto => {
            let options = Options { area_mode: AreaMode::Short, ..options.clone() };
            Blueprint::draw(path, &options, backend(&options)?)
        }
        blueprint => blueprint,
    }
}

#[cfg(not(feature = "cuda"))]
fn without_cuda(index: u32) -> Error {
    Error::Unsupported(format!(
        "options.device asks for CUDA device {index}, but this larder was built without its CUDA \
         backend (cargo feature \"cuda\")"
    ))
}

/// A host's token count as the KV repo's; what does not fit is longer than any sequence.
fn token_count(n_tokens: u64) -> Result<u32> {
    u32::try_from(n_tokens).map_err(|_| {
        Error::InvalidArgument(format!("n_tokens is {n_tokens}, more than any sequence has"))
    })
}
