//! The plan: what it tells, what it derives, and what it refuses before anything is taken.

use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use larder::engine::{Engine, ForwardBatch, Memory, Pooling};
use larder::error::Error;
use larder::ids::{SequenceHandle, TokenId};
use larder::options::{AreaMode, BlockAllocator, BlockKind, Device, Hooks, Options};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/llama")
}

fn plan(options: &Options) -> Result<Memory, Error> {
    Engine::plan(&model(), options)
}

fn small() -> Options {
    Options {
        n_threads: 1,
        max_batch_rows: 16,
        max_requests: 2,
        area_mode: AreaMode::Short,
        ..Options::default()
    }
}

fn append(engine: &mut Engine, sequence: SequenceHandle, n: usize) -> Result<u32, Error> {
    let batch = ForwardBatch {
        n_rows: n as u32,
        tokens: Some(&vec![TokenId(5); n]),
        embeddings: None,
        sequences: &vec![sequence; n],
        wants: None,
        pooling: Pooling::None,
        normalize: false,
    };
    engine.forward(&batch).map(|output| output.n_logits_rows)
}

#[test]
fn defaults_are_small_and_the_classes_add_up() {
    let memory = plan(&Options::default()).unwrap();
    assert_eq!((memory.max_sequences, memory.max_sequence_tokens), (4, 256));
    assert_eq!(memory.total_tokens, 4 * 256);
    assert_eq!(memory.kv_repo_bytes, (memory.total_tokens + 1) * memory.token_slot_bytes);
    let classes = memory.weights_bytes
        + memory.kv_repo_bytes
        + memory.compute_area_bytes
        + memory.bookkeeping_bytes;
    assert_eq!(memory.total_bytes(), classes);
    assert!(memory.load_peak_bytes > classes);
}

#[test]
fn the_memory_limit_is_used_up_but_kept() {
    let bytes = plan(&small()).unwrap().load_peak_bytes;
    for limit in [bytes, bytes + 1, 2 * bytes, 5 * bytes + 12345] {
        let memory = plan(&Options { memory_limit_bytes: limit, ..small() }).unwrap();
        assert!(memory.load_peak_bytes <= limit);
        let one_more = Options { total_tokens: memory.total_tokens + 1, ..small() };
        assert!(plan(&one_more).unwrap().load_peak_bytes > limit, "{limit}");
        let options = Options { memory_limit_bytes: limit, ..small() };
        assert_eq!(Engine::create(&model(), &options).unwrap().memory(), &memory);
    }
}

#[test]
fn a_limit_that_is_too_low_says_what_is_needed() {
    let Err(Error::OutOfMemory(text)) = plan(&Options { memory_limit_bytes: 1000, ..small() })
    else {
        panic!("was taken")
    };
    let needed = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).max().unwrap();
    assert_eq!(plan(&Options { memory_limit_bytes: needed, ..small() }).unwrap().total_tokens, 1);

    // What auto would rather have does not matter when it does not fit.
    let auto = Options { memory_limit_bytes: needed, area_mode: AreaMode::Auto, ..small() };
    assert_eq!(plan(&auto).unwrap().total_tokens, 1);

    let too_many = Options { memory_limit_bytes: needed, total_tokens: 50, ..small() };
    assert!(matches!(plan(&too_many), Err(Error::OutOfMemory(_))));
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_taken() {
    let most = Options { total_tokens: u64::from(u32::MAX) - 2, ..small() };
    assert!(plan(&most).is_ok(), "a plan may be of another machine");
    let Err(Error::OutOfMemory(text)) = Engine::create(&model(), &most).map(drop) else {
        panic!("was taken")
    };
    assert!(text.contains("total_tokens"), "{text}");
    for (options, field) in [
        (Options { total_tokens: u64::MAX, ..small() }, "total_tokens"),
        (Options { max_sequence_tokens: 257, ..small() }, "max_sequence_tokens"),
        (Options { max_sequences: u32::MAX, ..small() }, "max_sequences"),
        (Options { max_requests: u32::MAX, ..small() }, "max_requests"),
        (Options { max_batch_rows: u32::MAX, ..small() }, "max_batch_rows"),
        (Options { max_logits_rows: u32::MAX, ..small() }, "max_logits_rows"),
        (Options { n_threads: u32::MAX, ..small() }, "n_threads"),
    ] {
        let Err(Error::InvalidArgument(text)) = plan(&options) else { panic!("{field} was taken") };
        assert!(text.contains(field), "{text}");
    }
    let cuda = Options { device: Device::Cuda { index: 0 }, ..small() };
    assert!(matches!(plan(&cuda), Err(Error::Unsupported(_))));
}

#[test]
fn short_is_the_smallest_mode() {
    let bytes = |area_mode| {
        let options = Options { area_mode, max_batch_rows: 512, ..Options::default() };
        plan(&options).unwrap().compute_area_bytes
    };
    assert!(bytes(AreaMode::Short) < bytes(AreaMode::Long));
    assert!(bytes(AreaMode::Auto) <= bytes(AreaMode::Long));
}

/// K02: exactly the tokens that fit, and nothing is changed by what does not.
#[test]
fn every_slot_is_usable_and_one_more_is_refused() {
    for capacity in [1, 2, 15, 16] {
        let options = Options { total_tokens: capacity, max_sequences: 2, ..small() };
        let mut engine = Engine::create(&model(), &options).unwrap();
        let sequence = engine.sequence_open().unwrap();
        let n = capacity as usize;
        let refused = append(&mut engine, sequence, n + 1).unwrap_err();
        assert!(matches!(refused, Error::OutOfSlots { .. } | Error::LimitReached(_)), "{refused}");
        assert_eq!(engine.sequence_length(sequence).unwrap(), 0);
        assert_eq!(append(&mut engine, sequence, n).unwrap(), 1);
        assert_eq!(engine.free_slots(), 0);
        let other = engine.sequence_open().unwrap();
        let refused = append(&mut engine, other, 1).unwrap_err();
        assert_eq!(refused, Error::OutOfSlots { needed: 1, free: 0 });
        engine.sequence_release(sequence).unwrap();
        assert_eq!(engine.free_slots(), capacity);
        assert_eq!(append(&mut engine, other, n).unwrap(), 1);
    }
}

/// Refuses the block with this number, and adds up what it has lent.
struct Lender {
    refused: i64,
    n_asked: AtomicI64,
    lent: Mutex<Vec<(usize, Vec<u8>)>>,
}

impl BlockAllocator for Lender {
    fn allocate(&self, _: BlockKind, bytes: usize, alignment: usize) -> Option<NonNull<u8>> {
        if self.n_asked.fetch_add(1, Relaxed) == self.refused {
            return None;
        }
        let mut block = vec![0xAA_u8; bytes + alignment];
        let first = block.as_ptr().align_offset(alignment);
        let address = NonNull::from(&mut block[first]);
        self.lent.lock().unwrap().push((address.as_ptr() as usize, block));
        Some(address)
    }

    fn deallocate(&self, _: BlockKind, address: NonNull<u8>, _: usize) {
        self.lent.lock().unwrap().retain(|(lent, _)| *lent != address.as_ptr() as usize);
    }
}

/// A11: every block refused in turn.
#[test]
fn a_refused_block_is_an_error_and_the_others_are_given_back() {
    for refused in 0..4 {
        let lender =
            Arc::new(Lender { refused, n_asked: AtomicI64::new(0), lent: Mutex::new(Vec::new()) });
        let hooks = Hooks { allocator: Some(Arc::clone(&lender) as _), ..Hooks::default() };
        let result = Engine::create(&model(), &Options { hooks, ..small() });
        if refused < 3 {
            assert!(matches!(result.map(drop), Err(Error::OutOfMemory(_))));
        } else {
            let mut engine = result.unwrap();
            assert_eq!(lender.lent.lock().unwrap().len(), 3);
            let sequence = engine.sequence_open().unwrap();
            assert_eq!(append(&mut engine, sequence, 9).unwrap(), 1);
        }
        assert!(lender.lent.lock().unwrap().is_empty(), "block {refused}");
    }
}

#[test]
fn loading_tells_its_progress_and_can_be_stopped() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let options = |stop_at: usize| {
        let seen = Arc::clone(&seen);
        let progress = move |done, total| {
            let mut seen = seen.lock().unwrap();
            seen.push((done, total));
            seen.len() < stop_at
        };
        let hooks = Hooks { progress: Some(Arc::new(progress)), ..Hooks::default() };
        Options { hooks, ..small() }
    };
    drop(Engine::create(&model(), &options(usize::MAX)).unwrap());
    let all = std::mem::take(&mut *seen.lock().unwrap());
    assert!(all.is_sorted() && all.last().is_some_and(|(done, total)| done == total));
    for stop_at in [1, 2, all.len() - 1] {
        let result = Engine::create(&model(), &options(stop_at)).map(drop);
        assert!(matches!(result, Err(Error::Cancelled(_))), "{stop_at}");
    }
}

/// A configuration alone gives the plan that the model with its weights has, and no engine.
#[test]
fn an_outline_is_planned_like_its_model() {
    for entry in std::fs::read_dir("tests/data/models").unwrap() {
        let folder = entry.unwrap().path();
        let config = folder.join("config.json");
        if !config.exists() {
            continue;
        }
        let of = |path: &Path| Engine::plan(path, &Options::default()).unwrap();
        let (outline, model) = (of(&config), of(&folder));
        assert_eq!(outline.weights_bytes, model.weights_bytes, "{}", folder.display());
        assert_eq!(outline.kv_repo_bytes, model.kv_repo_bytes);
        assert_eq!(outline.compute_area_bytes, model.compute_area_bytes);
        let error = Engine::create(&config, &Options::default()).err();
        assert!(matches!(error, Some(Error::InvalidArgument(_))), "{error:?}");
    }
}
