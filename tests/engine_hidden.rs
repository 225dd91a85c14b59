//! Hidden states and given embeddings: what embedding models and encoders in the host need.

use std::path::{Path, PathBuf};

use half::bf16;
use larder::dtype::KvType;
use larder::engine::{Engine, ForwardBatch, Pooling, WANT_HIDDEN, WANT_LOGITS};
use larder::error::Error;
use larder::ids::{SequenceHandle, TokenId};
use larder::options::Options;
use safetensors::SafeTensors;

const TOKENS: [TokenId; 6] =
    [TokenId(9), TokenId(40), TokenId(7), TokenId(99), TokenId(3), TokenId(64)];

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/llama")
}

/// A matrix of the model's file, row after row.
fn matrix(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(model().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = file.tensor(name).unwrap();
    let values = values.data().chunks_exact(2);
    values.map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect()
}

fn engine() -> Engine {
    let options = Options {
        n_threads: 2,
        total_tokens: 100,
        max_sequences: 3,
        max_batch_rows: 12,
        k_type: KvType::F32,
        v_type: KvType::F32,
        ..Options::default()
    };
    Engine::create(&model(), &options).unwrap()
}

fn batch<'a>(sequences: &'a [SequenceHandle], wants: &'a [u8]) -> ForwardBatch<'a> {
    ForwardBatch {
        n_rows: sequences.len() as u32,
        tokens: None,
        embeddings: None,
        sequences,
        wants: Some(wants),
        pooling: Pooling::None,
        normalize: false,
    }
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * (1.0 + b.abs()))
}

#[test]
fn the_head_over_hidden_states_gives_the_logits() {
    let mut engine = engine();
    let (hidden_size, vocab_size) = (engine.hidden_size() as usize, engine.vocab_size() as usize);
    let sequence = engine.sequence_open().unwrap();
    let wants = [0, 3, WANT_HIDDEN, 0, WANT_LOGITS, 3];
    let output = engine
        .forward(&ForwardBatch { tokens: Some(&TOKENS), ..batch(&[sequence; 6], &wants) })
        .unwrap();
    assert_eq!((output.n_logits_rows, output.n_hidden_rows), (3, 3));
    // Rows 1, 2 and 5 have hidden states; rows 1, 4 and 5 logits.
    let head = matrix("lm_head.weight");
    for (hidden_row, logits_row) in [(0, 0), (2, 2)] {
        let hidden = &output.hidden[hidden_row * hidden_size..][..hidden_size];
        let dot = |weights: &[f32]| weights.iter().zip(hidden).map(|(w, x)| w * x).sum::<f32>();
        let ours: Vec<f32> = head.chunks_exact(hidden_size).map(dot).collect();
        assert!(close(&ours, &output.logits[logits_row * vocab_size..][..vocab_size]));
    }
}

#[test]
fn given_embeddings_are_the_tokens_they_stand_for() {
    let mut engine = engine();
    let hidden_size = engine.hidden_size() as usize;
    let table = matrix("model.embed_tokens.weight");
    let row = |token: &TokenId| &table[token.0 as usize * hidden_size..][..hidden_size];
    let embeddings: Vec<f32> = TOKENS.iter().flat_map(row).copied().collect();
    let wants = [WANT_LOGITS; 6];
    let (a, b) = (engine.sequence_open().unwrap(), engine.sequence_open().unwrap());
    let rows = [a; 6];
    let tokens = ForwardBatch { tokens: Some(&TOKENS), ..batch(&rows, &wants) };
    let expected = engine.forward(&tokens).unwrap().logits.to_vec();
    let rows = [b; 6];
    let given = ForwardBatch { embeddings: Some(&embeddings), ..batch(&rows, &wants) };
    assert_eq!(engine.forward(&given).unwrap().logits, expected);

    let mut broken = embeddings;
    broken[2 * hidden_size + 5] = f32::NAN;
    let given = ForwardBatch { embeddings: Some(&broken), ..batch(&rows, &wants) };
    let Err(Error::InvalidArgument(text)) = engine.forward(&given) else { panic!("was taken") };
    assert!(text.contains("[2][5]"), "{text}");
    assert_eq!(engine.sequence_length(b).unwrap(), 6, "nothing was appended");
}

#[test]
fn pooled_states_are_those_of_the_rows() {
    let mut engine = engine();
    let hidden_size = engine.hidden_size() as usize;
    let mut run = |pooling, normalize| {
        let (a, b) = (engine.sequence_open().unwrap(), engine.sequence_open().unwrap());
        // a and b take turns; the first row of b is not wanted.
        let (sequences, wants) = ([a, b, a, b, a, b], [2, 0, 2, 2, 2, 2]);
        let batch =
            ForwardBatch { tokens: Some(&TOKENS), pooling, normalize, ..batch(&sequences, &wants) };
        let output = engine.forward(&batch).unwrap();
        let rows = output.hidden.chunks_exact(hidden_size).map(<[f32]>::to_vec);
        let rows: Vec<Vec<f32>> = rows.collect();
        engine.sequence_release(a).unwrap();
        engine.sequence_release(b).unwrap();
        rows
    };
    let rows = run(Pooling::None, false);
    assert_eq!(rows.len(), 5); // a0, a1, b1, a2, b2
    let mean = |of: &[usize]| -> Vec<f32> {
        let sum = |i: usize| of.iter().map(|&row| rows[row][i]).sum::<f32>();
        (0..hidden_size).map(|i| sum(i) / of.len() as f32).collect()
    };
    let pooled = run(Pooling::Mean, false);
    assert_eq!(pooled.len(), 2);
    assert!(close(&pooled[0], &mean(&[0, 1, 3])) && close(&pooled[1], &mean(&[2, 4])));
    assert_eq!(run(Pooling::Last, false), [rows[3].clone(), rows[4].clone()]);
    for (row, unit) in rows.iter().zip(run(Pooling::None, true)) {
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        let expected: Vec<f32> = row.iter().map(|value| value / length).collect();
        assert!(close(&unit, &expected));
    }
}
