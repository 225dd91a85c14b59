//! `larder run`: text from a prompt, as it comes, then speed and memory.

use crate::Result;
use crate::arguments::RunArguments;
use crate::load::load;
use crate::units::size;
use larder::backend::ops::Sampling;
use larder::engine::Engine;
use larder::ids::TokenId;
use larder::serve::{Event, EventKind, Finish, Prompt, RequestInput};
use larder::text::Text;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// Generates one answer.
pub fn run(arguments: &RunArguments) -> Result<()> {
    let prompt = read_prompt(&arguments.prompt)?;
    let mut engine = load(arguments.engine.path(), arguments.engine.options())?;
    submit(&engine, arguments, &prompt)?;
    let speed = stream(&mut engine)?;
    writeln!(std::io::stdout())?;
    let memory = engine.memory();
    eprintln!(
        "\nprefill {:>6} tokens  {}\ndecode  {:>6} tokens  {}   {}",
        speed.n_prompt,
        per_second(speed.n_prompt, speed.prefill),
        speed.n_new,
        per_second(speed.n_new.saturating_sub(1), speed.decode),
        speed.end
    );
    eprintln!(
        "memory  {} = weights {} + KV repo {} + compute area {} + bookkeeping {}",
        size(memory.total_bytes()),
        size(memory.weights_bytes),
        size(memory.kv_repo_bytes),
        size(memory.compute_area_bytes),
        size(memory.bookkeeping_bytes)
    );
    Ok(())
}

fn read_prompt(prompt: &str) -> Result<String> {
    if prompt != "-" {
        return Ok(prompt.to_string());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|e| format!("standard input: {e}"))?;
    Ok(text)
}

/// Hands the request in: the chat template's text when there is one, else the prompt's.
fn submit(engine: &Engine, arguments: &RunArguments, prompt: &str) -> Result<()> {
    let text = engine.text().ok_or("the model comes without a tokenizer")?;
    let stops: Vec<&str> = arguments.stop.iter().map(String::as_str).collect();
    let chat = chat_tokens(text, arguments, prompt)?;
    let sampling = &arguments.sampling;
    let input = RequestInput {
        prompt: match &chat {
            Some(tokens) => Prompt::Tokens(tokens),
            None => Prompt::Text { text: prompt, parse_special: false },
        },
        max_new_tokens: arguments.max_tokens,
        stops: &stops,
        sampling: Sampling {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repeat_penalty,
            seed: sampling.seed,
            ..Sampling::default()
        },
        ..RequestInput::default()
    };
    engine.edge().submit(Some(text), &input)?;
    Ok(())
}

/// The chat template's text as tokens; `None` with --raw or without a template.
fn chat_tokens(
    text: &Text,
    arguments: &RunArguments,
    prompt: &str,
) -> Result<Option<Vec<TokenId>>> {
    if arguments.raw || !text.has_chat_template() {
        return Ok(None);
    }
    let system = arguments.system.iter().map(|text| message("system", text));
    let messages: Vec<_> = system.chain([message("user", prompt)]).collect();
    let request = json!({ "messages": messages, "add_generation_prompt": true });
    let rendered = text.render_chat(&request.to_string())?;
    Ok(Some(text.tokenize_chat(&rendered)?))
}

fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

/// What the answer took.
struct Speed {
    n_prompt: u32,
    n_new: u32,
    prefill: Duration,
    /// From the first new token on.
    decode: Duration,
    end: &'static str,
}

/// Steps until the answer is complete and prints its text as it comes.
fn stream(engine: &mut Engine) -> Result<Speed> {
    let begin = Instant::now();
    let mut first = None;
    let mut speed =
        Speed { n_prompt: 0, n_new: 0, prefill: Duration::ZERO, decode: Duration::ZERO, end: "" };
    let mut events = vec![Event::default(); 16];
    let mut out = std::io::stdout();
    while speed.end.is_empty() {
        let n = engine.step(&mut events)?;
        for event in &events[..n] {
            let now = Instant::now();
            let first = *first.get_or_insert(now);
            (speed.prefill, speed.decode) = (first - begin, now - first);
            speed.n_prompt = event.n_prompt_tokens;
            out.write_all(engine.event_text(event))?;
            match event.kind {
                EventKind::Token => speed.n_new += 1,
                EventKind::Finished(Finish::Stop | Finish::Constraint) => {
                    speed.end = "ended by itself"
                }
                EventKind::Finished(Finish::Length) => speed.end = "ended at the limit",
                EventKind::Finished(Finish::Cancelled) => speed.end = "cancelled",
                EventKind::Failed(failure) => {
                    return Err(format!("the answer failed: {failure:?}").into());
                }
            }
        }
        out.flush()?;
    }
    Ok(speed)
}

fn per_second(n_tokens: u32, time: Duration) -> String {
    match time.as_secs_f64() {
        0.0 => format!("{:>9} tokens/s", "-"),
        seconds => format!("{:>9.1} tokens/s", f64::from(n_tokens) / seconds),
    }
}
