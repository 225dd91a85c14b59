//! `larder_engine`: plan, create, describe, memory, release; and the rules that all calls on an engine share.

use std::collections::hash_map::RandomState;
use std::ffi::c_char;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::boundary::{deep, engine_call, guard};
use super::memory::larder_memory;
use super::options::{larder_options, options_from};
use super::pointers::{check, copy_out, output, path as path_in, struct_size, write_versioned};
use super::status::larder_status;
use super::tensors::Tensors;
use crate::engine::{Engine, Memory};
use crate::error::{Error, Result};
use crate::ids::{RequestHandle, SequenceHandle};
use crate::options::Options;
use crate::serve::{Edge, Event};
use crate::text::Text;

/// One model on one device, with its KV repo and its compute area. Made by larder_engine_create and destroyed by
/// larder_engine_release, together with its sequences and requests, whose handles are then meaningless; they hold
/// nothing of their own, so nothing is lost. A released engine's pointer must not be used again.
/// Each function says which calls may run at the same time on one engine. Two engines never disturb each other.
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_engine {
    running: Mutex<Running>,
    pub(super) edge: Arc<Edge>,
    pub(super) text: Option<Arc<Text>>,
    memory: Memory,
    description: Box<str>,
    failed: AtomicBool,
    /// Mixed into every handle that leaves: see [`larder_engine::outside`].
    secret: u64,
}

/// What one caller at a time may use, with the arrays in which C's rows and events become Rust's and back.
pub(super) struct Running {
    pub(super) engine: Engine,
    pub(super) sequences: Vec<SequenceHandle>,
    pub(super) events: Vec<Event>,
    pub(super) tensors: Tensors,
}

impl Running {
    fn new(engine: Engine) -> Running {
        let memory = engine.memory();
        let sequences = Vec::with_capacity(memory.max_batch_rows as usize);
        let events = vec![Event::default(); n_events(memory)];
        Running { engine, sequences, events, tensors: Tensors::new() }
    }
}

/// Events that one step hands over at most; what does not fit comes with the next one.
fn n_events(memory: &Memory) -> usize {
    2 * memory.max_sequences as usize
}

/// Bytes of a handle and its arrays, beside the engine's own.
fn handle_bytes(memory: &Memory) -> u64 {
    let rows = u64::from(memory.max_batch_rows) * size_of::<SequenceHandle>() as u64;
    (size_of::<larder_engine>() + n_events(memory) * size_of::<Event>()) as u64
        + rows
        + Tensors::bytes()
}

/// The engine's memory with the handle's; both stay under the limit together, for which `options` may change.
fn plan(path: &Path, options: &mut Options) -> Result<Memory> {
    let mut memory = Engine::plan(path, options)?;
    let limit = options.memory_limit_bytes;
    let bytes = handle_bytes(&memory);
    if limit != 0 && memory.total_bytes() + bytes > limit {
        options.memory_limit_bytes = limit.saturating_sub(bytes).max(1);
        memory = Engine::plan(path, options)?;
    }
    Ok(with_handle(memory))
}

fn create(path: &Path, options: &mut Options) -> Result<larder_engine> {
    if options.memory_limit_bytes != 0 {
        plan(path, options)?;
    }
    Ok(larder_engine::new(Engine::create(path, options)?))
}

fn with_handle(mut memory: Memory) -> Memory {
    let bytes = handle_bytes(&memory);
    memory.bookkeeping_bytes += bytes;
    memory.host_bytes += bytes;
    memory.load_peak_bytes = memory.load_peak_bytes.max(memory.total_bytes());
    memory
}

impl larder_engine {
    fn new(engine: Engine) -> larder_engine {
        let memory = with_handle(engine.memory().clone());
        larder_engine {
            edge: Arc::clone(engine.edge()),
            text: engine.text().map(Arc::clone),
            description: engine.describe().into(),
            memory,
            running: Mutex::new(Running::new(engine)),
            failed: AtomicBool::new(false),
            // Neither half is 0, so a handle never becomes 0: an index and a generation are small numbers.
            secret: RandomState::new().build_hasher().finish() | 1 << 63 | 1 << 31,
        }
    }

    /// The engine's state, or [`Error::Busy`] while another call has it.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Running>> {
        match self.running.try_lock() {
            Ok(running) => Ok(running),
            Err(TryLockError::WouldBlock) => Err(Error::Busy),
            Err(TryLockError::Poisoned(_)) => Err(self.failure()),
        }
    }

    pub(super) fn text(&self) -> Result<&Text> {
        self.text.as_deref().ok_or_else(|| {
            Error::Unsupported("the model comes without a tokenizer: give tokens, not text".into())
        })
    }

    pub(super) fn mark_failed(&self) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            self.edge.wake_all();
        }
    }

    pub(super) fn check_failed(&self) -> Result<()> {
        if self.failed.load(Ordering::Acquire) { Err(self.failure()) } else { Ok(()) }
    }

    fn failure(&self) -> Error {
        Error::EngineFailed(
            "an earlier defect left this engine unusable: only larder_engine_release works".into(),
        )
    }

    /// A handle as the host sees it. The engine's own number is mixed in, so that another engine's handle, or one
    /// of an engine released before, is as stale here as a released one.
    pub(super) fn outside(&self, handle: u64) -> u64 {
        handle ^ self.secret
    }

    pub(super) fn sequence(&self, handle: u64) -> SequenceHandle {
        SequenceHandle(self.inside(handle))
    }

    pub(super) fn request(&self, handle: u64) -> RequestHandle {
        RequestHandle(self.inside(handle))
    }

    fn inside(&self, handle: u64) -> u64 {
        if handle == 0 { 0 } else { handle ^ self.secret }
    }
}

/// Tells what larder_engine_create would take. Reads headers only, allocates no weights, needs no device.
///
/// model_path: not NULL; a .gguf file (of a split model the first), or a folder with config.json and safetensors.
/// options: NULL = defaults. memory: not NULL, set up by larder_memory_init.
/// Errors: INVALID_ARGUMENT, IO, BAD_MODEL, UNSUPPORTED, OUT_OF_MEMORY (memory_limit_bytes is too low).
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_engine_plan(
    model_path: *const c_char,
    options: *const larder_options,
    memory: *mut larder_memory,
) -> larder_status {
    guard(|| {
        // SAFETY: the header's contract, for each pointer.
        unsafe {
            let path = path_in(model_path, "model_path")?;
            struct_size(memory, "memory")?;
            let mut options = options_from(options)?;
            let planned = deep(|| plan(path, &mut options))?;
            write_versioned(memory, &larder_memory::from(&planned), "memory")
        }
    })
}

/// Loads a model and reserves everything: weights, KV repo, compute area, bookkeeping, threads. Nothing is
/// allocated afterwards, but for what the text calls return.
///
/// model_path, options: as for plan. engine: not NULL; written on success only, release it with
/// larder_engine_release. On any error everything taken so far has been given back.
/// Errors: as for plan, and CANCELLED (hooks.progress), DEVICE.
/// Any thread. options.hooks are called from this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_engine_create(
    model_path: *const c_char,
    options: *const larder_options,
    engine: *mut *mut larder_engine,
) -> larder_status {
    guard(|| {
        // SAFETY: the header's contract, for each pointer.
        unsafe {
            let path = path_in(model_path, "model_path")?;
            let engine = output(engine, "engine")?;
            let mut options = options_from(options)?;
            let created = deep(|| create(path, &mut options))?;
            engine.write(Box::into_raw(Box::new(created)));
        }
        Ok(())
    })
}

/// Stops the engine's threads and gives everything back; sequences and requests end with it. Works on a failed
/// engine too.
///
/// engine: NULL is fine. No other call on it may be running; where one is seen: BUSY, and nothing is released.
/// Errors: BUSY, INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_engine_release(engine: *mut larder_engine) -> larder_status {
    guard(|| {
        if engine.is_null() {
            return Ok(());
        }
        check(engine, "engine")?;
        // SAFETY: made by create and, by the header's contract, not released before.
        if matches!(unsafe { &*engine }.running.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(Error::Busy);
        }
        // SAFETY: as above; no other call is running.
        drop(unsafe { Box::from_raw(engine) });
        Ok(())
    })
}

/// The bytes in use, equal to what plan told for the same options.
///
/// engine: not NULL. memory: not NULL, set up by larder_memory_init.
/// Errors: INVALID_ARGUMENT, ENGINE_FAILED. Any thread, at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_engine_memory(
    engine: *const larder_engine,
    memory: *mut larder_memory,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            write_versioned(memory, &larder_memory::from(&engine.memory), "memory")
        })
    }
}

/// A few lines of text for people: model, sizes, the compute area's mode and why it was chosen, attention windows.
///
/// engine, needed: not NULL. text: [capacity], not NULL unless capacity is 0; no NUL is added. needed gets the
/// length in bytes also when the buffer is too small.
/// Errors: INVALID_ARGUMENT, BUFFER_TOO_SMALL, ENGINE_FAILED. Any thread, at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_engine_describe(
    engine: *const larder_engine,
    text: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            copy_out(engine.description.as_bytes(), text.cast(), capacity, needed, "text")
        })
    }
}
