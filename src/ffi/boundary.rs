//! The one way in: every exported function is a closure inside [`guard`] or [`engine_call`].

use std::ffi::c_char;

use super::engine::larder_engine;
use super::last_error;
use super::panics::catch;
use super::pointers::check;
use super::status::{LARDER_INTERNAL, LARDER_OK, larder_status, status_of};
use crate::error::{Error, Result};

/// Runs a call: its error becomes a code and this thread's message, its panic LARDER_INTERNAL.
pub(super) fn guard(call: impl FnOnce() -> Result<()>) -> larder_status {
    match catch(call) {
        Some(Ok(())) => LARDER_OK,
        Some(Err(error)) => {
            last_error::set(format_args!("{error}"));
            status_of(&error)
        }
        None => LARDER_INTERNAL,
    }
}

/// Runs a call on an engine. After a panic or an internal error the engine is failed: half-written state is never
/// used again.
///
/// # Safety
/// A pointer that is neither NULL nor misaligned was made by create and is not released during the call.
pub(super) unsafe fn engine_call(
    engine: *const larder_engine,
    call: impl FnOnce(&larder_engine) -> Result<()>,
) -> larder_status {
    if let Err(error) = check(engine, "engine") {
        return guard(|| Err(error));
    }
    // SAFETY: alive by this function's contract; shared only, as larder never makes a `&mut` of it.
    let engine = unsafe { &*engine };
    let status = guard(|| {
        engine.check_failed()?;
        call(engine)
    });
    if status == LARDER_INTERNAL || status == status_of(&Error::EngineFailed(String::new())) {
        engine.mark_failed();
    }
    status
}

/// What parsers need at most that recurse as deep as a model's file or the host's text says (each has a limit of its
/// own; regular expressions need most).
const DEEP_BYTES: usize = 4 << 20;

/// Runs a call that parses what is not trusted. Where the caller's stack may be too small for its depth, it gets
/// another one for its time.
pub(super) fn deep<T>(call: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(DEEP_BYTES, 2 * DEEP_BYTES, call)
}

/// This thread's last failure in words; empty when there was none. Never NULL, NUL-terminated UTF-8 of at most 511
/// bytes; valid until this thread ends, its text until this thread's next failing call. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn larder_last_error() -> *const c_char {
    last_error::pointer()
}
