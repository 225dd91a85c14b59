//! A host with a mock model: its K/V is the token that each slot holds, so a wrong slot, segment or position shows
//! as a wrong history.
#![allow(dead_code)]

use std::sync::Arc;

use larder::backend::ops::{RowInput, SampleResult, SampleRow, Sampling, TokenLogprob};
use larder::ids::{NO_SEGMENT, RequestHandle, TokenId};
use larder::kv::KvRepo;
use larder::serve::{
    Edge, Event, EventKind, Failure, Finish, Limits, Prompt, RequestInput, SAMPLE_TILE, Scheduler,
    StepBatch,
};
use larder::text::{Text, TextSource, TokenizerSource, Vocabulary};

/// What the mock model draws from a history.
pub type Model = fn(&[TokenId], &SampleRow<'_>) -> SampleResult;

pub const LIMITS: Limits = Limits {
    max_requests: 8,
    max_sequences: 4,
    max_sequence_tokens: 64,
    max_batch_rows: 16,
    max_logits_rows: 3,
    vocab_size: 256,
    total_tokens: 128,
    max_token_bytes: 0,
    n_stop_tokens: 1,
};

/// Ends an answer.
pub const STOP: TokenId = TokenId(255);
/// What follows this token is not a number.
pub const POISON: TokenId = TokenId(254);

pub struct Host {
    pub kv: KvRepo,
    pub edge: Arc<Edge>,
    pub scheduler: Scheduler,
    pub batch: StepBatch,
    pub text: Option<Arc<Text>>,
    pub limits: Limits,
    pub model: Model,
    /// The mock's K and V: `[total_tokens]`
    pub stored: Vec<TokenId>,
    pub n_steps: usize,
    pub n_events: usize,
    /// Rows computed so far.
    pub n_rows: usize,
}

impl Host {
    pub fn new(limits: Limits, text: Option<Arc<Text>>, model: Model) -> Host {
        let edge = Edge::new(&limits).unwrap();
        Host {
            kv: KvRepo::new(limits.total_tokens, limits.max_sequences, limits.max_sequence_tokens)
                .unwrap(),
            scheduler: Scheduler::new(&limits, edge.clone(), text.clone(), &[STOP]).unwrap(),
            edge,
            batch: StepBatch::new(&limits).unwrap(),
            text,
            limits,
            model,
            stored: vec![TokenId(u32::MAX); limits.total_tokens as usize],
            n_steps: 0,
            n_events: 0,
            n_rows: 0,
        }
    }

    pub fn submit(&self, input: &RequestInput<'_>) -> larder::error::Result<RequestHandle> {
        self.edge.submit(self.text.as_deref(), input)
    }

    /// One step with room for `capacity` events.
    pub fn step(&mut self, capacity: usize) -> Vec<Told> {
        self.step_with(capacity, |_| ())
    }

    /// One step; `during` is what other threads do while its pass runs.
    pub fn step_with(&mut self, capacity: usize, during: impl FnOnce(&Edge)) -> Vec<Told> {
        self.schedule();
        during(&self.edge);
        match self.scheduler.is_wanted() {
            true => self.finish_pass(),
            false => self.scheduler.abandon(&mut self.kv).unwrap(),
        }
        self.drain(capacity)
    }

    /// The first half of a step.
    pub fn schedule(&mut self) {
        self.n_steps += 1;
        self.scheduler.schedule(&mut self.kv, &mut self.batch).unwrap();
        self.check_batch();
    }

    /// The pass and what comes of it.
    pub fn finish_pass(&mut self) {
        self.n_rows += self.batch.n_rows();
        self.write_slots();
        let n = self.scheduler.n_sample_rows();
        let tile = SAMPLE_TILE.min(self.limits.max_logits_rows as usize);
        for first in (0..n).step_by(tile) {
            let range = first..n.min(first + tile);
            let results = self.draw(range.clone());
            self.scheduler.accept(&mut self.kv, range, &results).unwrap();
        }
        // Both are allowed: to settle at once, and in the next `schedule`.
        if self.n_steps.is_multiple_of(2) {
            self.scheduler.settle(&mut self.kv).unwrap();
        }
    }

    /// The last part of a step.
    pub fn drain(&mut self, capacity: usize) -> Vec<Told> {
        let mut events = vec![Event::default(); capacity];
        let n = self.scheduler.drain(&mut events);
        self.n_events += n;
        self.scheduler.end_step(&self.kv);
        self.check_slots();
        events[..n].iter().map(|event| Told::new(event, self.scheduler.event_text(event))).collect()
    }

    /// Steps until `n_ends` answers have ended.
    pub fn run(&mut self, n_ends: usize, capacity: usize) -> Vec<Told> {
        let mut told: Vec<Told> = Vec::new();
        for _ in 0..10_000 {
            if told.iter().filter(|event| event.is_end()).count() >= n_ends {
                return told;
            }
            told.extend(self.step(capacity));
        }
        panic!("no end after 10,000 steps: {told:?}");
    }

    /// Every slot is free or used, and none is used when nobody is there.
    pub fn check_slots(&self) {
        let stats = self.edge.stats();
        assert_eq!(stats.used_slots + stats.free_slots, stats.total_slots);
        assert_eq!(stats.free_slots as u32, self.kv.free_slots());
        assert!(stats.answers_running <= u64::from(self.kv.n_sequences()));
        if self.kv.n_sequences() == 0 {
            assert_eq!(stats.used_slots, 0);
            assert_eq!(self.kv.empty_slots() + self.kv.tree_slots(), self.limits.total_tokens);
        }
    }

    /// Rows within the limits, in order, each sequence once.
    fn check_batch(&self) {
        let batch = self.batch.view(&self.kv);
        let RowInput::Tokens(tokens) = batch.input else { panic!("tokens are expected") };
        let n = tokens.len();
        assert!(n <= self.limits.max_batch_rows as usize);
        assert_eq!((batch.positions.len(), batch.slots.len(), batch.n_rows), (n, n, n));
        assert_eq!(batch.rows, (0..n as u32).collect::<Vec<_>>());
        assert_eq!(batch.sequences.iter().map(|s| s.n as usize).sum::<usize>(), n);
        assert!(self.batch.logits_rows.is_sorted_by(|a, b| a < b));
        assert_eq!(self.batch.logits_rows.len(), self.scheduler.n_sample_rows());
        for sequence in batch.sequences {
            for i in 0..sequence.n {
                let row = (sequence.first + i) as usize;
                assert_eq!(batch.positions[row], sequence.n_tokens - sequence.n + i);
            }
        }
    }

    fn write_slots(&mut self) {
        for (slot, token) in self.batch.slots.iter().zip(&self.batch.tokens) {
            self.stored[slot.0 as usize] = *token;
        }
    }

    /// The tokens that the row's attention would see.
    fn history(&self, row: u32) -> Vec<TokenId> {
        let is_its =
            |s: &&larder::backend::ops::BatchSequence| (s.first..s.first + s.n).contains(&row);
        let sequence = self.batch.sequences.iter().find(is_its).unwrap();
        let mut tokens = vec![TokenId(u32::MAX); sequence.n_tokens as usize];
        let (mut index, mut end) = (sequence.last_segment, sequence.n_tokens);
        while index != NO_SEGMENT {
            let segment = self.kv.segments()[index as usize];
            for i in 0..end - segment.first_position {
                let slot = segment.start.0 + i;
                tokens[(segment.first_position + i) as usize] = self.stored[slot as usize];
            }
            (index, end) = (segment.parent, segment.first_position);
        }
        tokens.truncate(self.batch.positions[row as usize] as usize + 1);
        tokens
    }

    fn draw(&mut self, range: std::ops::Range<usize>) -> Vec<SampleResult> {
        let rows = &self.batch.logits_rows[range.clone()];
        let histories: Vec<_> = rows.iter().map(|&row| self.history(row)).collect();
        let mut results = Vec::new();
        let rows = self.scheduler.sample_rows(range);
        assert_eq!(rows.len(), histories.len());
        for (row, history) in rows.into_iter().zip(histories) {
            let told: Vec<_> = row.prompt.iter().chain(row.output).copied().collect();
            assert_eq!(history, told, "what is in the slots is prompt and output");
            assert_eq!(row.counter, row.output.len() as u64);
            assert_eq!(row.top.len(), row.sampling.n_logprobs as usize);
            for (i, top) in row.top.iter_mut().enumerate() {
                *top = TokenLogprob { token: TokenId(i as u32), logprob: -(history.len() as f32) };
            }
            results.push((self.model)(&history, &row));
        }
        results
    }
}

/// An event with its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub request: RequestHandle,
    pub user: u64,
    pub answer: u32,
    pub kind: EventKind,
    pub token: Option<TokenId>,
    pub logprob: f32,
    pub top: Vec<TokenLogprob>,
    pub n_prompt_tokens: u32,
    pub n_cached_tokens: u32,
    pub text: String,
}

impl Told {
    fn new(event: &Event, text: &[u8]) -> Told {
        Told {
            request: event.request,
            user: event.user,
            answer: event.answer,
            kind: event.kind,
            token: event.token,
            logprob: event.logprob,
            top: event.top.to_vec(),
            n_prompt_tokens: event.n_prompt_tokens,
            n_cached_tokens: event.n_cached_tokens,
            text: String::from_utf8(text.to_vec()).expect("whole characters"),
        }
    }

    pub fn is_end(&self) -> bool {
        self.kind != EventKind::Token
    }
}

/// Tokens, whole text and end of one answer; its events are in order and nothing follows the end.
pub fn answer(told: &[Told], user: u64, answer: u32) -> (Vec<u32>, String, Option<EventKind>) {
    let (mut tokens, mut text, mut end) = (Vec::new(), String::new(), None);
    for event in told.iter().filter(|event| event.user == user && event.answer == answer) {
        assert_eq!(end, None, "{event:?} follows the end");
        text.push_str(&event.text);
        match event.kind {
            EventKind::Token => tokens.push(event.token.unwrap().0),
            kind => end = Some(kind),
        }
    }
    (tokens, text, end)
}

pub const STOPPED: Option<EventKind> = Some(EventKind::Finished(Finish::Stop));
pub const FULL: Option<EventKind> = Some(EventKind::Finished(Finish::Length));
pub const CANCELLED: Option<EventKind> = Some(EventKind::Finished(Finish::Cancelled));
pub const NON_FINITE: Option<EventKind> = Some(EventKind::Failed(Failure::NonFiniteLogits));
pub const OUT_OF_SLOTS: Option<EventKind> = Some(EventKind::Failed(Failure::OutOfSlots));

pub fn token(id: u32) -> SampleResult {
    SampleResult::Token(TokenLogprob { token: TokenId(id), logprob: -0.5 })
}

/// Draws by a hash of the history, and of seed and counter unless greedy; sometimes the stop token.
pub fn hashed(history: &[TokenId], row: &SampleRow<'_>) -> SampleResult {
    if history.last() == Some(&POISON) {
        return SampleResult::NonFinite;
    }
    let mut hash = history.iter().fold(7, |hash, token| mix(hash ^ u64::from(token.0)));
    if row.sampling.temperature > 0.0 {
        hash = mix(hash ^ mix(row.sampling.seed ^ mix(row.counter)));
    }
    match hash % 100 {
        0 => token(STOP.0),
        1 => token(POISON.0),
        _ => token((hash >> 32) as u32 % 200),
    }
}

/// Like `hashed`, without stop tokens and failures.
pub fn endless(history: &[TokenId], row: &SampleRow<'_>) -> SampleResult {
    match hashed(history, row) {
        SampleResult::Token(drawn) if drawn.token.0 < 200 => token(drawn.token.0),
        _ => token(1),
    }
}

/// splitmix64's finish.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

pub fn ids(tokens: &[u32]) -> Vec<TokenId> {
    tokens.iter().map(|&id| TokenId(id)).collect()
}

/// `n` tokens that differ with `seed`.
pub fn prompt(n: usize, seed: u64) -> Vec<TokenId> {
    (0..n as u64).map(|i| TokenId(mix(seed << 32 ^ i) as u32 % 200)).collect()
}

pub fn request(prompt: &[TokenId], max_new_tokens: u32, user: u64) -> RequestInput<'_> {
    RequestInput { prompt: Prompt::Tokens(prompt), max_new_tokens, user, ..Default::default() }
}

/// What the requests come to when each is alone in a repo with room for all.
pub fn alone(limits: Limits, model: Model, input: &RequestInput<'_>) -> Vec<Told> {
    let max_sequence_tokens = limits.max_sequence_tokens.min(limits.total_tokens);
    let total_tokens = limits.max_sequences * max_sequence_tokens;
    let limits = Limits { max_sequence_tokens, total_tokens, ..limits };
    let mut host = Host::new(limits, None, model);
    host.submit(input).unwrap();
    host.run(input.n_answers.max(1) as usize, 8)
}

pub fn seeded(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, seed, ..Sampling::default() }
}

/// A tokenizer with these tokens as ids 0 ..; `<0xE2>` is a byte. The rest of the 256 are fillers, `STOP` is control.
pub fn text(tokens: &[&str]) -> Arc<Text> {
    let mut all: Vec<String> = tokens.iter().map(|token| token.to_string()).collect();
    all.extend((all.len()..256).map(|id| format!("~{id}~")));
    let kind = |token: &String| if token.starts_with("<0x") { 6 } else { 1 };
    let mut kinds: Vec<i32> = all.iter().map(kind).collect();
    kinds[STOP.0 as usize] = 3;
    let vocabulary = Vocabulary {
        model: "llama",
        tokens: &all,
        scores: Some(&[0.0; 256]),
        kinds: Some(&kinds),
        add_space_prefix: Some(false),
        ..Vocabulary::default()
    };
    let source = TextSource {
        tokenizer: TokenizerSource::Vocabulary(vocabulary),
        bos: None,
        eos: Some(STOP.0),
        stops: vec![STOP.0],
        add_bos: Some(false),
        add_eos: Some(false),
        chat_template: None,
        template_variables: Vec::new(),
        vocab_size: 256,
        max_text_bytes: 0,
    };
    Arc::new(Text::new(&source).unwrap())
}

/// `LIMITS` for a model with this tokenizer.
pub fn with_text(text: &Text) -> Limits {
    Limits { max_token_bytes: larder::serve::max_token_bytes(text), ..LIMITS }
}
