//! A real model, SmolLM2-135M-Instruct Q4_1, through the whole engine: token ids, llama.cpp's probabilities, and
//! perplexity. Skipped with a message where `make model` has not fetched the file.

use std::path::{Path, PathBuf};

use larder::dtype::KvType;
use larder::engine::{Engine, ForwardBatch, Pooling, WANT_LOGITS};
use larder::ids::{SequenceHandle, TokenId};
use larder::options::Options;
use larder::text::TokenizeOptions;

const WINDOW: usize = 512;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn model() -> Option<PathBuf> {
    let path = root().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        eprintln!("skipped: {} is not there; `make model` fetches it", path.display());
        return None;
    }
    Some(path)
}

fn engine(exact_activations: bool) -> Option<Engine> {
    let options = Options {
        n_threads: 2,
        total_tokens: 1024,
        max_sequences: 1,
        max_batch_rows: 128,
        max_logits_rows: 128,
        k_type: KvType::F32,
        v_type: KvType::F32,
        exact_activations,
        ..Options::default()
    };
    Some(Engine::create(&model()?, &options).unwrap())
}

fn tokenize(engine: &Engine, text: &str) -> Vec<TokenId> {
    let options = TokenizeOptions { add_special: false, parse_special: false };
    engine.text().unwrap().tokenize(text, options).unwrap()
}

/// Appends `tokens` and calls `each` with each row of log probabilities.
fn append(
    engine: &mut Engine,
    sequence: SequenceHandle,
    tokens: &[TokenId],
    mut each: impl FnMut(usize, &[f32]),
) {
    for (chunk, tokens) in tokens.chunks(128).enumerate() {
        let vocab_size = engine.vocab_size() as usize;
        let output = engine
            .forward(&ForwardBatch {
                n_rows: tokens.len() as u32,
                tokens: Some(tokens),
                embeddings: None,
                sequences: &vec![sequence; tokens.len()],
                wants: Some(&vec![WANT_LOGITS; tokens.len()]),
                pooling: Pooling::None,
                normalize: false,
            })
            .unwrap();
        for (row, logits) in output.logits.chunks_exact(vocab_size).enumerate() {
            each(chunk * 128 + row, logits);
        }
    }
}

fn log_probability(logits: &[f32], token: TokenId) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    f64::from(logits[token.0 as usize] - largest) - sum.ln()
}

fn argmax(logits: &[f32]) -> u32 {
    let larger = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (0..logits.len()).fold(0, larger) as u32
}

#[test]
fn prompt_has_llama_cpp_s_token_ids() {
    let Some(engine) = engine(false) else { return };
    let ids: Vec<u32> =
        tokenize(&engine, "The capital of France is").iter().map(|id| id.0).collect();
    assert_eq!(ids, [504, 3575, 282, 4649, 314]);
}

/// llama.cpp quantises activations too, so its own choices are fed and probabilities compared.
#[test]
fn probabilities_agree_with_llama_cpp() {
    let Some(mut engine) = engine(false) else { return };
    let text = std::fs::read(root().join("tests/data/smollm2/llamacpp_top5.json")).unwrap();
    let answers: serde_json::Value = serde_json::from_slice(&text).unwrap();
    for answer in answers.as_array().unwrap() {
        let prompt = tokenize(&engine, answer["prompt"].as_str().unwrap());
        let steps = answer["choice"]["logprobs"]["content"].as_array().unwrap();
        let id = |step: &serde_json::Value| TokenId(step["id"].as_u64().unwrap() as u32);
        let mut tokens = prompt.clone();
        tokens.extend(steps.iter().map(id));
        let sequence = engine.sequence_open().unwrap();
        append(&mut engine, sequence, &tokens, |row, logits| {
            let Some(index) = (row + 1).checked_sub(prompt.len()) else { return };
            let Some(step) = steps.get(index) else { return };
            let theirs = step["logprob"].as_f64().unwrap();
            let ours = log_probability(logits, id(step));
            assert!((ours - theirs).abs() < 0.3, "step {index}: {ours} against {theirs}");
            let top = step["top_logprobs"].as_array().unwrap();
            let place = |i: usize| top[i]["logprob"].as_f64().unwrap();
            if place(0) - place(1) > 0.5 {
                assert_eq!(u64::from(argmax(logits)), top[0]["id"].as_u64().unwrap());
            }
        });
        engine.sequence_release(sequence).unwrap();
    }
}

/// Mean over four windows of 512 tokens of a long English text, each position predicted from those before it.
fn perplexity(exact_activations: bool) -> Option<f64> {
    let Ok(text) = std::fs::read_to_string("/usr/share/common-licenses/GPL-3") else {
        eprintln!("skipped: the text that the reference was measured on is not there");
        return None;
    };
    let mut engine = engine(exact_activations)?;
    let tokens = tokenize(&engine, &text);
    let (mut sum, mut count) = (0.0, 0);
    for window in tokens[..4 * WINDOW].chunks(WINDOW) {
        let sequence = engine.sequence_open().unwrap();
        append(&mut engine, sequence, window, |row, logits| {
            if let Some(next) = window.get(row + 1) {
                sum -= log_probability(logits, *next);
                count += 1;
            }
        });
        engine.sequence_release(sequence).unwrap();
    }
    Some((sum / f64::from(count)).exp())
}

/// 23.7366 is that of f32 arithmetic over the dequantised weights.
#[test]
fn perplexity_with_f32_activations_is_the_reference_s() {
    let Some(ours) = perplexity(true) else { return };
    println!("perplexity with f32 activations: {ours:.4}");
    assert!((ours / 23.7366 - 1.0).abs() < 0.005, "{ours}");
}

/// 8-bit activations cost llama.cpp 0.75 % on the same text.
#[test]
fn perplexity_with_8_bit_activations_stays_close() {
    let Some(ours) = perplexity(false) else { return };
    println!("perplexity with 8-bit activations: {ours:.4}");
    assert!((ours / 23.7366 - 1.0).abs() < 0.015, "{ours}");
}
