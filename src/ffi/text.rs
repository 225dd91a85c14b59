//! Text in and out: tokens, characters, chats. The calls are pure and need no lock.

use std::ffi::c_char;

use super::boundary::{deep, engine_call};
use super::engine::larder_engine;
use super::forward::token_ids;
use super::pointers::{copy_out, input_slice, invalid, output, text as text_in};
use super::status::larder_status;
use crate::error::Result;
use crate::ids::TokenId;
use crate::text::TokenizeOptions;

/// tokenize: add what the model wants around a text (BOS, EOS).
pub const LARDER_TEXT_ADD_SPECIAL: u32 = 1;
/// tokenize: control tokens written out in the text become those tokens; else they are plain text.
pub const LARDER_TEXT_PARSE_SPECIAL: u32 = 2;
/// detokenize: leave control tokens out.
pub const LARDER_TEXT_SKIP_SPECIAL: u32 = 4;

/// Text to tokens. Both flags together are for a rendered chat: there is exactly one BOS, whether or not the
/// template writes it, no EOS, and control tokens that stand inside messages stay plain text.
///
/// engine, needed: not NULL. text: UTF-8. flags: LARDER_TEXT_ADD_SPECIAL, LARDER_TEXT_PARSE_SPECIAL.
/// tokens: [capacity], not NULL unless capacity is 0. needed gets the number of tokens also when the array is too
/// small.
/// Errors: INVALID_ARGUMENT, BUFFER_TOO_SMALL, UNSUPPORTED (no tokenizer in the model), ENGINE_FAILED.
/// Any thread, at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_text_tokenize(
    engine: *const larder_engine,
    text: *const c_char,
    length: usize,
    flags: u32,
    tokens: *mut u32,
    capacity: usize,
    needed: *mut usize,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            output(needed, "needed")?;
            let text = text_in(text, length, "text")?;
            known_flags(flags, LARDER_TEXT_ADD_SPECIAL | LARDER_TEXT_PARSE_SPECIAL, "flags")?;
            let add_special = flags & LARDER_TEXT_ADD_SPECIAL != 0;
            let parse_special = flags & LARDER_TEXT_PARSE_SPECIAL != 0;
            let ids = if add_special && parse_special {
                engine.text()?.tokenize_chat(text)?
            } else {
                engine.text()?.tokenize(text, TokenizeOptions { add_special, parse_special })?
            };
            copy_out(&ids, tokens.cast::<TokenId>(), capacity, needed, "tokens")
        })
    }
}

/// Tokens to text: whatever bytes they stand for, which need not be whole UTF-8 characters.
///
/// engine, needed: not NULL. tokens: [n_tokens]. flags: LARDER_TEXT_SKIP_SPECIAL.
/// text: [capacity], not NULL unless capacity is 0; no NUL is added. needed gets the length in bytes also when the
/// buffer is too small.
/// Errors: INVALID_ARGUMENT (a token outside the vocabulary), BUFFER_TOO_SMALL, UNSUPPORTED, ENGINE_FAILED.
/// Any thread, at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_text_detokenize(
    engine: *const larder_engine,
    tokens: *const u32,
    n_tokens: usize,
    flags: u32,
    text: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            output(needed, "needed")?;
            let tokens = token_ids(input_slice(tokens, n_tokens, "tokens")?);
            known_flags(flags, LARDER_TEXT_SKIP_SPECIAL, "flags")?;
            let bytes = engine.text()?.detokenize(tokens, flags & LARDER_TEXT_SKIP_SPECIAL != 0)?;
            copy_out(&bytes, text.cast(), capacity, needed, "text")
        })
    }
}

/// A chat to the text that the model was trained on, by the model's own template. For larder_text_tokenize with
/// both flags, or for a request's prompt_text with LARDER_TEXT_PARSE_SPECIAL, which know the mark (U+FDD0) that is
/// put into control tokens inside messages.
///
/// engine, needed: not NULL. messages_json: UTF-8; what OpenAI's chat API calls messages (and tools, and template
/// variables such as add_generation_prompt), as one JSON object; or messages alone, as an array.
/// text: [capacity], not NULL unless capacity is 0; no NUL is added. needed gets the length in bytes also when the
/// buffer is too small.
/// Errors: INVALID_ARGUMENT (JSON, or the template refuses the chat), BUFFER_TOO_SMALL, UNSUPPORTED (no template),
/// ENGINE_FAILED. Any thread, at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_text_render_chat(
    engine: *const larder_engine,
    messages_json: *const c_char,
    length: usize,
    text: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            output(needed, "needed")?;
            let messages = text_in(messages_json, length, "messages_json")?;
            let source = engine.text()?;
            let rendered = deep(|| source.render_chat(messages))?;
            copy_out(rendered.as_bytes(), text.cast(), capacity, needed, "text")
        })
    }
}

/// Refuses bits that mean nothing here.
pub(super) fn known_flags(flags: u32, known: u32, name: &str) -> Result<()> {
    match flags & !known {
        0 => Ok(()),
        unknown => {
            Err(invalid(format!("{name} has bits that this call does not know: {unknown:#x}")))
        }
    }
}
