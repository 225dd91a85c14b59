//! Tiny models with reference logits, and a driver of the forward pass for one sequence.

use std::path::{Path, PathBuf};

use larder::area::Area;
use larder::backend::ops::{BatchSequence, BatchView, RowInput};
use larder::backend::{Backend, Output};
use larder::error::Result;
use larder::format::Checkpoint;
use larder::ids::{NO_SEGMENT, Segment, Slot, TokenId};
use larder::model::{Model, describe};
use safetensors::SafeTensors;

use crate::naive_backend::NaiveBackend;

/// What transformers computed.
pub struct Golden {
    /// Two sequences of 48 tokens.
    pub tokens: Vec<Vec<u32>>,
    /// A row for each token of each sequence.
    pub logits: Vec<Vec<f32>>,
    /// The next 16 tokens of each sequence.
    pub greedy: Vec<Vec<u32>>,
}

/// Folder of a tiny model.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(name)
}

/// A tiny model as GGUF.
pub fn gguf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/gguf/{name}.gguf"))
}

/// The reference of a tiny model.
pub fn golden(name: &str) -> Golden {
    read_golden(&folder(name).join("golden.safetensors"))
}

/// The reference in a file.
pub fn read_golden(path: &Path) -> Golden {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = |name: &str| -> Vec<Vec<u32>> {
        let tensor = file.tensor(name).unwrap();
        let ids = tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()));
        let ids: Vec<u32> = ids.map(|id| id as u32).collect();
        ids.chunks_exact(tensor.shape()[1]).map(<[u32]>::to_vec).collect()
    };
    let logits = file.tensor("logits").unwrap();
    let values = logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    let values: Vec<f32> = values.collect();
    let logits = values.chunks_exact(logits.shape()[2]).map(<[f32]>::to_vec).collect();
    let greedy = if file.tensor("greedy").is_ok() { ids("greedy") } else { Vec::new() };
    Golden { tokens: ids("tokens"), logits, greedy }
}

/// A model on the naive backend, with room for one sequence.
pub struct Runner {
    pub model: Model,
    backend: NaiveBackend,
    area: Area,
    n_tokens: u32,
}

impl Runner {
    /// Opens and loads the model at `path`.
    pub fn open(path: &Path, max_sequence_tokens: u32) -> Result<Runner> {
        let checkpoint = Checkpoint::open(path)?;
        let mut backend = NaiveBackend::default();
        let model = Model::new(describe(&checkpoint)?, &checkpoint, &backend, max_sequence_tokens)?;
        model.load(&checkpoint, &mut backend, 1000, &mut |_, _| true)?;
        let mut runner = Runner { model, backend, area: Area::tracing(64), n_tokens: 0 };
        let n_rows = max_sequence_tokens as usize;
        let empty = BatchView {
            n_rows,
            input: RowInput::Tokens(&[]),
            positions: &[],
            slots: &[],
            rows: &[],
            sequences: &[],
            segments: &[],
        };
        runner.pass(&empty)?;
        let plan = std::mem::replace(&mut runner.area, Area::tracing(64)).into_plan();
        runner.area = Area::planned(&plan);
        runner.backend.set_area_bytes(plan.total_bytes());
        Ok(runner)
    }

    /// Appends `tokens` to the sequence; the logits of each of them.
    pub fn append(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let (before, n) = (self.n_tokens, tokens.len() as u32);
        self.n_tokens += n;
        let ids: Vec<TokenId> = tokens.iter().map(|&id| TokenId(id)).collect();
        let positions: Vec<u32> = (before..before + n).collect();
        let slots: Vec<Slot> = positions.iter().map(|&position| slot(position)).collect();
        let rows: Vec<u32> = (0..n).collect();
        // Runs of two slots that lie backwards: nothing may count on slots that ascend.
        let segments: Vec<Segment> = (0..self.n_tokens.div_ceil(2))
            .map(|run| Segment {
                start: slot(2 * run),
                len: 2.min(self.n_tokens - 2 * run),
                first_position: 2 * run,
                parent: run.checked_sub(1).unwrap_or(NO_SEGMENT),
            })
            .collect();
        let last_segment = segments.len() as u32 - 1;
        let sequence = BatchSequence { first: 0, n, n_tokens: self.n_tokens, last_segment };
        let batch = BatchView {
            n_rows: tokens.len(),
            input: RowInput::Tokens(&ids),
            positions: &positions,
            slots: &slots,
            rows: &rows,
            sequences: &[sequence],
            segments: &segments,
        };
        self.area.begin();
        let logits = self.pass(&batch)?;
        Ok(logits.chunks_exact(self.model.spec.vocab_size as usize).map(<[f32]>::to_vec).collect())
    }

    fn pass(&mut self, batch: &BatchView<'_>) -> Result<Vec<f32>> {
        let Runner { model, backend, area, .. } = self;
        let decoder = &model.decoder;
        let rows: Vec<u32> = (0..batch.n_rows as u32).collect();
        let mut x = decoder.trunk(backend, area, batch, 3, || false)?;
        backend.final_norm(area, &decoder.final_norm, &rows, &mut x)?;
        let bytes = batch.n_rows * model.spec.vocab_size as usize * 4;
        let mut logits = area.take("logits", bytes);
        backend.head(area, &decoder.head, &rows, &x, &mut logits)?;
        let result = match area.is_tracing() {
            true => Vec::new(),
            false => backend.fetched(&logits, bytes / 4, Output::Logits)?.to_vec(),
        };
        area.give(logits);
        area.give(x);
        Ok(result)
    }
}

/// Where the test puts a token.
fn slot(position: u32) -> Slot {
    Slot(1000 - 2 * (position / 2) + position % 2)
}

/// Place of the largest.
pub fn argmax(row: &[f32]) -> usize {
    let larger = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (0..row.len()).fold(0, larger)
}

/// `|a - b| / |b|` over whole rows.
pub fn relative_error(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let pairs = || ours.iter().flatten().zip(theirs.iter().flatten());
    let difference: f64 = pairs().map(|(a, b)| square(a - b)).sum();
    (difference / pairs().map(|(_, b)| square(*b)).sum::<f64>()).sqrt()
}
