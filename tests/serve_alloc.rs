//! The bytes that requests take are those foretold, and a step takes none.

mod serve_common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use larder::backend::ops::{SampleResult, Sampling};
use larder::ids::TokenId;
use larder::kv::KvRepo;
use larder::serve::{
    Edge, Event, Limits, RequestInput, SAMPLE_TILE, Scheduler, StepBatch, bookkeeping_bytes,
};
use serve_common::{LIMITS, STOP, ids, mix, prompt, request, text, token, with_text};

struct Counter;

static COUNTS: AtomicBool = AtomicBool::new(false);
static N_BYTES: AtomicU64 = AtomicU64::new(0);
static N_CALLS: AtomicU64 = AtomicU64::new(0);

fn count(n_bytes: usize) {
    if COUNTS.load(Relaxed) {
        N_BYTES.fetch_add(n_bytes as u64, Relaxed);
        N_CALLS.fetch_add(1, Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those that System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        count(0);
        // SAFETY: as above.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as above.
        unsafe { System.realloc(address, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counter = Counter;

/// What `work` returns, and the bytes and calls of the allocator that it took.
fn counted<T>(work: impl FnOnce() -> T) -> (T, u64, u64) {
    let before = (N_BYTES.load(Relaxed), N_CALLS.load(Relaxed));
    COUNTS.store(true, Relaxed);
    let result = work();
    COUNTS.store(false, Relaxed);
    (result, N_BYTES.load(Relaxed) - before.0, N_CALLS.load(Relaxed) - before.1)
}

/// One test, since the counts are the whole process's.
#[test]
fn memory_is_as_planned() {
    for limits in [
        LIMITS,
        Limits {
            max_requests: 1,
            max_sequences: 1,
            max_batch_rows: 1,
            max_logits_rows: 1,
            ..LIMITS
        },
        Limits {
            max_requests: 70,
            max_sequences: 33,
            max_logits_rows: 40,
            n_stop_tokens: 5,
            ..LIMITS
        },
        Limits { max_sequence_tokens: 1, total_tokens: 1, max_token_bytes: 77, ..LIMITS },
        Limits { n_stop_tokens: 0, max_sequence_tokens: 1000, ..LIMITS },
    ] {
        construction(limits);
    }
    steps();
}

fn construction(limits: Limits) {
    let stops = [STOP; 1];
    let stops = &stops[..1.min(limits.n_stop_tokens as usize)];
    let (made, n_bytes, _) = counted(|| {
        let edge = Edge::new(&limits).unwrap();
        let scheduler = Scheduler::new(&limits, edge.clone(), None, stops).unwrap();
        (edge, scheduler, StepBatch::new(&limits).unwrap())
    });
    assert_eq!(n_bytes, bookkeeping_bytes(&limits), "{limits:?}");
    drop(made);
}

/// Submits, cancels, steps and drains at random; the model's part is not counted.
fn steps() {
    let text = text(&["a", "<0xE2>", "b▁", "stop"]);
    let limits = Limits { total_tokens: 80, ..with_text(&text) };
    let edge = Edge::new(&limits).unwrap();
    let mut scheduler = Scheduler::new(&limits, edge.clone(), Some(text.clone()), &[STOP]).unwrap();
    let mut kv = KvRepo::new(limits.total_tokens, 4, 64).unwrap();
    let mut batch = StepBatch::new(&limits).unwrap();
    let mut events = vec![Event::default(); 3];
    let bias_tokens = ids(&[1, 2]);
    let (mut random, mut n_events, mut n_text_bytes) = (1, 0, 0);
    for user in 0..2000 {
        random = mix(random);
        let prompt = prompt(1 + (random >> 8) as usize % 40, random % 5);
        let n_answers = 1 + (random >> 16) as u32 % 4;
        let sampling = Sampling { n_logprobs: (random >> 24) as u32 % 21, ..Default::default() };
        let input = RequestInput {
            n_answers,
            sampling,
            stops: &["stopb", "aaaa"],
            bias_tokens: &bias_tokens,
            biases: &[1.0, 2.0],
            expected_new_tokens: 1,
            priority: (random >> 40) as i32 % 3,
            name_space: (random >> 44) % 3,
            ..request(&prompt, 1 + (random >> 32) as u32 % 24, user)
        };
        let (_, _, n_calls) = counted(|| {
            // A refusal allocates its message: only submit where there is room.
            if user % 8 == 0 {
                let handle = edge.submit(Some(&text), &input).unwrap();
                if random & 2 == 0 {
                    edge.cancel(handle).unwrap();
                }
            }
            scheduler.schedule(&mut kv, &mut batch).unwrap();
            if user % 89 == 88 && random & 8 == 0 {
                scheduler.abandon(&mut kv).unwrap();
            } else {
                draw(&mut scheduler, &mut kv, random);
                scheduler.settle(&mut kv).unwrap();
            }
            let n = scheduler.drain(&mut events);
            n_events += n;
            n_text_bytes +=
                events[..n].iter().map(|e| scheduler.event_text(e).len()).sum::<usize>();
            if user % 97 == 96 {
                scheduler.fail_all(&mut kv).unwrap();
            }
            scheduler.end_step(&kv);
        });
        assert_eq!(n_calls, 0, "step {user}");
    }
    assert!(n_events > 500 && n_text_bytes > 500, "{n_events} events, {n_text_bytes} bytes");
    let stats = edge.stats();
    assert!(stats.pauses > 5 && stats.cached_tokens > 500, "{stats:?}");
    assert!(stats.requests_cancelled > 20 && stats.requests_finished > 20, "{stats:?}");
}

fn draw(scheduler: &mut Scheduler, kv: &mut KvRepo, random: u64) {
    let n = scheduler.n_sample_rows();
    let tile = SAMPLE_TILE.min(LIMITS.max_logits_rows as usize);
    for first in (0..n).step_by(tile) {
        let range = first..n.min(first + tile);
        let mut results = [SampleResult::None; SAMPLE_TILE];
        for (row, result) in scheduler.sample_rows(range.clone()).iter().zip(&mut results) {
            let drawn = mix(random ^ row.counter) % 50;
            *result = match drawn {
                0 => SampleResult::NonFinite,
                1 => token(STOP.0),
                _ => token(drawn as u32 % 5),
            };
            assert!(row.top.iter().all(|top| top.token < TokenId(256)));
        }
        scheduler.accept(kv, range.clone(), &results[..range.len()]).unwrap();
    }
}
