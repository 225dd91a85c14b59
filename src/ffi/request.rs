//! Requests and step: larder schedules, the host takes events.

use std::ffi::c_char;

use super::boundary::engine_call;
use super::engine::larder_engine;
use super::forward::token_ids;
use super::pointers::{Versioned, init, input_slice, invalid, nested, output, text, versioned};
use super::sequence::stale;
use super::status::larder_status;
use super::text::{LARDER_TEXT_PARSE_SPECIAL, known_flags};
use crate::backend::ops::Sampling;
use crate::error::Result;
use crate::serve::{MAX_STOPS, Prompt, RequestInput};
use crate::text::ConstraintKind;

/// A request's handle; 0: none. Carries a generation. Ends with its FINISHED or FAILED events, or with its engine.
#[allow(non_camel_case_types, reason = "the C name")]
pub type larder_request = u64;

/// UTF-8 text; length 0 allows any data.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_text {
    pub data: *const c_char,
    pub length: usize,
}

/// How a request's tokens are chosen. All zero is greedy.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_sampling {
    /// Set by larder_sampling_init and larder_request_options_init.
    pub struct_size: u32,
    /// 0, or more than the vocabulary: off.
    pub top_k: u32,
    /// 0: greedy.
    pub temperature: f32,
    /// 0 as default means 1: off.
    pub top_p: f32,
    /// 0: off.
    pub min_p: f32,
    /// 0 as default means 1: off.
    pub repetition_penalty: f32,
    /// 0: off.
    pub presence_penalty: f32,
    /// 0: off.
    pub frequency_penalty: f32,
    /// Each answer has a generator of its own: the same seed, the same answer. Answer i has seed + i.
    pub seed: u64,
    /// How many of the most likely tokens each event tells, at most 20.
    pub n_logprobs: u32,
    /// Elements of bias_tokens and biases, at most 1024.
    pub n_biases: u32,
    /// `[n_biases]`
    pub bias_tokens: *const u32,
    /// `[n_biases]`, added to the logits; minus infinity bans a token.
    pub biases: *const f32,
}

// SAFETY: integers, floats and pointers only.
unsafe impl Versioned for larder_sampling {
    const NAME: &'static str = "larder_sampling";
    const MIN_BYTES: usize = 8;
}

const _: () = assert!(size_of::<larder_sampling>() == 64);

/// What a request asks for. The caller's own: copied by submit.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_request_options {
    /// Set by larder_request_options_init.
    pub struct_size: u32,
    /// Elements of prompt_tokens.
    pub n_prompt_tokens: u32,
    /// `[n_prompt_tokens]`, taken as they are; or NULL and prompt_text.
    pub prompt_tokens: *const u32,
    /// Tokenised with what the model wants around a prompt; a BOS that is written out is not doubled.
    pub prompt_text: larder_text,
    /// 0: as many as fit.
    pub max_new_tokens: u32,
    /// A hint for admission: how long an answer is likely to become; 0: from past answers.
    pub expected_new_tokens: u32,
    /// 0: 1. They share the prompt's slots; those that do not fit beside each other follow one another.
    pub n_answers: u32,
    /// Higher ones go first and are paused last. Inside one it is first come, first served.
    pub priority: i32,
    /// Prefixes are shared inside one only: give each adapter, tenant, … its own.
    pub name_space: u64,
    /// Comes back in each event.
    pub user: u64,
    /// `[n_stops]` texts that end an answer and are not part of it; each of 1 to 256 bytes.
    pub stops: *const larder_text,
    /// Elements of stops, at most 16.
    pub n_stops: u32,
    /// 0 none, 1 JSON schema, 2 regex, 3 Lark grammar (by llguidance, with its extensions). Each answer follows it from
    /// its first byte to its last: only tokens that can still lead to its end are drawn, and a stop token exactly
    /// where it is fulfilled. When it is, and no text can follow, the answer ends with LARDER_FINISH_CONSTRAINT.
    /// LARDER_FINISH_LENGTH and stops may end it before. Log probabilities are those among what may be drawn.
    /// Needs a tokenizer, else UNSUPPORTED. Submit and step allocate memory for such requests: at most 32 MiB for the
    /// request and for each of its answers, given back when they end; see larder_stats.constraint_bytes.
    pub constraint_kind: u32,
    /// The schema, expression or grammar: at most 128 KiB, and 4 KiB for one expression, string of a schema or line.
    pub constraint: larder_text,
    /// How tokens are chosen. Its struct_size may be 0 when all of it is.
    pub sampling: larder_sampling,
    /// For prompt_text: LARDER_TEXT_PARSE_SPECIAL, which a rendered chat needs, or 0.
    pub prompt_flags: u32,
    /// 0
    pub reserved: u32,
}

// SAFETY: integers, floats and pointers only.
unsafe impl Versioned for larder_request_options {
    const NAME: &'static str = "larder_request_options";
    const MIN_BYTES: usize = 32;
}

const _: () = assert!(size_of::<larder_request_options>() == 168);

/// Sets every field to its default. sampling: not NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_sampling_init(sampling: *mut larder_sampling) {
    // SAFETY: the header's contract.
    unsafe { init(sampling) }
}

/// Sets every field to its default, those of sampling too. options: not NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_request_options_init(options: *mut larder_request_options) {
    // SAFETY: the header's contract.
    unsafe {
        init(options);
        if !options.is_null() && options.is_aligned() {
            init(&raw mut (*options).sampling);
        }
    }
}

/// Queues a request. It runs in the steps that follow.
///
/// engine, options: not NULL. request: not NULL, written on success only.
/// Errors: INVALID_ARGUMENT (the message names the field; also for a request that could never fit), LIMIT_REACHED
/// (max_requests: try again when one has ended), UNSUPPORTED, ENGINE_FAILED. A constraint is compiled here; a mistake
/// in it is an INVALID_ARGUMENT with the reason.
/// Any thread, also while a step runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_request_submit(
    engine: *mut larder_engine,
    options: *const larder_request_options,
    request: *mut larder_request,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            let target = output(request, "request")?;
            let options = versioned(options, "options")?;
            let mut stops = [""; MAX_STOPS];
            let stops = stops_from(&options, &mut stops)?;
            let input = input_from(&options, stops)?;
            let handle = engine.edge.submit(engine.text.as_deref(), &input)?;
            target.write(engine.outside(handle.0));
            Ok(())
        })
    }
}

/// Ends a request: its answers finish with LARDER_FINISH_CANCELLED in the step that runs, or else the next one, and
/// draw no further token. A step whose requests are all cancelled stops within a layer. In any state, any number of
/// times: one that has ended already stays as it is, until its place is another request's.
///
/// engine: not NULL. Errors: INVALID_ARGUMENT, STALE_HANDLE, ENGINE_FAILED.
/// Any thread, also while a step runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_request_cancel(
    engine: *mut larder_engine,
    request: larder_request,
) -> larder_status {
    // SAFETY: the header's contract.
    unsafe {
        engine_call(engine, |engine| {
            stale(engine.edge.cancel(engine.request(request)), "request", request)
        })
    }
}

/// The stop texts, in the room that the caller gives.
///
/// # Safety
/// As [`input_slice`] for the array and each of its texts, during `'a`.
unsafe fn stops_from<'a, 'b>(
    options: &larder_request_options,
    room: &'b mut [&'a str; MAX_STOPS],
) -> Result<&'b [&'a str]> {
    let n = options.n_stops as usize;
    if n > MAX_STOPS {
        return Err(invalid(format!("options.n_stops is {n}, at most {MAX_STOPS} are possible")));
    }
    // SAFETY: handed on.
    let given = unsafe { input_slice(options.stops, n, "options.stops")? };
    for (index, (stop, place)) in given.iter().zip(room.iter_mut()).enumerate() {
        // SAFETY: handed on.
        let stop = unsafe { text(stop.data, stop.length, "the text") };
        *place = stop.map_err(|error| invalid(format!("options.stops[{index}]: {error}")))?;
    }
    Ok(&room[..n])
}

/// The options as the requests' layer wants them; it checks the values.
///
/// # Safety
/// As [`input_slice`] for each array, during `'a`.
unsafe fn input_from<'a>(
    options: &larder_request_options,
    stops: &'a [&'a str],
) -> Result<RequestInput<'a>> {
    if options.reserved != 0 {
        return Err(invalid(format!("options.reserved is {}, must be 0", options.reserved)));
    }
    nested(&options.sampling, "options.sampling")?;
    let sampling = &options.sampling;
    let n_biases = sampling.n_biases as usize;
    // SAFETY: handed on.
    let (prompt, constraint, bias_tokens, biases) = unsafe {
        (
            prompt_from(options)?,
            constraint_from(options)?,
            input_slice(sampling.bias_tokens, n_biases, "options.sampling.bias_tokens")?,
            input_slice(sampling.biases, n_biases, "options.sampling.biases")?,
        )
    };
    Ok(RequestInput {
        prompt,
        max_new_tokens: options.max_new_tokens,
        expected_new_tokens: options.expected_new_tokens,
        n_answers: options.n_answers,
        name_space: options.name_space,
        user: options.user,
        priority: options.priority,
        constraint,
        stops,
        sampling: Sampling {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            seed: sampling.seed,
            n_logprobs: sampling.n_logprobs,
        },
        bias_tokens: token_ids(bias_tokens),
        biases,
    })
}

/// # Safety
/// As [`text`], during `'a`.
unsafe fn constraint_from<'a>(
    options: &larder_request_options,
) -> Result<Option<(ConstraintKind, &'a str)>> {
    let given = options.constraint;
    let kind = match options.constraint_kind {
        0 if given.length > 0 => {
            return Err(invalid("options.constraint is set, but constraint_kind is 0".into()));
        }
        0 => return Ok(None),
        1 => ConstraintKind::JsonSchema,
        2 => ConstraintKind::Regex,
        3 => ConstraintKind::Lark,
        kind => {
            return Err(invalid(format!("options.constraint_kind is {kind}, expected 0 to 3")));
        }
    };
    // SAFETY: handed on.
    let source = unsafe { text(given.data, given.length, "options.constraint")? };
    Ok(Some((kind, source)))
}

/// Tokens or text, not both.
///
/// # Safety
/// As [`input_slice`] for the array that is given, during `'a`.
unsafe fn prompt_from<'a>(options: &larder_request_options) -> Result<Prompt<'a>> {
    known_flags(options.prompt_flags, LARDER_TEXT_PARSE_SPECIAL, "options.prompt_flags")?;
    let n_tokens = options.n_prompt_tokens as usize;
    if n_tokens == 0 {
        let given = options.prompt_text;
        // SAFETY: handed on.
        let text = unsafe { text(given.data, given.length, "options.prompt_text")? };
        let parse_special = options.prompt_flags & LARDER_TEXT_PARSE_SPECIAL != 0;
        return Ok(Prompt::Text { text, parse_special });
    }
    if options.prompt_text.length > 0 {
        return Err(invalid(
            "options.prompt_tokens and options.prompt_text are both set, one is expected".into(),
        ));
    }
    // SAFETY: handed on.
    let tokens = unsafe { input_slice(options.prompt_tokens, n_tokens, "options.prompt_tokens")? };
    Ok(Prompt::Tokens(token_ids(tokens)))
}
