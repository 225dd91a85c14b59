//! What a request must satisfy, checked before it is taken: a refusal names the field and the number allowed.
//!
//! What can never work is `InvalidArgument`; only the lack of a free place is `LimitReached`, which passes.
#![forbid(unsafe_code)]

use super::request::RequestInput;
use super::{Limits, MAX_BIASES, MAX_LOGPROBS, MAX_STOP_BYTES, MAX_STOPS};
use crate::backend::ops::Sampling;
use crate::error::{Error, Result};
use crate::ids::TokenId;

/// Checks everything but the prompt.
///
/// # Errors
/// `InvalidArgument` names the field; `Unsupported`.
pub(super) fn options(limits: &Limits, input: &RequestInput<'_>, has_text: bool) -> Result<()> {
    if input.n_answers > limits.max_sequences {
        return invalid(format!(
            "n_answers is {}, but max_sequences is {}",
            input.n_answers, limits.max_sequences
        ));
    }
    stops(input.stops, has_text)?;
    sampling(limits, &input.sampling)?;
    biases(limits, input)
}

/// Checks the prompt's tokens and returns how many new tokens an answer may have: what was asked for, as far as a
/// sequence has room for them behind the prompt. Answers that do not fit beside each other run one after the other.
///
/// # Errors
/// `InvalidArgument`: an empty prompt, an unknown token, or a request that could never fit.
pub(super) fn prompt(limits: &Limits, input: &RequestInput<'_>, tokens: &[TokenId]) -> Result<u32> {
    if tokens.is_empty() {
        return invalid("the prompt is empty, at least one token is needed".into());
    }
    let n_prompt = tokens.len();
    let limit = limits.sequence_tokens();
    if n_prompt > limit as usize {
        let name =
            if limit < limits.max_sequence_tokens { "total_tokens" } else { "max_sequence_tokens" };
        return invalid(format!("the prompt has {n_prompt} tokens, but {name} is {limit}"));
    }
    if let Some(position) = tokens.iter().position(|token| token.0 >= limits.vocab_size) {
        return invalid(format!(
            "prompt token {position} is {}, but the vocabulary has {} tokens",
            tokens[position].0, limits.vocab_size
        ));
    }
    // Nobody attends to the last token, so it needs no slot.
    let room = limit - n_prompt as u32 + 1;
    Ok(if input.max_new_tokens == 0 { room } else { input.max_new_tokens.min(room) })
}

fn stops(stops: &[&str], has_text: bool) -> Result<()> {
    if stops.len() > MAX_STOPS {
        return invalid(format!("n_stops is {}, at most {MAX_STOPS} are possible", stops.len()));
    }
    if !stops.is_empty() && !has_text {
        return Err(Error::Unsupported("stops need a tokenizer, and the model has none".into()));
    }
    for (index, stop) in stops.iter().enumerate() {
        if stop.is_empty() {
            return invalid(format!("stops[{index}] is empty"));
        }
        if stop.len() > MAX_STOP_BYTES {
            return invalid(format!(
                "stops[{index}] has {} bytes, at most {MAX_STOP_BYTES} are possible",
                stop.len()
            ));
        }
    }
    Ok(())
}

fn sampling(limits: &Limits, sampling: &Sampling) -> Result<()> {
    const ANY: f32 = f32::MAX;
    in_range("temperature", sampling.temperature, 0.0, ANY)?;
    in_range("top_p", sampling.top_p, 0.0, 1.0)?;
    in_range("min_p", sampling.min_p, 0.0, 1.0)?;
    in_range("repetition_penalty", sampling.repetition_penalty, 0.0, ANY)?;
    in_range("presence_penalty", sampling.presence_penalty, -ANY, ANY)?;
    in_range("frequency_penalty", sampling.frequency_penalty, -ANY, ANY)?;
    let max = (MAX_LOGPROBS as u32).min(limits.vocab_size);
    if sampling.n_logprobs > max {
        let n = sampling.n_logprobs;
        return invalid(format!("n_logprobs is {n}, at most {max} are possible"));
    }
    Ok(())
}

/// Refuses what is outside `min ..= max`, NaN too. `f32::MAX` at an end means "any finite number".
fn in_range(name: &str, value: f32, min: f32, max: f32) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    match (min == -f32::MAX, max == f32::MAX) {
        (true, _) => invalid(format!("{name} is {value}, it must be finite")),
        (_, true) => invalid(format!("{name} is {value}, it must be finite and at least {min}")),
        _ => invalid(format!("{name} is {value}, it must be in {min} ..= {max}")),
    }
}

fn biases(limits: &Limits, input: &RequestInput<'_>) -> Result<()> {
    let n = input.biases.len();
    if input.bias_tokens.len() != n {
        let n_tokens = input.bias_tokens.len();
        return invalid(format!("there are {n_tokens} bias_tokens and {n} biases"));
    }
    if n > MAX_BIASES {
        return invalid(format!("n_biases is {n}, at most {MAX_BIASES} are possible"));
    }
    for (index, (token, bias)) in input.bias_tokens.iter().zip(input.biases).enumerate() {
        if token.0 >= limits.vocab_size {
            return invalid(format!(
                "bias_tokens[{index}] is {}, but the vocabulary has {} tokens",
                token.0, limits.vocab_size
            ));
        }
        if bias.is_nan() || *bias == f32::INFINITY {
            return invalid(format!("biases[{index}] is {bias}, it must be finite or -inf"));
        }
    }
    Ok(())
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::InvalidArgument(message))
}
