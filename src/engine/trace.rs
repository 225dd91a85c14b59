//! Planning the compute area: the engine's forward pass, run once with the largest batch and no kernel launched.
#![forbid(unsafe_code)]

use super::area_mode::AreaChoice;
use super::numbers::Numbers;
use crate::area::{Area, Plan};
use crate::backend::Backend;
use crate::backend::ops::{
    BatchSequence, BatchView, RowInput, SampleResult, SampleRow, Sampling, TokenLogprob,
};
use crate::error::Result;
use crate::ids::{Segment, Slot, TokenId};
use crate::model::Decoder;
use crate::serve::SAMPLE_TILE;

/// A batch of which only the sizes matter: `n_rows` rows, `rows_each` of each sequence.
pub(super) struct ShapeOnly {
    tokens: Vec<TokenId>,
    slots: Vec<Slot>,
    rows: Vec<u32>,
    sequences: Vec<BatchSequence>,
    segments: [Segment; 1],
}

impl ShapeOnly {
    pub(super) fn new(n_rows: u32, rows_each: u32) -> ShapeOnly {
        let sequence = |i: u32| BatchSequence {
            first: i * rows_each,
            n: rows_each,
            n_tokens: rows_each,
            last_segment: 0,
        };
        ShapeOnly {
            tokens: vec![TokenId::default(); n_rows as usize],
            slots: vec![Slot::default(); n_rows as usize],
            rows: (0..n_rows).collect(),
            sequences: (0..n_rows / rows_each.max(1)).map(sequence).collect(),
            segments: [Segment::default()],
        }
    }

    pub(super) fn view(&self) -> BatchView<'_> {
        BatchView {
            n_rows: self.rows.len(),
            input: RowInput::Tokens(&self.tokens),
            positions: &self.rows,
            slots: &self.slots,
            rows: &self.rows,
            sequences: &self.sequences,
            segments: &self.segments,
        }
    }
}

/// The plan of a forward pass with the most rows of everything. The order of requests is that of
/// [`Core`](super::core::Core): trunk, final norm, logits, one sampled tile.
pub(super) fn trace<B: Backend>(
    backend: &mut B,
    decoder: &Decoder,
    numbers: &Numbers,
    choice: &AreaChoice,
) -> Result<Plan> {
    let n_rows = numbers.max_batch_rows as usize;
    let shape = ShapeOnly::new(numbers.max_batch_rows, numbers.max_batch_rows);
    let (batch, rows) = (shape.view(), &shape.rows);
    let mut area = Area::tracing(backend.alignment());
    let tile_rows = choice.mlp_tile_rows as usize;
    let mut x = decoder.trunk(backend, &mut area, &batch, tile_rows, || false)?;
    area.phase("head");
    backend.final_norm(&mut area, &decoder.final_norm, rows, &mut x)?;
    let vocab_size = decoder.head.weight.n_out;
    let n_logits = (numbers.max_logits_rows as usize).min(n_rows);
    let mut logits = area.take("logits", n_logits * vocab_size as usize * size_of::<f32>());
    backend.head(&mut area, &decoder.head, &rows[..n_logits], &x, &mut logits)?;
    let sampling = Sampling::default();
    let mut tops = [TokenLogprob::default(); SAMPLE_TILE];
    let mut samples: Vec<SampleRow<'_>> = tops[..n_logits.min(SAMPLE_TILE)]
        .chunks_mut(1)
        .map(|top| SampleRow {
            sampling: &sampling,
            prompt: &[],
            output: &[],
            biases: &[],
            mask: None,
            counter: 0,
            top,
            result: SampleResult::None,
        })
        .collect();
    area.phase("sample");
    backend.sample(&mut area, vocab_size, &mut samples, &mut logits)?;
    Ok(area.into_plan())
}
