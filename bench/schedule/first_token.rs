//! The time to the first token of SmolLM2, with and without the beginning of the prompt in the prefix cache.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use larder::engine::Engine;
use larder::error::Result;
use larder::ids::TokenId;
use larder::options::Options;
use larder::serve::{Event, Prompt, RequestInput};

use crate::mock::Random;

const N_COMMON: u32 = 512;
const N_OWN: u32 = 16;
const N_ROUNDS: usize = 7;

/// Prints the medians of alternating rounds.
pub fn report() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = folder.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !model.exists() {
        println!("{} is not there; `make model` fetches it", model.display());
        return Ok(());
    }
    let options = Options { total_tokens: 4096, max_sequence_tokens: 1024, ..Options::default() };
    let mut engine = Engine::create(&model, &options)?;
    let mut random = Random(1);
    let common = random.tokens(N_COMMON, 40_000);
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..N_ROUNDS {
        engine.flush_cache();
        for times in [&mut cold, &mut warm] {
            let prompt = [&common[..], &random.tokens(N_OWN, 40_000)].concat();
            times.push(first_token(&mut engine, &prompt)?);
        }
    }
    let [(cold, n_cold), (warm, n_warm)] = [median(cold), median(warm)];
    println!("first token of {} prompt tokens, {N_COMMON} of them common", N_COMMON + N_OWN);
    println!("cold {cold:.1} ms ({n_cold} cached), warm {warm:.1} ms ({n_warm} cached)");
    Ok(())
}

/// Milliseconds from submit to the first token, and how many tokens were cached.
fn first_token(engine: &mut Engine, prompt: &[TokenId]) -> Result<(f64, u32)> {
    let edge = Arc::clone(engine.edge());
    let prompt = Prompt::Tokens(prompt);
    let input = RequestInput { prompt, max_new_tokens: 2, ..RequestInput::default() };
    let start = Instant::now();
    edge.submit(None, &input)?;
    let mut events = [Event::default()];
    while engine.step(&mut events)? == 0 {}
    let seen = (start.elapsed().as_secs_f64() * 1e3, events[0].n_cached_tokens);
    while !crate::is_end(&events[0]) {
        engine.step(&mut events)?;
    }
    Ok(seen)
}

fn median(mut times: Vec<(f64, u32)>) -> (f64, u32) {
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    times[times.len() / 2]
}
