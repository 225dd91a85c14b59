//! What the engine's tests on the stand-in for a CUDA device share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use larder::dtype::KvType;
use larder::engine::{Engine, ForwardBatch, Pooling, WANT_LOGITS};
use larder::error::Result;
use larder::ids::{SequenceHandle, TokenId};
use larder::options::{Device, Options};

/// Tokens of each sequence of a reference.
pub const PROMPT: u32 = 48;

/// A device with room for both sequences of a reference at once, and for forks.
pub fn options(kv_type: KvType) -> Options {
    Options {
        device: Device::Cuda { index: 0 },
        n_threads: 1,
        total_tokens: 300,
        max_sequence_tokens: PROMPT + 16,
        max_sequences: 4,
        max_batch_rows: 100,
        max_logits_rows: 100,
        k_type: kv_type,
        v_type: kv_type,
        ..Options::default()
    }
}

/// Appends rows `(sequence, token)` in one pass; the logits of those that are wanted.
pub fn try_forward(
    engine: &mut Engine,
    rows: &[(SequenceHandle, u32)],
    wants: &[u8],
) -> Result<Vec<Vec<f32>>> {
    let tokens: Vec<TokenId> = rows.iter().map(|row| TokenId(row.1)).collect();
    let sequences: Vec<SequenceHandle> = rows.iter().map(|row| row.0).collect();
    let vocab_size = engine.vocab_size() as usize;
    let output = engine.forward(&ForwardBatch {
        n_rows: rows.len() as u32,
        tokens: Some(&tokens),
        embeddings: None,
        sequences: &sequences,
        wants: Some(wants),
        pooling: Pooling::None,
        normalize: false,
    })?;
    Ok(output.logits.chunks_exact(vocab_size).map(<[f32]>::to_vec).collect())
}

/// As [`try_forward`], with the logits of all rows.
pub fn forward(engine: &mut Engine, rows: &[(SequenceHandle, u32)]) -> Vec<Vec<f32>> {
    try_forward(engine, rows, &vec![WANT_LOGITS; rows.len()]).unwrap()
}

/// Appends `tokens` in one pass; the logits of each.
pub fn append(engine: &mut Engine, sequence: SequenceHandle, tokens: &[u32]) -> Vec<Vec<f32>> {
    let rows: Vec<_> = tokens.iter().map(|&token| (sequence, token)).collect();
    forward(engine, &rows)
}

pub fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}
