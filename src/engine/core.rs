//! An engine over one kind of backend: the run-time half, after everything is reserved.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::batch::HostBatch;
use super::blueprint::Blueprint;
use super::pool::PooledGroup;
use super::trace::ShapeOnly;
use super::{ForwardBatch, Numbers, Pooling};
use crate::area::{self, Area, Region};
use crate::backend::Backend;
use crate::backend::ops::{BatchView, SampleResult};
use crate::error::{Error, Result};
use crate::kv::{KvRepo, OnEvicted};
use crate::model::Decoder;
use crate::options::Options;
use crate::serve::{Edge, Event, SAMPLE_TILE, Scheduler, StepBatch};

/// Backend, decoder and all tables. Nothing here allocates after [`Core::create`].
pub(super) struct Core<B> {
    pub(super) compute: Compute<B>,
    pub(super) kv: KvRepo,
    pub(super) host_batch: HostBatch,
    pub(super) pooled: Vec<PooledGroup>,
    scheduler: Scheduler,
    step_batch: StepBatch,
    edge: Arc<Edge>,
    numbers: Numbers,
}

/// What a forward pass runs on.
pub(super) struct Compute<B> {
    pub(super) backend: B,
    pub(super) decoder: Decoder,
    area: Area,
    mlp_tile_rows: usize,
    /// 0, 1, 2, …: `head` takes all rows that the final norm left.
    all_rows: Vec<u32>,
    logits_tile: usize,
}

/// Bytes of a core and of the tables that [`Core::create`] makes itself.
pub(super) fn table_bytes<B>(numbers: &Numbers, decoder: &Decoder, area: &area::Plan) -> u64 {
    let counted = size_of::<Core<B>>()
        + numbers.max_sequences as usize * size_of::<PooledGroup>()
        + numbers.max_batch_rows as usize * size_of::<u32>()
        + size_of_val(&decoder.layers[..])
        + size_of_val(&decoder.ropes[..]);
    HostBatch::bytes(numbers) + area.bookkeeping_bytes() + counted as u64
}

impl<B: Backend> Core<B> {
    /// Takes the memory that the blueprint tells and loads the weights.
    pub(super) fn create(blueprint: Blueprint<B>, options: &Options) -> Result<Core<B>> {
        let loaded = blueprint.load(options)?;
        let (numbers, limits) = (loaded.numbers, loaded.limits);
        let edge = Edge::new(&limits)?;
        let text = loaded.text;
        let stop_tokens = text.as_ref().map_or(vec![], |text| text.stop_tokens().to_vec());
        let mut core = Core {
            kv: KvRepo::new(
                numbers.total_tokens,
                numbers.max_sequences,
                numbers.max_sequence_tokens,
            )?,
            host_batch: HostBatch::new(&numbers),
            pooled: Vec::with_capacity(numbers.max_sequences as usize),
            scheduler: Scheduler::new(&limits, Arc::clone(&edge), text, &stop_tokens)?,
            step_batch: StepBatch::new(&limits)?,
            compute: Compute {
                backend: loaded.backend,
                decoder: loaded.decoder,
                area: Area::planned(&loaded.area),
                mlp_tile_rows: loaded.mlp_tile_rows as usize,
                all_rows: (0..numbers.max_batch_rows).collect(),
                logits_tile: SAMPLE_TILE.min(numbers.max_logits_rows as usize),
            },
            edge,
            numbers,
        };
        core.kv.on_evicted(OnEvicted(options.hooks.evicted.clone()));
        core.scheduler.end_step(&core.kv);
        core.compute.capture()?;
        Ok(core)
    }

    pub(super) fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    pub(super) fn vocab_size(&self) -> u32 {
        self.compute.decoder.head.weight.n_out
    }

    pub(super) fn hidden_size(&self) -> u32 {
        self.compute.decoder.hidden_size
    }

    /// All rows, or none: an error leaves the sequences as they were. `finish` is told where logits and hidden rows
    /// lie.
    pub(super) fn run<T>(
        &mut self,
        batch: &ForwardBatch<'_>,
        finish: impl FnOnce(&mut Self, Region, Region) -> Result<T>,
    ) -> Result<T> {
        self.check(batch)?;
        self.host_batch.fill(batch, &mut self.kv)?;
        let result = self.pass(batch).and_then(|(logits, x)| finish(self, logits, x));
        if result.is_err() {
            self.host_batch.undo(&mut self.kv);
        }
        result
    }

    /// The whole pass; returns where logits and the wanted rows lie.
    fn pass(&mut self, batch: &ForwardBatch<'_>) -> Result<(Region, Region)> {
        let n_logits = self.host_batch.logits.len();
        if n_logits > self.numbers.max_logits_rows as usize {
            return Err(Error::LimitReached(format!(
                "the batch wants logits of {n_logits} rows, options.max_logits_rows is {}",
                self.numbers.max_logits_rows
            )));
        }
        let view = self.host_batch.view(batch, &self.kv);
        let x = self.compute.trunk(&view, &self.host_batch.wanted, || false)?;
        let logits = self.compute.logits(&x, &self.host_batch.logits)?;
        Ok((logits, x))
    }

    /// Everything about the batch that needs no sequence.
    fn check(&self, batch: &ForwardBatch<'_>) -> Result<()> {
        let n_rows = batch.n_rows as usize;
        let invalid = |text: String| Err(Error::InvalidArgument(text));
        if n_rows == 0 {
            return invalid("batch.n_rows is 0, expected at least one row".into());
        }
        if batch.n_rows > self.numbers.max_batch_rows {
            return Err(Error::LimitReached(format!(
                "batch.n_rows is {n_rows}, options.max_batch_rows is {}",
                self.numbers.max_batch_rows
            )));
        }
        let embeddings_len = n_rows * self.hidden_size() as usize;
        match (batch.tokens, batch.embeddings) {
            (Some(_), Some(_)) => {
                return invalid("batch has tokens and embeddings, expected one of them".into());
            }
            (None, None) => {
                return invalid("batch has neither tokens nor embeddings".into());
            }
            (Some(tokens), None) if tokens.len() != n_rows => {
                return invalid(format!("batch.tokens has {} of {n_rows} rows", tokens.len()));
            }
            (None, Some(embeddings)) if embeddings.len() != embeddings_len => {
                return invalid(format!(
                    "batch.embeddings has {} values, expected {embeddings_len}",
                    embeddings.len()
                ));
            }
            _ => {}
        }
        let embeddings = batch.embeddings.unwrap_or(&[]);
        if let Some(place) = embeddings.iter().position(|value| !value.is_finite()) {
            let (row, column) =
                (place / self.hidden_size() as usize, place % self.hidden_size() as usize);
            return invalid(format!(
                "batch.embeddings[{row}][{column}] is {}, expected a finite number",
                embeddings[place]
            ));
        }
        let vocab_size = self.compute.decoder.embedding.table.n_out;
        let tokens = batch.tokens.unwrap_or(&[]);
        if let Some(row) = tokens.iter().position(|token| token.0 >= vocab_size) {
            return invalid(format!(
                "batch.tokens[{row}] is {}, the vocabulary has {vocab_size} tokens",
                tokens[row].0
            ));
        }
        if batch.sequences.len() != n_rows {
            return invalid(format!(
                "batch.sequences has {} of {n_rows} rows",
                batch.sequences.len()
            ));
        }
        match batch.wants {
            Some(wants) if wants.len() != n_rows => {
                invalid(format!("batch.wants has {} of {n_rows} rows", wants.len()))
            }
            _ if batch.pooling == Pooling::None || batch.wants.is_some() => Ok(()),
            _ => invalid("batch.pooling is set, but batch.wants asks for no hidden state".into()),
        }
    }

    /// See [`Engine::step`](super::Engine::step).
    pub(super) fn step(&mut self, events: &mut [Event]) -> Result<usize> {
        let result = match self.scheduler.schedule(&mut self.kv, &mut self.step_batch) {
            Ok(()) if self.step_batch.n_rows() > 0 => self.compute_step(),
            scheduled => scheduled,
        };
        if result.is_err() {
            self.scheduler.fail_all(&mut self.kv)?;
        }
        let n_events = if result.is_ok() { self.scheduler.drain(events) } else { 0 };
        self.scheduler.end_step(&self.kv);
        result.map(|()| n_events)
    }

    /// See [`Engine::event_text`](super::Engine::event_text).
    pub(super) fn event_text(&self, event: &Event) -> &[u8] {
        self.scheduler.event_text(event)
    }

    /// One forward pass over the scheduled rows, and a token for each row that wants one, tile by tile: no tensor
    /// of all rows × vocabulary exists.
    fn compute_step(&mut self) -> Result<()> {
        let Core { compute, scheduler, kv, step_batch, .. } = self;
        let view = step_batch.view(kv);
        let x = compute.trunk(&view, &step_batch.logits_rows, || !scheduler.is_wanted());
        scheduler.end_forward();
        let x = match x {
            Err(Error::Cancelled(_)) => return scheduler.abandon(kv),
            x => x?,
        };
        let n_rows = scheduler.n_sample_rows();
        let before = compute.area.mark();
        for first in (0..n_rows).step_by(compute.logits_tile) {
            let range = first..n_rows.min(first + compute.logits_tile);
            compute.area.rewind(before);
            let results = compute.sample(scheduler, &x, range.clone())?;
            scheduler.accept(kv, range.clone(), &results[..range.len()])?;
        }
        scheduler.settle(kv)
    }
}

impl<B: Backend> Compute<B> {
    /// Lets the backend record the passes that it wants to.
    fn capture(&mut self) -> Result<()> {
        for n_rows in self.backend.capture_rows() {
            let rows: Vec<u32> = (0..n_rows).collect();
            self.area.begin();
            self.backend.begin_capture(n_rows)?;
            let Compute { backend, decoder, area, .. } = self;
            let shape = ShapeOnly::new(n_rows, 1);
            let view = shape.view();
            let mut x = decoder.trunk(backend, area, &view, self.mlp_tile_rows, || false)?;
            self.backend.final_norm(&mut self.area, &self.decoder.final_norm, &rows, &mut x)?;
            self.backend.end_capture()?;
        }
        Ok(())
    }

    /// All layers and the final norm of `wanted` rows, which are then the first of the region.
    /// `Cancelled` when it should stop.
    fn trunk(
        &mut self,
        batch: &BatchView<'_>,
        wanted: &[u32],
        should_stop: impl Fn() -> bool,
    ) -> Result<Region> {
        let Compute { backend, decoder, area, .. } = self;
        area.begin();
        backend.begin(batch, wanted)?;
        let mut x = decoder.trunk(backend, area, batch, self.mlp_tile_rows, should_stop)?;
        backend.final_norm(area, &decoder.final_norm, wanted, &mut x)?;
        Ok(x)
    }

    /// Logits of the rows `rows` of the normed `x`.
    fn logits(&mut self, x: &Region, rows: &[u32]) -> Result<Region> {
        let Compute { backend, decoder, area, .. } = self;
        let row_bytes = decoder.head.weight.n_out as usize * size_of::<f32>();
        let mut logits = area.take("logits", rows.len() * row_bytes);
        backend.head(area, &decoder.head, rows, x, &mut logits)?;
        Ok(logits)
    }

    /// One token for each of the scheduler's sample rows `range`.
    fn sample(
        &mut self,
        scheduler: &mut Scheduler,
        x: &Region,
        range: std::ops::Range<usize>,
    ) -> Result<[SampleResult; SAMPLE_TILE]> {
        let mut logits = self.take_logits(x, range.clone())?;
        let vocab_size = self.decoder.head.weight.n_out;
        let mut rows = scheduler.sample_rows(range);
        self.backend.sample(&mut self.area, vocab_size, &mut rows, &mut logits)?;
        let mut results = [SampleResult::None; SAMPLE_TILE];
        for (result, row) in results.iter_mut().zip(&rows) {
            *result = row.result;
        }
        drop(rows);
        self.area.give(logits);
        Ok(results)
    }

    fn take_logits(&mut self, x: &Region, range: std::ops::Range<usize>) -> Result<Region> {
        let rows = std::mem::take(&mut self.all_rows);
        let logits = self.logits(x, &rows[range]);
        self.all_rows = rows;
        logits
    }
}
