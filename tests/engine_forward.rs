//! The engine on the CPU against transformers' logits, and against itself: the same bits however a prompt is cut.

#[allow(dead_code, reason = "the driver for the naive backend is not used here")]
#[path = "model/golden.rs"]
mod golden;
#[path = "common/naive_backend.rs"]
mod naive_backend;

use std::path::Path;

use golden::{argmax, folder, gguf, golden, relative_error};
use larder::dtype::KvType;
use larder::engine::{Engine, ForwardBatch, Pooling, WANT_LOGITS};
use larder::ids::{SequenceHandle, TokenId};
use larder::options::{AreaMode, Options};

const PROMPT: u32 = 48;

fn options(max_sequence_tokens: u32) -> Options {
    Options {
        n_threads: 2,
        total_tokens: 300,
        max_sequence_tokens,
        max_sequences: 4,
        max_batch_rows: 100,
        max_logits_rows: 100,
        k_type: KvType::F32,
        v_type: KvType::F32,
        ..Options::default()
    }
}

fn engine(path: &Path, max_sequence_tokens: u32) -> Engine {
    Engine::create(path, &options(max_sequence_tokens)).unwrap()
}

/// Appends rows `(sequence, token)` in one pass; the logits of each.
fn forward(engine: &mut Engine, rows: &[(SequenceHandle, u32)]) -> Vec<Vec<f32>> {
    let tokens: Vec<TokenId> = rows.iter().map(|row| TokenId(row.1)).collect();
    let sequences: Vec<SequenceHandle> = rows.iter().map(|row| row.0).collect();
    let vocab_size = engine.vocab_size() as usize;
    let output = engine
        .forward(&ForwardBatch {
            n_rows: rows.len() as u32,
            tokens: Some(&tokens),
            embeddings: None,
            sequences: &sequences,
            wants: Some(&vec![WANT_LOGITS; rows.len()]),
            pooling: Pooling::None,
            normalize: false,
        })
        .unwrap();
    output.logits.chunks_exact(vocab_size).map(<[f32]>::to_vec).collect()
}

fn append(engine: &mut Engine, sequence: SequenceHandle, tokens: &[u32]) -> Vec<Vec<f32>> {
    let rows: Vec<_> = tokens.iter().map(|&token| (sequence, token)).collect();
    forward(engine, &rows)
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}

fn check_reference(path: &Path, name: &str, max_sequence_tokens: u32) {
    let golden = golden(name);
    for (index, tokens) in golden.tokens.iter().enumerate() {
        let theirs = &golden.logits[index * tokens.len()..][..tokens.len()];
        let mut engine = engine(path, max_sequence_tokens);
        let sequence = engine.sequence_open().unwrap();
        let ours = append(&mut engine, sequence, tokens);
        let error = relative_error(&ours, theirs);
        assert!(error <= 1e-3, "{path:?}: relative error {error}");
        for (position, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            assert_eq!(argmax(ours), argmax(theirs), "{path:?}: argmax at {position}");
        }
    }
}

fn check_greedy(path: &Path, name: &str) {
    let golden = golden(name);
    for (tokens, greedy) in golden.tokens.iter().zip(&golden.greedy) {
        let mut engine = engine(path, PROMPT + 16);
        let sequence = engine.sequence_open().unwrap();
        let mut logits = append(&mut engine, sequence, tokens);
        for (step, expected) in greedy.iter().enumerate() {
            let token = argmax(logits.last().unwrap()) as u32;
            assert_eq!(token, *expected, "{path:?}: greedy step {step}");
            logits = append(&mut engine, sequence, &[token]);
        }
    }
}

/// The whole prompt at once gives the same bits as chunks, a fork in the middle, company, other slots, other
/// threads, and other modes of the compute area.
fn check_bits(path: &Path, name: &str) {
    let golden = golden(name);
    let (tokens, others) = (&golden.tokens[0], &golden.tokens[1]);
    let mut engine = engine(path, PROMPT + 16);
    let whole = engine.sequence_open().unwrap();
    let expected = bits(&append(&mut engine, whole, tokens));

    for chunk in [1, 7, 48] {
        let sequence = engine.sequence_open().unwrap();
        let mut rows = Vec::new();
        for tokens in tokens.chunks(chunk) {
            rows.extend(append(&mut engine, sequence, tokens));
        }
        assert_eq!(bits(&rows), expected, "{name}: chunks of {chunk}");
        engine.sequence_release(sequence).unwrap();
    }

    let fork = engine.sequence_fork(whole, 20).unwrap();
    let rows = append(&mut engine, fork, &tokens[20..]);
    assert_eq!(bits(&rows), expected[20..], "{name}: after a fork");
    engine.sequence_release(fork).unwrap();

    let company = engine.sequence_open().unwrap();
    let sequence = engine.sequence_open().unwrap();
    let rows: Vec<_> = others
        .iter()
        .zip(tokens)
        .flat_map(|(&other, &token)| [(company, other), (sequence, token)])
        .collect();
    let rows: Vec<_> = forward(&mut engine, &rows).into_iter().skip(1).step_by(2).collect();
    assert_eq!(bits(&rows), expected, "{name}: in company, row by row");

    for (n_threads, area_mode) in [(1, AreaMode::Short), (3, AreaMode::Long)] {
        let options = Options { n_threads, area_mode, ..options(PROMPT + 16) };
        let mut engine = Engine::create(path, &options).unwrap();
        let sequence = engine.sequence_open().unwrap();
        let rows = append(&mut engine, sequence, tokens);
        assert_eq!(bits(&rows), expected, "{name}: {n_threads} threads, {area_mode:?}");
    }
}

macro_rules! families {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            let path = folder($name);
            check_reference(&path, $name, PROMPT + 16);
            check_greedy(&path, $name);
            check_bits(&path, $name);
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
    check_reference(&folder(name), name, PROMPT);
    check_bits(&folder(name), name);
    let golden = golden(name);
    for (tokens, greedy) in golden.tokens.iter().zip(&golden.greedy) {
        let mut tokens = tokens.clone();
        for expected in greedy {
            let mut engine = engine(&folder(name), tokens.len() as u32);
            let sequence = engine.sequence_open().unwrap();
            let logits = append(&mut engine, sequence, &tokens);
            assert_eq!(argmax(logits.last().unwrap()) as u32, *expected);
            tokens.push(*expected);
        }
    }
}

macro_rules! gguf_files {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            check_reference(&gguf($name), $name, PROMPT + 16);
            check_greedy(&gguf($name), $name);
        })*
    };
}

gguf_files! {
    gguf_llama: "llama",
    gguf_llama3_rope: "llama3-rope",
    gguf_qwen2: "qwen2",
    gguf_qwen3: "qwen3",
    gguf_gemma2: "gemma2",
    gguf_gemma3: "gemma3",
    gguf_phi3: "phi3",
}

/// Sequences that share whole splits of K and V, at every place around their borders, forked from one another, and a
/// stranger: rows in one pass give the same bits as each sequence alone.
#[test]
fn forks_in_one_pass_are_as_alone() {
    for name in ["llama", "mistral-swa", "gemma2"] {
        let longer = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(folder(name)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), longer.path().join(file.file_name())).unwrap();
        }
        let config = longer.path().join("config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        let key = "\"max_position_embeddings\": ";
        assert!(text.contains(&format!("{key}256")), "{text}");
        std::fs::write(&config, text.replace(&format!("{key}256"), &format!("{key}700"))).unwrap();
        for n_threads in [1, 2] {
            check_forks(longer.path(), n_threads);
        }
    }
}

/// Each fork: its parent, the tokens that they share, and its own ones, of which the last ones come in one pass.
const FORKS: [(usize, usize, usize, usize); 6] = [
    (0, 255, 5, 1),
    (0, 256, 3, 1),
    (0, 257, 9, 4),
    (0, 520, 2, 2),
    (4, 515, 20, 7),
    (3, 258, 1, 1),
];

fn check_forks(path: &Path, n_threads: u32) {
    const TRUNK: usize = 530;
    let options = Options { n_threads, total_tokens: 1300, max_sequences: 8, ..options(600) };
    let token = |sequence: usize, position: usize| (sequence * 31 + position * 7) as u32 % 90;
    let mut texts = vec![(0..TRUNK).map(|position| token(0, position)).collect::<Vec<_>>()];
    for (i, (parent, n_shared, n_own, _)) in FORKS.into_iter().enumerate() {
        let own = (n_shared..n_shared + n_own).map(|position| token(i + 1, position));
        texts.push(texts[parent][..n_shared].iter().copied().chain(own).collect());
    }
    let n_last = |i: usize| if i == 0 { 1 } else { FORKS[i - 1].3 };
    let alone: Vec<Vec<Vec<u32>>> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| {
            let mut engine = Engine::create(path, &options).unwrap();
            let sequence = engine.sequence_open().unwrap();
            let rows = text.chunks(90).flat_map(|chunk| append(&mut engine, sequence, chunk));
            bits(&rows.collect::<Vec<_>>())[text.len() - n_last(i)..].to_vec()
        })
        .collect();

    let mut engine = Engine::create(path, &options).unwrap();
    let mut sequences = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let (sequence, from) = match i.checked_sub(1).map(|fork| FORKS[fork]) {
            Some((parent, n_shared, ..)) => {
                let parent = sequences[parent];
                (engine.sequence_fork(parent, n_shared as u64).unwrap(), n_shared)
            }
            None => (engine.sequence_open().unwrap(), 0),
        };
        sequences.push(sequence);
        for chunk in text[from..text.len() - n_last(i)].chunks(90) {
            append(&mut engine, sequence, chunk);
        }
    }
    let rows: Vec<_> = [3, 0, 5, 1, 6, 2, 4]
        .into_iter()
        .flat_map(|i| {
            let last = &texts[i][texts[i].len() - n_last(i)..];
            last.iter().map(|&token| (i, token)).collect::<Vec<_>>()
        })
        .collect();
    let batch: Vec<_> = rows.iter().map(|&(i, token)| (sequences[i], token)).collect();
    let together = bits(&forward(&mut engine, &batch));
    for (i, alone) in alone.iter().enumerate() {
        let ours = rows.iter().zip(&together).filter(|((sequence, _), _)| *sequence == i);
        let ours: Vec<_> = ours.map(|(_, row)| row.clone()).collect();
        assert_eq!(&ours, alone, "{path:?}: sequence {i}, {n_threads} threads");
    }
}
