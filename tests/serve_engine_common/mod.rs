//! Requests on a real engine, and what each answers when it is alone.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use larder::backend::ops::Sampling;
use larder::engine::{Engine, ForwardBatch, Pooling};
use larder::error::{Error, Result};
use larder::ids::{RequestHandle, SequenceHandle, TokenId};
use larder::options::Options;
use larder::serve::{Edge, Event, EventKind, Finish, Prompt, RequestInput, Stats};
use larder::text::Text;

pub const FULL: Option<EventKind> = Some(EventKind::Finished(Finish::Length));
pub const STOPPED: Option<EventKind> = Some(EventKind::Finished(Finish::Stop));
pub const CANCELLED: Option<EventKind> = Some(EventKind::Finished(Finish::Cancelled));

/// A tiny model with a tokenizer: 269 tokens, at most 512 in a sequence.
pub fn chat_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chat")
}

/// SmolLM2, when it is there.
pub fn smollm2() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = folder.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.exists() {
        eprintln!("skipped: {} is not there; `make model` fetches it", path.display());
        return None;
    }
    Some(path)
}

/// An engine that any request of these tests fits into several times.
pub fn ample() -> Options {
    Options {
        n_threads: 1,
        total_tokens: 2048,
        max_sequences: 4,
        max_requests: 4,
        max_batch_rows: 64,
        ..Options::default()
    }
}

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// `0 .. n`
    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 32) % n as u64) as usize
    }

    /// `n` of the tokens `3 .. vocab_size`.
    pub fn tokens(&mut self, n: usize, vocab_size: usize) -> Vec<TokenId> {
        (0..n).map(|_| TokenId(3 + self.below(vocab_size - 3) as u32)).collect()
    }
}

/// A request as a test keeps it.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub prompt: Vec<TokenId>,
    pub max_new: u32,
    pub n_answers: u32,
    pub sampling: Sampling,
    pub stops: Vec<String>,
    /// What admission is told to expect. Too little, and answers are paused later.
    pub hint: u32,
}

impl Wanted {
    pub fn greedy(prompt: &[TokenId], max_new: u32) -> Wanted {
        Wanted { prompt: prompt.to_vec(), max_new, n_answers: 1, ..Wanted::default() }
    }

    pub fn seeded(prompt: &[TokenId], max_new: u32, seed: u64) -> Wanted {
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
        Wanted { sampling, ..Wanted::greedy(prompt, max_new) }
    }

    /// Slots that it needs at most, all answers together.
    pub fn max_slots(&self) -> u64 {
        self.prompt.len() as u64 + u64::from(self.n_answers) * u64::from(self.max_new)
    }

    /// Submits it; `adjust` may set what is not kept here.
    pub fn submit_as(
        &self,
        port: &Port,
        user: u64,
        adjust: impl FnOnce(RequestInput<'_>) -> RequestInput<'_>,
    ) -> Result<RequestHandle> {
        let stops: Vec<&str> = self.stops.iter().map(String::as_str).collect();
        let input = RequestInput {
            prompt: Prompt::Tokens(&self.prompt),
            max_new_tokens: self.max_new,
            expected_new_tokens: self.hint,
            n_answers: self.n_answers,
            user,
            stops: &stops,
            sampling: self.sampling,
            ..RequestInput::default()
        };
        port.edge.submit(port.text.as_deref(), &adjust(input))
    }

    pub fn submit(&self, port: &Port, user: u64) -> Result<RequestHandle> {
        self.submit_as(port, user, |input| input)
    }

    /// Its answers on an engine of its own.
    pub fn alone(&self, model: &Path) -> Vec<Answer> {
        self.alone_with(model, &ample())
    }

    pub fn alone_with(&self, model: &Path, options: &Options) -> Vec<Answer> {
        self.alone_on(&mut Server::new(model, options))
    }

    /// Its answers on an engine that has nothing else to do and nothing cached.
    pub fn alone_on(&self, server: &mut Server) -> Vec<Answer> {
        server.forget();
        self.submit(&server.port, 0).unwrap();
        server.run(self.n_answers as usize, 64);
        (0..self.n_answers).map(|number| server.answer(0, number)).collect()
    }
}

/// What any thread needs to submit and cancel.
#[derive(Clone)]
pub struct Port {
    pub edge: Arc<Edge>,
    pub text: Option<Arc<Text>>,
}

impl Port {
    /// Submits, again and again as long as all places are taken.
    pub fn submit_when_possible(&self, wanted: &Wanted, user: u64) -> RequestHandle {
        loop {
            match wanted.submit(self, user) {
                Ok(handle) => return handle,
                Err(Error::LimitReached(_)) => std::thread::sleep(Duration::from_micros(50)),
                Err(error) => panic!("request {user} was refused: {error}"),
            }
        }
    }
}

/// All that was told of one answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Each token with the bits of its log probability.
    pub tokens: Vec<(u32, u32)>,
    /// The same of the most probable ones beside it.
    pub tops: Vec<(u32, u32)>,
    pub pieces: Vec<String>,
    pub end: Option<EventKind>,
    pub n_prompt_tokens: u32,
    /// The same answer may find more or less in the cache.
    pub n_cached_tokens: u32,
}

impl Answer {
    pub fn text(&self) -> String {
        self.pieces.concat()
    }

    /// Fails unless this is `alone`, but for what was cached.
    pub fn assert_is(&self, alone: &Answer, what: &str) {
        let same_cache = Answer { n_cached_tokens: alone.n_cached_tokens, ..self.clone() };
        assert_eq!(&same_cache, alone, "{what}");
    }

    /// Fails unless this is `alone`, or a beginning of it when it was cancelled.
    pub fn assert_begins(&self, alone: &Answer, what: &str) {
        if self.end != CANCELLED {
            return self.assert_is(alone, what);
        }
        let n = self.tokens.len();
        assert_eq!(self.tokens, alone.tokens[..n.min(alone.tokens.len())], "{what}");
    }
}

/// An engine and what it has told.
pub struct Server {
    pub engine: Engine,
    pub port: Port,
    answers: BTreeMap<(u64, u32), Answer>,
    pub n_ended: usize,
    pub n_steps: usize,
    /// Steps in a row that told nothing.
    n_silent: usize,
}

impl Server {
    pub fn new(model: &Path, options: &Options) -> Server {
        let engine = Engine::create(model, options).unwrap();
        let port = Port { edge: Arc::clone(engine.edge()), text: engine.text().cloned() };
        let answers = BTreeMap::new();
        Server { engine, port, answers, n_ended: 0, n_steps: 0, n_silent: 0 }
    }

    /// One step with room for `capacity` events; how many came.
    pub fn step(&mut self, capacity: usize) -> usize {
        let mut events = vec![Event::default(); capacity];
        let n = self.engine.step(&mut events).unwrap();
        self.n_steps += 1;
        self.n_silent = if n == 0 { self.n_silent + 1 } else { 0 };
        assert!(self.n_silent < 5_000 || capacity == 0, "5,000 steps and no event: {self:?}");
        for event in &events[..n] {
            self.note(event);
        }
        n
    }

    /// Steps until `n_ended` answers have ended.
    pub fn run(&mut self, n_ended: usize, capacity: usize) {
        while self.n_ended < n_ended {
            if self.step(capacity) == 0 {
                self.port.edge.wait(Duration::from_millis(1));
            }
        }
    }

    fn note(&mut self, event: &Event) {
        let text = self.engine.event_text(event).to_vec();
        let answer = self.answers.entry((event.user, event.answer)).or_default();
        assert_eq!(answer.end, None, "{event:?} follows the end");
        answer.pieces.push(String::from_utf8(text).expect("whole characters"));
        answer.n_prompt_tokens = event.n_prompt_tokens;
        answer.n_cached_tokens = event.n_cached_tokens;
        answer.tops.extend(event.top.iter().map(|top| (top.token.0, top.logprob.to_bits())));
        match (event.kind, event.token) {
            (EventKind::Token, Some(token)) => {
                answer.tokens.push((token.0, event.logprob.to_bits()));
            }
            (EventKind::Token, None) => panic!("no token: {event:?}"),
            (kind, _) => {
                answer.end = Some(kind);
                self.n_ended += 1;
            }
        }
    }

    /// Forgets what was told and what is cached.
    pub fn forget(&mut self) {
        self.engine.flush_cache();
        self.answers.clear();
        self.n_ended = 0;
    }

    pub fn answer(&self, user: u64, number: u32) -> Answer {
        self.answers.get(&(user, number)).cloned().unwrap_or_default()
    }

    pub fn stats(&self) -> Stats {
        self.port.edge.stats()
    }

    /// Nothing is left but what the prefix cache holds, and that can be flushed.
    pub fn assert_idle(&mut self) {
        assert_eq!(self.step(100), 0);
        let stats = self.stats();
        let running = (stats.requests_waiting, stats.requests_running, stats.answers_paused);
        assert_eq!((running, stats.used_slots, stats.shared_slots), ((0, 0, 0), 0, 0), "{stats:?}");
        assert_eq!(stats.free_slots, stats.total_slots, "{stats:?}");
        assert_eq!(self.engine.free_slots(), stats.total_slots);
        self.engine.flush_cache();
        self.step(1);
        let flushed = self.stats();
        assert_eq!((flushed.tree_slots, flushed.used_slots), (0, 0), "{flushed:?}");
        assert_eq!(flushed.evicted_slots - stats.evicted_slots, stats.tree_slots);
        assert_eq!(self.engine.free_slots(), flushed.total_slots);
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ended in {} steps, {:?}", self.n_ended, self.n_steps, self.stats())
    }
}

/// Appends tokens to a sequence of the host; the bits of the last row's logits.
pub fn append(
    engine: &mut Engine,
    sequence: SequenceHandle,
    tokens: &[TokenId],
) -> Result<Vec<u32>> {
    let output = engine.forward(&ForwardBatch {
        n_rows: tokens.len() as u32,
        tokens: Some(tokens),
        embeddings: None,
        sequences: &vec![sequence; tokens.len()],
        wants: None,
        pooling: Pooling::None,
        normalize: false,
    })?;
    Ok(output.logits.iter().map(|logit| logit.to_bits()).collect())
}

/// A copy of the tiny model whose config.json has `to` for `from`.
pub fn chat_model_with(from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(chat_model().join(file), folder.path().join(file)).unwrap();
    }
    let config = std::fs::read_to_string(chat_model().join("config.json")).unwrap();
    assert!(config.contains(from), "{from}");
    std::fs::write(folder.path().join("config.json"), config.replace(from, to)).unwrap();
    folder
}
