//! What becomes of an engine whose device fails: each call of the driver in turn while it is created and while it
//! runs. There is always an error, never a leak, and release always works.
#![cfg(feature = "cuda-standin")]

mod cuda_common;

use std::path::{Path, PathBuf};

use cuda_common::{append, options, try_forward};
use larder::dtype::KvType;
use larder::engine::{Engine, WANT_LOGITS};
use larder::error::Error;
use larder::options::{Device, Options};
use larder_kernels::standin::{self, DeviceKind, World};

const OUT_OF_MEMORY: u32 = 2;
/// After it nothing runs in the context any more.
const LAUNCH_FAILED: u32 = 719;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/llama")
}

/// Two recorded passes, so that not all calls are theirs.
fn small() -> Options {
    Options { max_sequences: 2, max_batch_rows: 16, max_logits_rows: 4, ..options(KvType::BF16) }
}

/// The first and the last calls, where kinds change, and a choice of those between.
fn choice(n_calls: u64) -> impl Iterator<Item = u64> {
    let is_edge = move |&call: &u64| call <= 25 || call + 25 > n_calls;
    (1..=n_calls).filter(move |call| is_edge(call) || call % 29 == 0)
}

#[test]
fn every_call_of_create_may_fail() {
    let world = World::new();
    let before = standin::calls();
    drop(Engine::create(&model(), &small()).unwrap());
    // Some of these are calls of the release.
    let n_calls = standin::calls() - before;
    let mut n_failed = 0;
    for call in choice(n_calls) {
        for code in [OUT_OF_MEMORY, LAUNCH_FAILED] {
            standin::fail_call(call, code);
            let result = Engine::create(&model(), &small());
            standin::fail_call(0, 0);
            if let Err(error) = &result {
                n_failed += 1;
                let is_told = matches!(
                    error,
                    Error::Device(_) | Error::OutOfMemory(_) | Error::EngineFailed(_)
                );
                assert!(is_told, "call {call}: {error:?}");
                assert!(!error.to_string().is_empty());
            }
            drop(result);
            assert!(world.books().is_clean(), "call {call}: {:?}", world.books());
        }
    }
    assert!(n_failed > 100, "{n_failed} of {n_calls} calls failed");
}

#[test]
fn every_call_of_a_pass_may_fail() {
    let world = World::new();
    let mut engine = Engine::create(&model(), &small()).unwrap();
    let sequence = engine.sequence_open().unwrap();
    append(&mut engine, sequence, &[1, 2, 3]);
    let rows: Vec<_> = [4, 5, 6, 7, 8, 9].map(|token| (sequence, token)).to_vec();
    let wants = [0, 0, 0, 0, 0, WANT_LOGITS];
    for rows in [&rows[..1], &rows[..]] {
        let wants = &wants[wants.len() - rows.len()..];
        let before = standin::calls();
        let expected = try_forward(&mut engine, rows, wants).unwrap();
        let n_calls = standin::calls() - before;
        engine.sequence_truncate(sequence, 3).unwrap();
        let mut n_failed = 0;
        for call in 1..=n_calls {
            standin::fail_call(call, OUT_OF_MEMORY);
            let result = try_forward(&mut engine, rows, wants);
            standin::fail_call(0, 0);
            if let Ok(rows) = result {
                // Leaving the context is what may fail without being told: the results are there.
                assert_eq!(rows, expected, "call {call}");
                engine.sequence_truncate(sequence, 3).unwrap();
                continue;
            }
            n_failed += 1;
            assert!(matches!(result, Err(Error::Device(_))), "call {call}: {result:?}");
            // An error that the context survives: all is as before, and the next pass gives what it should.
            assert_eq!(engine.sequence_length(sequence).unwrap(), 3);
            let again = try_forward(&mut engine, rows, wants).unwrap();
            assert_eq!(again, expected, "after call {call}");
            engine.sequence_truncate(sequence, 3).unwrap();
        }
        assert!(3 * n_failed >= n_calls, "{n_failed} of {n_calls} calls failed");
    }
    drop(engine);
    assert!(world.books().is_clean(), "{:?}", world.books());
}

#[test]
fn an_engine_whose_context_is_lost_says_so_ever_after() {
    let world = World::new();
    let mut engine = Engine::create(&model(), &small()).unwrap();
    let sequence = engine.sequence_open().unwrap();
    let rows = [(sequence, 4), (sequence, 5)];
    standin::fail_call(20, LAUNCH_FAILED);
    let Err(Error::Device(first)) = try_forward(&mut engine, &rows, &[0, WANT_LOGITS]) else {
        panic!("the pass did not fail");
    };
    standin::fail_call(0, 0);
    assert!(first.contains("CUDA_ERROR_LAUNCH_FAILED"), "{first}");
    for _ in 0..2 {
        let Err(Error::EngineFailed(later)) = try_forward(&mut engine, &rows, &[0, WANT_LOGITS])
        else {
            panic!("a failed engine still runs");
        };
        assert_eq!(later, first);
    }
    drop(engine);
    assert!(world.books().is_clean(), "{:?}", world.books());
}

/// The plan needs no device; an engine says why there is none.
#[test]
fn why_there_is_no_device_is_told_at_create() {
    let kind = DeviceKind::default();
    let cases = [
        (DeviceKind { n_devices: 0, ..kind }, 0, "no CUDA device 0"),
        (kind, 3, "no CUDA device 3"),
        (DeviceKind { driver_version: 12040, ..kind }, 0, "12.4"),
        (DeviceKind { compute_capability: (7, 5), ..kind }, 0, "7.5"),
    ];
    for (kind, index, expected) in cases {
        let world = World::with_devices(kind);
        let options = Options { device: Device::Cuda { index }, ..small() };
        let memory = Engine::plan(&model(), &options).unwrap();
        assert!(memory.device_bytes > 0);
        let Err(Error::Unsupported(text)) = Engine::create(&model(), &options) else {
            panic!("an engine without a device: {expected}");
        };
        assert!(text.contains(expected), "{text}");
        assert!(world.books().is_clean());
    }
}

#[test]
fn more_memory_than_the_device_has_is_refused_with_the_number() {
    let world = World::with_devices(DeviceKind { memory_bytes: 1 << 20, ..DeviceKind::default() });
    let options = Options { total_tokens: 1 << 16, ..small() };
    let Err(Error::OutOfMemory(text)) = Engine::create(&model(), &options) else {
        panic!("a device of 1 MiB held the engine");
    };
    assert!(text.contains("the KV repo"), "{text}");
    assert!(world.books().is_clean());
}
