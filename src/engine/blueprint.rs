//! Everything about an engine that can be known before any memory is taken: a pure function of headers and options.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use super::area_mode::{self, AreaChoice};
use super::core::table_bytes;
use super::numbers::{MAX_TOTAL_TOKENS, Numbers};
use super::{Memory, text_source, trace};
use crate::area;
use crate::backend::block::available_bytes;
use crate::backend::ops::{AttendOp, KvLayout};
use crate::backend::{Backend, BlockSizes, PassLimits, Startup};
use crate::error::{Error, Result};
use crate::format::Checkpoint;
use crate::kv::KvRepo;
use crate::model::{self, Decoder, DecoderSpec, Model};
use crate::options::Options;
use crate::serve;
use crate::text::Text;

/// Bytes through which weights pass on their way from file to weights block.
const STAGING_BYTES: usize = 4 << 20;

/// A planned engine: `load` turns it into a real one.
pub(super) struct Blueprint<B> {
    checkpoint: Checkpoint,
    backend: B,
    model: Model,
    pub(super) text: Option<Arc<Text>>,
    kv: KvLayout,
    pub(super) area: area::Plan,
    choice: AreaChoice,
    numbers: Numbers,
    limits: serve::Limits,
    pub(super) memory: Memory,
    pub(super) description: Box<str>,
}

/// What remains of a blueprint once weights are loaded and memory is taken.
pub(super) struct Loaded<B> {
    pub(super) backend: B,
    pub(super) decoder: Decoder,
    pub(super) area: area::Plan,
    pub(super) text: Option<Arc<Text>>,
    pub(super) numbers: Numbers,
    pub(super) limits: serve::Limits,
    pub(super) mlp_tile_rows: u32,
}

impl<B: Backend> Blueprint<B> {
    /// Reads the headers at `path` and decides every size.
    pub(super) fn draw(path: &Path, options: &Options, mut backend: B) -> Result<Blueprint<B>> {
        let mut checkpoint = Checkpoint::open(path)?;
        let description = model::describe(&checkpoint)?;
        let spec = &description.spec;
        let choice = area_mode::choose(options, widest_mlp(spec), backend.is_device());
        let numbers = Numbers::new(options, spec.context_length, choice.default_rows)?;
        let text = text_source::open_text(&checkpoint, spec.vocab_size)?.map(Arc::new);
        checkpoint.forget_texts();
        let mut kv = KvLayout {
            k_type: options.k_type,
            v_type: options.v_type,
            total_tokens: 0,
            layers: spec.layers.iter().map(|layer| layer.attention.heads).collect(),
        };
        let model = Model::new(description, &checkpoint, &backend, numbers.max_sequence_tokens)?;
        let attention: Vec<AttendOp> =
            model.decoder.layers.iter().map(|layer| layer.attend).collect();
        let most = numbers.with_total(options.total_tokens.max(numbers.default_total()));
        backend.prepare(&pass_limits(&most, &model.decoder), &kv, &attention)?;
        let area = trace::trace(&mut backend, &model.decoder, &numbers, &choice)?;
        let sizer = Sizer {
            options,
            numbers,
            backend: &backend,
            model: &model,
            area: &area,
            kv: &kv,
            load_bytes: checkpoint.tensor_list_bytes() + model.staging_bytes(STAGING_BYTES) as u64,
            text: text.as_deref(),
            choice,
        };
        let numbers = numbers.with_total(sizer.total_tokens()?);
        let memory = sizer.memory(&numbers);
        sizer.check_limit(&memory)?;
        let description = sizer.describe(&numbers).into_boxed_str();
        let limits = sizer.limits(&numbers);
        kv.total_tokens = u64::from(numbers.total_tokens);
        Ok(Blueprint {
            checkpoint,
            backend,
            model,
            text,
            kv,
            area,
            choice,
            numbers,
            limits,
            memory,
            description,
        })
    }

    /// The bytes, and who lies where in the compute area.
    pub(super) fn into_plan(self) -> (Memory, area::Plan) {
        (self.memory, self.area)
    }

    /// Takes the blocks and reads the weights.
    pub(super) fn load(mut self, options: &Options) -> Result<Loaded<B>> {
        if self.checkpoint.outline().is_some() {
            return Err(Error::InvalidArgument(
                "the model is a configuration without weights: it can be planned, not created"
                    .into(),
            ));
        }
        let needed = self.memory.load_peak_bytes - self.memory.device_bytes;
        if let Some(available) = available_bytes()
            && needed > available
        {
            return Err(Error::OutOfMemory(format!(
                "the engine needs {needed} bytes of the host's memory, which has {available} left; \
                 lower total_tokens ({}) or set memory_limit_bytes to {available}",
                self.memory.total_tokens
            )));
        }
        let limits = pass_limits(&self.numbers, &self.model.decoder);
        let sizes = BlockSizes {
            weights_bytes: self.memory.weights_bytes,
            kv_repo_bytes: self.memory.kv_repo_bytes,
            compute_area_bytes: self.memory.compute_area_bytes,
            tables_bytes: self.backend.tables_bytes(&limits),
            pinned_bytes: self.backend.pinned_bytes(&limits),
        };
        self.backend.reserve(Startup(()), sizes, &limits, &self.kv, &options.hooks)?;
        let mut progress =
            |done, total| options.hooks.progress.as_ref().is_none_or(|report| report(done, total));
        self.model.load(&self.checkpoint, &mut self.backend, STAGING_BYTES, &mut progress)?;
        Ok(Loaded {
            backend: self.backend,
            decoder: self.model.decoder,
            area: self.area,
            text: self.text,
            numbers: self.numbers,
            limits: self.limits,
            mlp_tile_rows: self.choice.mlp_tile_rows,
        })
    }
}

/// Bytes as a function of the number of token slots.
struct Sizer<'a, B> {
    options: &'a Options,
    backend: &'a B,
    model: &'a Model,
    area: &'a area::Plan,
    kv: &'a KvLayout,
    numbers: Numbers,
    /// What create needs beside what stays: the list of tensors and the staging buffer.
    load_bytes: u64,
    text: Option<&'a Text>,
    choice: AreaChoice,
}

impl<B: Backend> Sizer<'_, B> {
    /// The option; or what the memory limit leaves; or enough for all sequences.
    fn total_tokens(&self) -> Result<u64> {
        let limit = self.options.memory_limit_bytes;
        if self.options.total_tokens > 0 {
            return Ok(self.options.total_tokens);
        }
        if limit == 0 {
            return Ok(self.numbers.default_total());
        }
        let fits = |total| self.memory(&self.numbers.with_total(total)).load_peak_bytes <= limit;
        if !fits(1) {
            let needed = self.memory(&self.numbers.with_total(1)).load_peak_bytes;
            return Err(Error::OutOfMemory(format!(
                "options.memory_limit_bytes is {limit}, but {needed} are needed for one token \
                 slot; raise it, or lower max_batch_rows, max_logits_rows or max_requests"
            )));
        }
        let (mut low, mut high) = (1, MAX_TOTAL_TOKENS);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        Ok(low)
    }

    fn memory(&self, numbers: &Numbers) -> Memory {
        let total_tokens = u64::from(numbers.total_tokens);
        let limits = pass_limits(numbers, &self.model.decoder);
        let weights_bytes = self.model.weights_bytes;
        let tables_bytes = self.backend.tables_bytes(&limits);
        let compute_area_bytes = self.area.total_bytes().saturating_add(tables_bytes);
        let kv_repo_bytes = self.kv.token_bytes() * (total_tokens + 1);
        let bookkeeping_bytes = self.bookkeeping_bytes(numbers);
        let blocks_bytes = weights_bytes + kv_repo_bytes + compute_area_bytes;
        let device_bytes = if self.backend.is_device() { blocks_bytes } else { 0 };
        let host_bytes = blocks_bytes - device_bytes + bookkeeping_bytes;
        Memory {
            area_mode: self.choice.mode,
            area_reason: self.choice.reason,
            weights_bytes,
            kv_repo_bytes,
            compute_area_bytes,
            bookkeeping_bytes,
            host_bytes,
            device_bytes,
            load_peak_bytes: host_bytes + device_bytes + self.load_bytes,
            total_tokens,
            token_slot_bytes: self.kv.token_bytes(),
            max_sequence_tokens: numbers.max_sequence_tokens,
            max_sequences: numbers.max_sequences,
            max_requests: numbers.max_requests,
            max_batch_rows: numbers.max_batch_rows,
            max_logits_rows: numbers.max_logits_rows,
        }
    }

    fn bookkeeping_bytes(&self, numbers: &Numbers) -> u64 {
        let limits = pass_limits(numbers, &self.model.decoder);
        KvRepo::bookkeeping_bytes(numbers.total_tokens, numbers.max_sequences)
            + serve::bookkeeping_bytes(&self.limits(numbers))
            + table_bytes::<B>(numbers, &self.model.decoder, self.area)
            + self.backend.bookkeeping_bytes(&limits, self.kv)
            + self.backend.pinned_bytes(&limits)
            + self.describe(numbers).len() as u64
            + self.text.map_or(0, Text::heap_bytes)
    }

    fn limits(&self, numbers: &Numbers) -> serve::Limits {
        serve::Limits {
            max_requests: numbers.max_requests,
            max_sequences: numbers.max_sequences,
            max_sequence_tokens: numbers.max_sequence_tokens,
            max_batch_rows: numbers.max_batch_rows,
            max_logits_rows: numbers.max_logits_rows,
            vocab_size: self.model.spec.vocab_size,
            total_tokens: numbers.total_tokens,
            max_token_bytes: self.text.map_or(0, serve::max_token_bytes),
            n_stop_tokens: self.text.map_or(0, |text| text.stop_tokens().len() as u32),
        }
    }

    /// A few lines for people.
    fn describe(&self, numbers: &Numbers) -> String {
        let spec = &self.model.spec;
        let windows: Vec<String> = spec
            .layers
            .iter()
            .map(|layer| layer.attention.window.map_or("-".into(), |window| window.to_string()))
            .collect();
        format!(
            "family {}, {} layers, hidden size {}, vocabulary {}, context {} tokens\n\
             attention window by layer (- is none): {}\n\
             {} token slots of {} bytes, at most {} tokens a sequence\n\
             compute area {:?}: {}\n{}",
            spec.family,
            spec.layers.len(),
            spec.hidden_size,
            spec.vocab_size,
            spec.context_length,
            windows.join(" "),
            numbers.total_tokens,
            self.kv.token_bytes(),
            numbers.max_sequence_tokens,
            self.choice.mode,
            self.choice.reason,
            self.backend.describe(),
        )
    }

    fn check_limit(&self, memory: &Memory) -> Result<()> {
        let limit = self.options.memory_limit_bytes;
        if limit == 0 || memory.load_peak_bytes <= limit {
            return Ok(());
        }
        Err(Error::OutOfMemory(format!(
            "create needs {} bytes (weights {}, KV repo {}, compute area {}, bookkeeping {}), \
             options.memory_limit_bytes is {limit}; raise it to that, or set total_tokens to 0 to \
             have what fits",
            memory.load_peak_bytes,
            memory.weights_bytes,
            memory.kv_repo_bytes,
            memory.compute_area_bytes,
            memory.bookkeeping_bytes
        )))
    }
}

/// The most that a pass of the engine may have.
fn pass_limits(numbers: &Numbers, decoder: &Decoder) -> PassLimits {
    PassLimits {
        n_rows: numbers.max_batch_rows,
        n_sequences: numbers.max_sequences,
        n_logits_rows: numbers.max_logits_rows.min(numbers.max_batch_rows),
        sequence_tokens: numbers.max_sequence_tokens,
        total_tokens: numbers.total_tokens,
        hidden_size: decoder.hidden_size,
        vocab_size: decoder.head.weight.n_out,
    }
}

/// Columns of the widest MLP.
fn widest_mlp(spec: &DecoderSpec) -> u32 {
    spec.layers.iter().map(|layer| layer.mlp.intermediate_size).max().unwrap_or(0)
}
