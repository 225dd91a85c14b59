//! Sequences: lists of tokens that the host grows row by row with forward.

use super::boundary::engine_call;
use super::engine::larder_engine;
use super::pointers::output;
use super::status::larder_status;
use crate::error::{Error, Result};

/// A sequence's handle; 0: none. Carries a generation: a stale handle is an error, never a fault. Ends with
/// larder_sequence_release or with its engine.
#[allow(non_camel_case_types, reason = "the C name")]
pub type larder_sequence = u64;

/// Says which of a call's handles was stale, as the host wrote it.
pub(super) fn stale<T>(result: Result<T>, name: &str, handle: u64) -> Result<T> {
    result.map_err(|error| match error {
        Error::StaleHandle(_) if handle == 0 => {
            Error::StaleHandle(format!("{name} is 0, which is none"))
        }
        Error::StaleHandle(_) => Error::StaleHandle(format!(
            "{name} is {handle:#x}, which is not of this engine or was released before"
        )),
        other => other,
    })
}

/// Opens an empty sequence. It takes token slots only as it grows.
///
/// engine: not NULL. sequence: not NULL, written on success only.
/// Errors: INVALID_ARGUMENT, LIMIT_REACHED (max_sequences), BUSY, ENGINE_FAILED.
/// Any thread; BUSY while another call runs on the engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_sequence_open(
    engine: *mut larder_engine,
    sequence: *mut larder_sequence,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            let target = output(sequence, "sequence")?;
            let opened = engine.lock()?.engine.sequence_open()?;
            target.write(engine.outside(opened.0));
            Ok(())
        })
    }
}

/// Opens a sequence that shares the first n_tokens of parent; no K or V is copied. Both go on independently and
/// may be released in any order.
///
/// engine: not NULL. n_tokens: at most the parent's length. child: not NULL, written on success only.
/// Errors: INVALID_ARGUMENT, STALE_HANDLE, LIMIT_REACHED (max_sequences), BUSY, ENGINE_FAILED.
/// Any thread; BUSY while another call runs on the engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_sequence_fork(
    engine: *mut larder_engine,
    parent: larder_sequence,
    n_tokens: u64,
    child: *mut larder_sequence,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            let target = output(child, "child")?;
            let forked = engine.lock()?.engine.sequence_fork(engine.sequence(parent), n_tokens);
            target.write(engine.outside(stale(forked, "parent", parent)?.0));
            Ok(())
        })
    }
}

/// Forgets all but the first n_tokens, whose slots are free again unless a fork shares them.
///
/// engine: not NULL. n_tokens: at most the sequence's length.
/// Errors: INVALID_ARGUMENT, STALE_HANDLE, BUSY, ENGINE_FAILED.
/// Any thread; BUSY while another call runs on the engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_sequence_truncate(
    engine: *mut larder_engine,
    sequence: larder_sequence,
    n_tokens: u64,
) -> larder_status {
    // SAFETY: the header's contract.
    unsafe {
        engine_call(engine, |engine| {
            let done = engine.lock()?.engine.sequence_truncate(engine.sequence(sequence), n_tokens);
            stale(done, "sequence", sequence)
        })
    }
}

/// How many tokens a sequence has.
///
/// engine: not NULL. n_tokens: not NULL, written on success only.
/// Errors: INVALID_ARGUMENT, STALE_HANDLE, BUSY, ENGINE_FAILED.
/// Any thread; BUSY while another call runs on the engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_sequence_length(
    engine: *const larder_engine,
    sequence: larder_sequence,
    n_tokens: *mut u64,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            let target = output(n_tokens, "n_tokens")?;
            let length = engine.lock()?.engine.sequence_length(engine.sequence(sequence));
            target.write(stale(length, "sequence", sequence)?);
            Ok(())
        })
    }
}

/// Ends a sequence; slots that no fork shares are free at once.
///
/// engine: not NULL. Errors: INVALID_ARGUMENT, STALE_HANDLE (released before), BUSY, ENGINE_FAILED.
/// Any thread; BUSY while another call runs on the engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_sequence_release(
    engine: *mut larder_engine,
    sequence: larder_sequence,
) -> larder_status {
    // SAFETY: the header's contract.
    unsafe {
        engine_call(engine, |engine| {
            let done = engine.lock()?.engine.sequence_release(engine.sequence(sequence));
            stale(done, "sequence", sequence)
        })
    }
}
