//! A host whose model costs nothing: an answer's length is its request's seed, which the scheduler does not look at.

use std::sync::Arc;

use larder::backend::ops::{SampleResult, SampleRow, Sampling, TokenLogprob};
use larder::error::Result;
use larder::ids::{RequestHandle, TokenId};
use larder::kv::KvRepo;
use larder::serve::{
    Edge, Event, Limits, Prompt, RequestInput, SAMPLE_TILE, Scheduler, Stats, StepBatch,
};
use larder::text::Text;

/// Ends an answer.
const STOP: TokenId = TokenId(2);
/// Everything else that is drawn.
const WORD: TokenId = TokenId(100);

/// A request whose answer has a known length.
#[derive(Debug, Clone)]
pub struct Job {
    pub prompt: Vec<TokenId>,
    /// Tokens of the answer, its stop token not counted.
    pub n_new: u32,
    pub max_new: u32,
    /// What the scheduler is told to expect; 0: nothing.
    pub hint: u32,
}

pub struct Host {
    pub kv: KvRepo,
    pub edge: Arc<Edge>,
    pub events: Vec<Event>,
    scheduler: Scheduler,
    batch: StepBatch,
    text: Option<Arc<Text>>,
    tile: usize,
}

impl Host {
    pub fn new(limits: &Limits, text: Option<Arc<Text>>) -> Result<Host> {
        let edge = Edge::new(limits)?;
        let (total, sequences) = (limits.total_tokens, limits.max_sequences);
        Ok(Host {
            kv: KvRepo::new(total, sequences, limits.max_sequence_tokens)?,
            scheduler: Scheduler::new(limits, Arc::clone(&edge), text.clone(), &[STOP])?,
            batch: StepBatch::new(limits)?,
            edge,
            events: vec![Event::default(); 4 * sequences as usize],
            text,
            tile: SAMPLE_TILE.min(limits.max_logits_rows as usize),
        })
    }

    pub fn submit(&self, job: &Job, user: u64) -> Result<RequestHandle> {
        let input = RequestInput {
            prompt: Prompt::Tokens(&job.prompt),
            max_new_tokens: job.max_new,
            user,
            expected_new_tokens: job.hint,
            sampling: Sampling { seed: u64::from(job.n_new), ..Sampling::default() },
            ..RequestInput::default()
        };
        self.edge.submit(self.text.as_deref(), &input)
    }

    /// A step without its forward pass; the numbers of rows and of events.
    pub fn step(&mut self) -> Result<(usize, usize)> {
        self.scheduler.schedule(&mut self.kv, &mut self.batch)?;
        self.scheduler.end_forward();
        let n = self.scheduler.n_sample_rows();
        for first in (0..n).step_by(self.tile) {
            let range = first..n.min(first + self.tile);
            let mut results = [SampleResult::None; SAMPLE_TILE];
            let rows = self.scheduler.sample_rows(range.clone());
            results.iter_mut().zip(&rows).for_each(|(result, row)| *result = draw(row));
            drop(rows);
            self.scheduler.accept(&mut self.kv, range.clone(), &results[..range.len()])?;
        }
        self.scheduler.settle(&mut self.kv)?;
        let n_events = self.scheduler.drain(&mut self.events);
        self.scheduler.end_step(&self.kv);
        Ok((self.batch.n_rows(), n_events))
    }

    pub fn stats(&self) -> Stats {
        self.edge.stats()
    }
}

fn draw(row: &SampleRow<'_>) -> SampleResult {
    let is_last = row.output.len() as u64 >= row.sampling.seed;
    let token = if is_last { STOP } else { WORD };
    SampleResult::Token(TokenLogprob { token, logprob: 0.0 })
}

/// splitmix64, and the distributions made of it.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Between 0 and 1, never one of them.
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    /// With this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }

    /// Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.unit()).cos()
    }

    pub fn log_normal(&mut self, median: f64, spread: f64) -> f64 {
        median * (spread * self.normal()).exp()
    }

    /// `n` tokens that nobody else has.
    pub fn tokens(&mut self, n: u32, vocab_size: u32) -> Vec<TokenId> {
        (0..n).map(|_| TokenId(3 + (self.next() >> 32) as u32 % (vocab_size - 3))).collect()
    }
}
