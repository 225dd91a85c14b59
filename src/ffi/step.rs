//! step: one forward pass over all requests, and what came of it as events.

use std::ffi::c_char;
use std::mem::MaybeUninit;

use super::boundary::engine_call;
use super::engine::{Running, larder_engine};
use super::pointers::{invalid, output, output_slice};
use super::request::larder_request;
use super::status::{
    LARDER_BAD_MODEL, LARDER_DEVICE, LARDER_LIMIT_REACHED, LARDER_OK, LARDER_OUT_OF_SLOTS,
    LARDER_UNSUPPORTED, larder_status,
};
use crate::error::Result;
use crate::serve::{Event, EventKind, Failure, Finish};

/// event.token: there is none.
pub const LARDER_NO_TOKEN: u32 = u32::MAX;

/// An answer's next token and text.
pub const LARDER_EVENT_TOKEN: u32 = 1;
/// An answer has ended; finish tells why.
pub const LARDER_EVENT_FINISHED: u32 = 2;
/// A request has failed; status tells why, the others go on.
pub const LARDER_EVENT_FAILED: u32 = 3;

/// event.finish: a stop token or a stop text.
pub const LARDER_FINISH_STOP: u32 = 1;
/// event.finish: max_new_tokens, or the sequence is full.
pub const LARDER_FINISH_LENGTH: u32 = 2;
/// event.finish: larder_request_cancel.
pub const LARDER_FINISH_CANCELLED: u32 = 3;
/// event.finish: the constraint is fulfilled, and no text can follow.
pub const LARDER_FINISH_CONSTRAINT: u32 = 4;

/// One of the most likely tokens of a position.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_token_logprob {
    pub token: u32,
    pub logprob: f32,
}

/// What happened to a request. The array is the caller's own; text and top_logprobs are valid until the next step
/// or release.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_event {
    pub request: larder_request,
    /// options.user of the request.
    pub user: u64,
    /// LARDER_EVENT_
    pub kind: u32,
    /// 0 .. n_answers - 1
    pub answer: u32,
    /// LARDER_NO_TOKEN at the end of an answer, unless a stop token ended it.
    pub token: u32,
    /// Natural logarithm of the token's probability before penalties and temperature.
    pub logprob: f32,
    /// LARDER_FINISH_
    pub finish: u32,
    /// Why a request failed: OUT_OF_SLOTS or LIMIT_REACHED (the host's own sequences or pinned namespaces hold what it
    /// needs; or its constraint's parser has reached one of its bounds), BAD_MODEL (no finite logits, or every token
    /// banned), UNSUPPORTED (no token of the vocabulary continues its constraint), DEVICE (the forward pass failed).
    pub status: larder_status,
    /// Whole UTF-8 characters; may be empty while one is incomplete or a stop is pending.
    pub text: *const c_char,
    pub text_length: usize,
    pub n_prompt_tokens: u32,
    /// Of n_prompt_tokens, those that this answer did not compute: the prefix cache had them.
    pub n_cached_tokens: u32,
    /// `[n_top_logprobs]`, most likely first.
    pub top_logprobs: *const larder_token_logprob,
    pub n_top_logprobs: u32,
    /// 0
    pub reserved: u32,
}

const _: () = assert!(size_of::<larder_event>() == 80);

/// One forward pass over what is admitted, prompts in chunks and decode rows together. 0 events: nothing is left to
/// do, or prompts are still being read.
///
/// engine: not NULL. events: `[capacity]`, not NULL; capacity: at least 1. n_events: not NULL; *n_events <= capacity,
/// what did not fit comes next time.
/// Errors: INVALID_ARGUMENT, BUSY, DEVICE, ENGINE_FAILED. What fails for one request is an event, not an error.
/// One caller at a time, from any thread; a second one gets BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_engine_step(
    engine: *mut larder_engine,
    events: *mut larder_event,
    capacity: usize,
    n_events: *mut usize,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            let n_events = output(n_events, "n_events")?;
            if capacity == 0 {
                return Err(invalid("capacity is 0, events needs room for at least one".into()));
            }
            let targets = output_slice(events, capacity, "events")?;
            n_events.write(run(engine, &mut *engine.lock()?, targets)?);
            Ok(())
        })
    }
}

/// Runs the step and converts its events, which stay in `running` so that pointers into them are good until the
/// next one.
fn run(
    handles: &larder_engine,
    running: &mut Running,
    targets: &mut [MaybeUninit<larder_event>],
) -> Result<usize> {
    let Running { engine, events, .. } = running;
    let capacity = events.len().min(targets.len());
    let n = engine.step(&mut events[..capacity])?;
    for (target, event) in targets.iter_mut().zip(&events[..n]) {
        target.write(event_from(handles, event, engine.event_text(event)));
    }
    Ok(n)
}

fn event_from(handles: &larder_engine, event: &Event, text: &[u8]) -> larder_event {
    let (kind, finish, status) = match event.kind {
        EventKind::Token => (LARDER_EVENT_TOKEN, 0, LARDER_OK),
        EventKind::Finished(finish) => (LARDER_EVENT_FINISHED, finish_code(finish), LARDER_OK),
        EventKind::Failed(failure) => (LARDER_EVENT_FAILED, 0, failure_code(failure)),
    };
    larder_event {
        request: handles.outside(event.request.0),
        user: event.user,
        kind,
        answer: event.answer,
        token: event.token.map_or(LARDER_NO_TOKEN, |token| token.0),
        logprob: event.logprob,
        finish,
        status,
        text: text.as_ptr().cast(),
        text_length: text.len(),
        n_prompt_tokens: event.n_prompt_tokens,
        n_cached_tokens: event.n_cached_tokens,
        top_logprobs: event.top.as_ptr().cast(),
        n_top_logprobs: event.top.len() as u32,
        reserved: 0,
    }
}

fn finish_code(finish: Finish) -> u32 {
    match finish {
        Finish::Stop => LARDER_FINISH_STOP,
        Finish::Length => LARDER_FINISH_LENGTH,
        Finish::Cancelled => LARDER_FINISH_CANCELLED,
        Finish::Constraint => LARDER_FINISH_CONSTRAINT,
    }
}

fn failure_code(failure: Failure) -> larder_status {
    match failure {
        Failure::NonFiniteLogits => LARDER_BAD_MODEL,
        Failure::OutOfSlots => LARDER_OUT_OF_SLOTS,
        Failure::SequenceLimit => LARDER_LIMIT_REACHED,
        Failure::Forward => LARDER_DEVICE,
        Failure::ConstraintStuck => LARDER_UNSUPPORTED,
        Failure::ConstraintTooComplex => LARDER_LIMIT_REACHED,
    }
}
