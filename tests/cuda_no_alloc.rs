//! Nothing is allocated on the host either after an engine on a CUDA device was created. One test in a process of its
//! own, because it counts every allocation of every thread; the stand-in's own are in C++ and are not seen.
#![cfg(feature = "cuda-standin")]

mod cuda_common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cuda_common::options;
use larder::backend::ops::Sampling;
use larder::dtype::KvType;
use larder::engine::{Engine, ForwardBatch, Pooling, WANT_HIDDEN, WANT_LOGITS};
use larder::ids::TokenId;
use larder::options::Options;
use larder::serve::{Event, Prompt, RequestInput};
use larder_kernels::standin::World;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Prompts through every kind of product, recorded passes of each size, listed rows, and forks.
fn forward_rounds(engine: &mut Engine) {
    let sequences = [(); 3].map(|()| engine.sequence_open().unwrap());
    let tokens = [TokenId(7); 80];
    let all = [sequences[0]; 80];
    let before = ALLOCATIONS.load(Relaxed);
    for n in [80, 3, 40, 1, 70, 1, 1] {
        for (rows, sequences) in [(n, &all[..n]), (3, &sequences[..])] {
            let wants = [WANT_LOGITS, WANT_HIDDEN, WANT_LOGITS];
            let output = engine.forward(&ForwardBatch {
                n_rows: rows as u32,
                tokens: Some(&tokens[..rows]),
                embeddings: None,
                sequences,
                wants: (rows == 3 && n != 1).then_some(&wants),
                pooling: Pooling::None,
                normalize: false,
            });
            assert!(output.unwrap().logits.iter().all(|logit| logit.is_finite()));
        }
        engine.sequence_truncate(sequences[0], 2).unwrap();
        let fork = engine.sequence_fork(sequences[1], 1).unwrap();
        engine.sequence_release(fork).unwrap();
    }
    assert_eq!(ALLOCATIONS.load(Relaxed), before, "a pass allocated");
    for sequence in sequences {
        engine.sequence_release(sequence).unwrap();
    }
}

/// Requests that are drawn from in every way.
fn step_rounds(engine: &mut Engine) {
    let prompt: Vec<TokenId> = (3..20).map(TokenId).collect();
    let sampling = Sampling {
        temperature: 0.8,
        top_k: 20,
        top_p: 0.9,
        repetition_penalty: 1.1,
        ..Sampling::default()
    };
    let edge = Arc::clone(engine.edge());
    let mut events = vec![Event::default(); 16];
    let before = ALLOCATIONS.load(Relaxed);
    for round in 0..3 {
        for sampling in [Sampling::default(), sampling] {
            let prompt = Prompt::Tokens(&prompt[round..]);
            let input = RequestInput { prompt, max_new_tokens: 6, sampling, ..Default::default() };
            edge.submit(None, &input).unwrap();
        }
        for _ in 0..9 {
            engine.step(&mut events).unwrap();
        }
    }
    assert_eq!(ALLOCATIONS.load(Relaxed), before, "a step allocated");
}

#[test]
fn nothing_is_allocated_after_create() {
    let _world = World::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/llama");
    let options = Options {
        max_sequence_tokens: 100,
        max_sequences: 6,
        total_tokens: 600,
        max_requests: 8,
        ..options(KvType::BF16)
    };
    let mut engine = Engine::create(&path, &options).unwrap();
    forward_rounds(&mut engine);
    step_rounds(&mut engine);
}
