//! A cancel in the middle of a forward pass of a real engine: it stops, and the KV repo is as if it had not been.

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use larder::engine::Engine;
use larder::ids::{RequestHandle, TokenId};
use larder::options::{Executor, Hooks, Options};
use larder::serve::{Edge, Event, EventKind, Finish, Prompt, RequestInput};

/// Runs all tasks one after the other, and cancels a request when it was called so often.
struct Canceller {
    edge: OnceLock<Arc<Edge>>,
    n_calls: AtomicI64,
    /// Calls until the cancel; below 0: none.
    countdown: AtomicI64,
    request: AtomicU64,
}

impl Executor for Canceller {
    fn parallel_for(&self, n_tasks: u32, task: &(dyn Fn(u32) + Sync)) {
        self.n_calls.fetch_add(1, Relaxed);
        if self.countdown.fetch_sub(1, Relaxed) == 0 {
            let request = RequestHandle(self.request.load(Relaxed));
            self.edge.get().unwrap().cancel(request).unwrap();
        }
        (0..n_tasks).for_each(task);
    }
}

fn tokens(n: u32) -> Vec<TokenId> {
    (0..n).map(|i| TokenId(3 + i * 7 % 120)).collect()
}

fn engine(canceller: &Arc<Canceller>) -> Engine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/llama");
    let hooks = Hooks { executor: Some(canceller.clone() as _), ..Hooks::default() };
    let options = Options {
        n_threads: 2,
        total_tokens: 256,
        max_sequences: 4,
        max_batch_rows: 16,
        hooks,
        ..Options::default()
    };
    let engine = Engine::create(&path, &options).unwrap();
    assert!(canceller.edge.set(engine.edge().clone()).is_ok());
    engine
}

/// The answer's tokens, and the prompt tokens that were cached.
fn run(engine: &mut Engine, input: &RequestInput<'_>) -> (Vec<TokenId>, u32) {
    engine.edge().clone().submit(None, input).unwrap();
    let (mut tokens, mut events) = (Vec::new(), vec![Event::default(); 8]);
    loop {
        let n = engine.step(&mut events).unwrap();
        for event in &events[..n] {
            match event.kind {
                EventKind::Token => tokens.extend(event.token),
                kind => {
                    assert_eq!(kind, EventKind::Finished(Finish::Length));
                    return (tokens, event.n_cached_tokens);
                }
            }
        }
    }
}

#[test]
fn a_pass_stops_within_a_layer() {
    let prompt = tokens(60);
    let input = RequestInput {
        prompt: Prompt::Tokens(&prompt),
        max_new_tokens: 6,
        ..RequestInput::default()
    };
    let canceller = Arc::new(Canceller {
        edge: OnceLock::new(),
        n_calls: AtomicI64::new(0),
        countdown: AtomicI64::new(-1),
        request: AtomicU64::new(0),
    });
    let mut engine = engine(&canceller);
    let mut events = vec![Event::default(); 8];
    // A whole step, to know how many calls a pass is.
    let before = canceller.n_calls.load(Relaxed);
    let (expected, _) = run(&mut engine, &input);
    let n_pass = (canceller.n_calls.load(Relaxed) - before) / (4 + 5);
    engine.flush_cache();
    assert!(n_pass > 4, "a pass has {n_pass} calls");
    // In the first layer of the third chunk, and later in it.
    for countdown in 0..n_pass {
        let edge = engine.edge().clone();
        let handle = edge.submit(None, &input).unwrap();
        (0..2).for_each(|_| assert_eq!(engine.step(&mut events), Ok(0)));
        canceller.request.store(handle.0, Relaxed);
        let before = canceller.n_calls.load(Relaxed);
        canceller.countdown.store(countdown, Relaxed);
        assert_eq!(engine.step(&mut events), Ok(1), "cancelled at call {countdown}");
        assert_eq!(events[0].kind, EventKind::Finished(Finish::Cancelled));
        let n_calls = canceller.n_calls.load(Relaxed) - before;
        if countdown == 0 {
            assert!(n_calls <= n_pass / 2 + 1, "{n_calls} calls of {n_pass}");
        }
        let stats = edge.stats();
        assert_eq!((stats.used_slots, stats.requests_cancelled), (0, 1 + countdown as u64));
        // Two chunks are cached, and the third when its last layer was under way already.
        let (tokens, n_cached) = run(&mut engine, &input);
        assert_eq!(tokens, expected);
        assert!(n_cached == 32 || n_cached == 48, "{n_cached} at call {countdown}");
        assert!(countdown > 0 || n_cached == 32);
        engine.flush_cache();
        assert_eq!(edge.stats().used_slots, 0);
    }
}
