//! The tiny models of every family against the logits that transformers computed from the same weights.

use std::path::Path;

use crate::golden::{Golden, Runner, argmax, folder, gguf, golden, read_golden, relative_error};

/// Prompt and continuation: longrope's and dynamic NTK's frequencies depend on it.
const MAX_SEQUENCE_TOKENS: u32 = 48 + 16;

fn check_logits(golden: &Golden, path: &Path, max_sequence_tokens: u32) {
    for (index, tokens) in golden.tokens.iter().enumerate() {
        let theirs = &golden.logits[index * tokens.len()..][..tokens.len()];
        let ours = Runner::open(path, max_sequence_tokens).unwrap().append(tokens).unwrap();
        let error = relative_error(&ours, theirs);
        assert!(error <= 1e-3, "{path:?}: relative error {error}");
        for (position, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            assert_eq!(argmax(ours), argmax(theirs), "{path:?}: argmax at {position}");
        }
    }
}

fn check_greedy(golden: &Golden, path: &Path) {
    for (tokens, greedy) in golden.tokens.iter().zip(&golden.greedy) {
        let mut runner = Runner::open(path, MAX_SEQUENCE_TOKENS).unwrap();
        let mut logits = runner.append(tokens).unwrap();
        for (step, expected) in greedy.iter().enumerate() {
            let token = argmax(logits.last().unwrap()) as u32;
            assert_eq!(token, *expected, "{path:?}: greedy step {step}");
            logits = runner.append(&[token]).unwrap();
        }
    }
}

fn check(golden: &Golden, path: &Path) {
    check_logits(golden, path, MAX_SEQUENCE_TOKENS);
    check_greedy(golden, path);
}

macro_rules! families {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            check(&golden($name), &folder($name));
        })*
    };
}

families! {
    llama: "llama",
    llama_tied_bias: "llama-tied-bias",
    llama3_rope: "llama3-rope",
    llama_yarn: "llama-yarn",
    llama_linear_rope: "llama-linear-rope",
    mistral_swa: "mistral-swa",
    qwen2: "qwen2",
    qwen2_window: "qwen2-window",
    qwen3: "qwen3",
    gemma2: "gemma2",
    gemma3: "gemma3",
    phi3: "phi3",
    phi3_longrope: "phi3-longrope",
}

/// transformers computes dynamic NTK's base anew for every length; here it is that of `max_sequence_tokens`.
#[test]
fn llama_dynamic_rope() {
    let name = "llama-dynamic-rope";
    let golden = golden(name);
    check_logits(&golden, &folder(name), 48);
    for (tokens, greedy) in golden.tokens.iter().zip(&golden.greedy) {
        let mut tokens = tokens.clone();
        for (step, expected) in greedy.iter().enumerate() {
            let mut runner = Runner::open(&folder(name), tokens.len() as u32).unwrap();
            let token = argmax(runner.append(&tokens).unwrap().last().unwrap()) as u32;
            assert_eq!(token, *expected, "greedy step {step}");
            tokens.push(token);
        }
    }
}

/// The same models as GGUF: rows of q and k in another order, norms with the 1 added, scalings as tensors.
#[test]
fn gguf_files() {
    let names = [
        "llama",
        "llama-tied-bias",
        "llama3-rope",
        "llama-yarn",
        "llama-linear-rope",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3",
        "phi3",
        "phi3-longrope",
    ];
    for name in names {
        check(&golden(name), &gguf(name));
    }
}

#[test]
fn gguf_with_quantised_matrices() {
    let path = gguf("llama-q8_0");
    check(&read_golden(&path.with_extension("golden.safetensors")), &path);
}

/// In chunks, and with the same bits: K and V come back from the same place.
#[test]
fn chunks_change_nothing() {
    let tokens = &golden("gemma3").tokens[0];
    let whole = Runner::open(&folder("gemma3"), 64).unwrap().append(tokens).unwrap();
    for size in [1, 7, 47] {
        let mut runner = Runner::open(&folder("gemma3"), 64).unwrap();
        let chunks: Vec<Vec<f32>> =
            tokens.chunks(size).flat_map(|chunk| runner.append(chunk).unwrap()).collect();
        assert_eq!(chunks, whole, "chunks of {size}");
    }
}
