//! Nothing is allocated after create, and what is in use is what the plan tells. One test in a process of its own,
//! because it counts every allocation of every thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use larder::backend::ops::Sampling;
use larder::engine::{Engine, ForwardBatch, Pooling};
use larder::ids::TokenId;
use larder::kv::NameSpaceSettings;
use larder::options::{BlockAllocator, BlockKind, Hooks, Options};
use larder::serve::{Event, EventKind, Finish, Prompt, RequestInput};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Lends blocks and adds up their bytes.
#[derive(Default)]
struct Lender {
    bytes: AtomicU64,
}

impl BlockAllocator for Lender {
    fn allocate(&self, _: BlockKind, bytes: usize, alignment: usize) -> Option<NonNull<u8>> {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        let layout = Layout::from_size_align(bytes, alignment).ok()?;
        // SAFETY: blocks of an engine are not empty.
        NonNull::new(unsafe { System.alloc(layout) })
    }

    fn deallocate(&self, _: BlockKind, address: NonNull<u8>, bytes: usize) {
        self.bytes.fetch_sub(bytes as u64, Relaxed);
        // SAFETY: the system's allocator looks at the address only.
        unsafe { System.dealloc(address.as_ptr(), Layout::from_size_align_unchecked(bytes, 64)) }
    }
}

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn tokens(n: u32) -> Vec<TokenId> {
    (0..n).map(|i| TokenId(3 + i * 7 % 120)).collect()
}

/// 1,000 passes over two sequences of the host, which grow, are forked and cut again.
fn forward_rounds(engine: &mut Engine) {
    let (a, b) = (engine.sequence_open().unwrap(), engine.sequence_open().unwrap());
    let tokens = tokens(8);
    let sequences = [a, b, a, b, a, b, a, b];
    let before = ALLOCATIONS.load(Relaxed);
    for _ in 0..1000 {
        let output = engine.forward(&ForwardBatch {
            n_rows: 8,
            tokens: Some(&tokens),
            embeddings: None,
            sequences: &sequences,
            wants: None,
            pooling: Pooling::None,
            normalize: false,
        });
        assert_eq!(output.unwrap().n_logits_rows, 2);
        engine.sequence_truncate(a, 1).unwrap();
        let fork = engine.sequence_fork(b, 2).unwrap();
        engine.sequence_truncate(b, 0).unwrap();
        engine.sequence_release(fork).unwrap();
    }
    assert_eq!(ALLOCATIONS.load(Relaxed), before, "forward allocated");
    engine.sequence_release(a).unwrap();
    engine.sequence_release(b).unwrap();
}

/// 3,000 steps with requests that come and go: some share beginnings, some are cancelled, some have several answers,
/// and all together they want more slots than there are.
fn step_rounds(engine: &mut Engine) {
    let prompts: Vec<_> = (1..60).map(tokens).collect();
    let (edge, text) = (Arc::clone(engine.edge()), engine.text().cloned());
    let stops: &[&str] = if text.is_some() { &["ab", "the end"] } else { &[] };
    let mut events = vec![Event::default(); 16];
    let mut live = Vec::with_capacity(8);
    let (mut n_finished, mut n_cancelled, mut n_submitted) = (0, 0, 0);
    let before = ALLOCATIONS.load(Relaxed);
    for round in 0..3000 {
        // A refusal would allocate its message.
        while live.len() < 8 {
            let input = RequestInput {
                prompt: Prompt::Tokens(&prompts[n_submitted * 37 % prompts.len()]),
                max_new_tokens: 1 + n_submitted as u32 * 7 % 30,
                n_answers: 1 + n_submitted as u32 % 3,
                sampling: Sampling { temperature: 1.0, n_logprobs: 2, ..Sampling::default() },
                stops,
                ..RequestInput::default()
            };
            let handle = edge.submit(text.as_deref(), &input).unwrap();
            live.push((handle, input.n_answers));
            n_submitted += 1;
        }
        if round % 11 == 0 {
            edge.cancel(live[round % live.len()].0).unwrap();
        }
        let n = engine.step(&mut events[..1 + round % 16]).unwrap();
        for event in events[..n].iter().filter(|event| event.kind != EventKind::Token) {
            let request = live.iter().position(|&(handle, _)| handle == event.request).unwrap();
            live[request].1 -= 1;
            if live[request].1 == 0 {
                live.swap_remove(request);
            }
            n_finished += u32::from(event.kind != EventKind::Finished(Finish::Cancelled));
            n_cancelled += u32::from(event.kind == EventKind::Finished(Finish::Cancelled));
        }
        if round % 500 == 0 {
            engine.flush_cache();
            let settings = NameSpaceSettings { max_idle_slots: 100, ..Default::default() };
            engine.set_name_space(round as u64, settings).unwrap();
            assert!(edge.stats().used_slots <= 256);
        }
    }
    assert_eq!(ALLOCATIONS.load(Relaxed), before, "step allocated");
    assert!(n_finished > 200 && n_cancelled > 100, "{n_finished} ended, {n_cancelled} cancelled");
}

fn options(n_threads: u32) -> Options {
    Options {
        n_threads,
        total_tokens: 256,
        max_sequences: 6,
        max_requests: 8,
        max_batch_rows: 32,
        ..Options::default()
    }
}

fn check(n_threads: u32) {
    let lender = Arc::new(Lender::default());
    let hooks = Hooks { allocator: Some(Arc::clone(&lender) as _), ..Hooks::default() };
    let options = Options { hooks, ..options(n_threads) };
    let model = &model("models/llama");
    let plan = Engine::plan(model, &options).unwrap();
    let before = LIVE_BYTES.load(Relaxed);
    let mut engine = Engine::create(model, &options).unwrap();
    let heap_bytes = LIVE_BYTES.load(Relaxed) - before;
    assert_eq!(engine.memory(), &plan);
    assert_eq!(
        lender.bytes.load(Relaxed),
        plan.weights_bytes + plan.kv_repo_bytes + plan.compute_area_bytes,
        "blocks"
    );
    // What the standard library keeps for a thread is its own.
    let of_threads = heap_bytes - plan.bookkeeping_bytes as i64;
    assert!((0..=512 * i64::from(n_threads - 1)).contains(&of_threads), "{of_threads}");

    forward_rounds(&mut engine);
    step_rounds(&mut engine);
    assert_eq!(LIVE_BYTES.load(Relaxed) - before, heap_bytes);
    drop(engine);
    assert_eq!(LIVE_BYTES.load(Relaxed), before, "release gives everything back");
    assert_eq!(lender.bytes.load(Relaxed), 0);
}

#[test]
fn nothing_is_allocated_after_create_and_the_plan_is_what_is_used() {
    check(1);
    check(2);
    // With a tokenizer, whose bytes are an estimate: events have text, and requests have stops.
    let mut engine = Engine::create(&model("chat"), &options(1)).unwrap();
    let before = LIVE_BYTES.load(Relaxed);
    step_rounds(&mut engine);
    assert_eq!(LIVE_BYTES.load(Relaxed), before);
}
