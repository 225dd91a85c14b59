//! The memory of an engine on the stand-in for a CUDA device: what is in its books is what the plan tells, nothing is
//! taken after create, and what the host lends is used and left as it was.
#![cfg(feature = "cuda-standin")]

mod cuda_common;

use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use cuda_common::{append, forward, options};
use larder::dtype::KvType;
use larder::engine::{Engine, ForwardBatch, Memory, Pooling, WANT_HIDDEN, WANT_LOGITS};
use larder::error::Error;
use larder::ids::TokenId;
use larder::options::{BlockAllocator, BlockKind, CudaOptions, Device, Hooks, Options};
use larder::serve::{Event, EventKind, Prompt, RequestInput};
use larder_kernels::driver::{Context, DeviceBlock, PinnedBlock, Stream};
use larder_kernels::standin::{Books, DeviceKind, World};

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(name)
}

/// Prompts, decode steps alone and together, hidden rows, given embeddings: nothing of it takes memory.
fn use_engine(engine: &mut Engine) {
    let [first, second] = [(); 2].map(|()| engine.sequence_open().unwrap());
    append(engine, first, &[5; 40]);
    append(engine, second, &[6; 3]);
    append(engine, second, &[7]);
    forward(engine, &[(first, 1), (second, 2)]);
    let hidden_size = engine.hidden_size() as usize;
    let output = engine
        .forward(&ForwardBatch {
            n_rows: 3,
            tokens: None,
            embeddings: Some(&vec![0.25; 3 * hidden_size]),
            sequences: &[first, second, first],
            wants: Some(&[WANT_HIDDEN, WANT_LOGITS | WANT_HIDDEN, WANT_LOGITS]),
            pooling: Pooling::Mean,
            normalize: true,
        })
        .unwrap();
    assert_eq!((output.n_logits_rows, output.n_hidden_rows), (2, 2));
    assert!(output.hidden.iter().chain(output.logits).all(|value| value.is_finite()));
}

#[test]
fn the_books_are_those_of_the_plan() {
    let world = World::new();
    for (name, kv_type) in
        [("llama", KvType::F32), ("gemma3", KvType::BF16), ("qwen3", KvType::Int8)]
    {
        let options = options(kv_type);
        let plan = Engine::plan(&model(name), &options).unwrap();
        assert!(world.books().is_clean());
        let mut engine = Engine::create(&model(name), &options).unwrap();
        assert_eq!(*engine.memory(), plan);
        let taken = world.books();
        let blocks = plan.weights_bytes + plan.kv_repo_bytes + plan.compute_area_bytes;
        assert_eq!((plan.device_bytes, taken.device_bytes), (blocks, blocks), "{name}");
        assert_eq!((taken.device_blocks, taken.pinned_blocks), (3, 1));
        assert!(taken.pinned_bytes <= plan.host_bytes);
        use_engine(&mut engine);
        assert_eq!(world.books(), taken, "{name}: memory was taken or given back after create");
        drop(engine);
        assert!(world.books().is_clean(), "{:?}", world.books());
    }
}

/// A plan without a device assumes one; with the same number of multiprocessors they are the same.
#[test]
fn a_plan_needs_no_device() {
    let kind = DeviceKind { n_multiprocessors: 132, ..Default::default() };
    let [with, without] = [1, 0].map(|n_devices| {
        let world = World::with_devices(DeviceKind { n_devices, ..kind });
        let plan = Engine::plan(&model("llama"), &options(KvType::BF16)).unwrap();
        // Not even a context was made.
        assert_eq!(world.books(), Books::default());
        (plan.weights_bytes, plan.kv_repo_bytes, plan.compute_area_bytes, plan.device_bytes)
    });
    assert_eq!(with, without);
}

const LLAMA_8B: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "max_position_embeddings": 131072, "hidden_act": "silu", "tie_word_embeddings": false,
    "torch_dtype": "bfloat16"
}"#;

fn plan_8b(options: &Options) -> Memory {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, LLAMA_8B).unwrap();
    Engine::plan(&path, options).unwrap()
}

#[test]
fn the_compute_area_of_an_8b_model_stays_below_30_mib() {
    let kind = DeviceKind { n_devices: 0, ..Default::default() };
    let _world = World::with_devices(kind);
    let device = Device::Cuda { index: 0 };
    let options = Options { device, max_batch_rows: 512, ..Options::default() };
    let memory = plan_8b(&options);
    assert_eq!(memory.max_logits_rows, 16);
    assert!(memory.compute_area_bytes <= 30 << 20, "{} bytes", memory.compute_area_bytes);
}

/// Lends blocks of the host's own, and keeps them until they come back.
struct Lender {
    context: Context,
    device: Mutex<Vec<DeviceBlock>>,
    pinned: Mutex<Vec<PinnedBlock>>,
    refuses: Option<BlockKind>,
}

impl BlockAllocator for Lender {
    fn allocate(&self, kind: BlockKind, bytes: usize, alignment: usize) -> Option<NonNull<u8>> {
        assert_eq!(alignment, 256);
        if self.refuses == Some(kind) {
            return None;
        }
        let _entered = self.context.enter().unwrap();
        match kind {
            BlockKind::Host => None,
            BlockKind::Device => {
                let block = DeviceBlock::new(&self.context, bytes as u64).unwrap();
                let address = block.address();
                self.device.lock().unwrap().push(block);
                NonNull::new(std::ptr::with_exposed_provenance_mut(address as usize))
            }
            BlockKind::HostPinned => {
                let block = PinnedBlock::new(&self.context, bytes as u64).unwrap();
                let address = block.address();
                self.pinned.lock().unwrap().push(block);
                NonNull::new(address)
            }
        }
    }

    fn deallocate(&self, kind: BlockKind, address: NonNull<u8>, bytes: usize) {
        let (address, bytes) = (address.as_ptr() as u64, bytes as u64);
        let is_it = |at: u64, size: u64| at == address && size == bytes;
        match kind {
            BlockKind::Host => panic!("no host memory was lent"),
            BlockKind::Device => {
                let mut blocks = self.device.lock().unwrap();
                let i = blocks.iter().position(|block| is_it(block.address(), block.bytes()));
                blocks.remove(i.unwrap());
            }
            BlockKind::HostPinned => {
                let mut blocks = self.pinned.lock().unwrap();
                let is_it = |block: &PinnedBlock| is_it(block.address() as u64, block.bytes());
                let i = blocks.iter().position(is_it);
                blocks.remove(i.unwrap());
            }
        }
    }
}

#[test]
fn the_hosts_memory_context_and_stream_are_used_and_left() {
    let world = World::new();
    let context = Context::open(0, None).unwrap();
    let stream = {
        let _entered = context.enter().unwrap();
        Stream::new(&context).unwrap()
    };
    let before = world.books();
    for refuses in [None, Some(BlockKind::Device), Some(BlockKind::HostPinned)] {
        let (device, pinned) = Default::default();
        let lender = Arc::new(Lender { context: context.clone(), device, pinned, refuses });
        let hooks = Hooks { allocator: Some(lender.clone()), ..Hooks::default() };
        let cuda = CudaOptions {
            context: context.raw().expose_provenance(),
            stream: stream.raw().expose_provenance(),
            ..CudaOptions::default()
        };
        let options = Options { hooks, cuda, ..options(KvType::BF16) };
        let result = Engine::create(&model("llama"), &options);
        if refuses.is_some() {
            assert!(matches!(result, Err(Error::OutOfMemory(_))));
        } else {
            let mut engine = result.unwrap();
            assert_eq!(lender.device.lock().unwrap().len(), 3);
            assert_eq!(lender.pinned.lock().unwrap().len(), 1);
            let taken = world.books();
            assert_eq!((taken.primary_retains, taken.streams), (1, 1));
            use_engine(&mut engine);
            assert_eq!(world.books(), taken);
        }
        assert!(lender.device.lock().unwrap().is_empty());
        assert!(lender.pinned.lock().unwrap().is_empty());
        let after = Books { allocations: before.allocations, ..world.books() };
        let peak = after.device_bytes_peak;
        assert_eq!(after, Books { device_bytes_peak: peak, ..before });
        let _entered = context.enter().unwrap();
        stream.synchronize().unwrap();
    }
}

/// The context that is current in this thread, as the driver tells it.
fn current_context() -> usize {
    // SAFETY: the stand-in has this function, whose only argument is a place for a handle.
    unsafe {
        let symbol = libc::dlsym(libc::RTLD_DEFAULT, c"cuCtxGetCurrent".as_ptr());
        assert!(!symbol.is_null());
        let get: unsafe extern "C" fn(*mut usize) -> i32 = std::mem::transmute(symbol);
        let mut context = usize::MAX;
        assert_eq!(get(&mut context), 0);
        context
    }
}

#[test]
fn the_current_context_is_the_same_after_every_call() {
    let _world = World::new();
    let check = |expected: usize| {
        let mut engine = Engine::create(&model("llama"), &options(KvType::BF16)).unwrap();
        assert_eq!(current_context(), expected);
        let sequence = engine.sequence_open().unwrap();
        for tokens in [&[5; 40][..], &[6]] {
            append(&mut engine, sequence, tokens);
            assert_eq!(current_context(), expected);
        }
        let prompt = Prompt::Tokens(&[TokenId(4)]);
        engine.edge().submit(None, &RequestInput { prompt, ..Default::default() }).unwrap();
        engine.step(&mut vec![Event::default(); 4]).unwrap();
        assert_eq!(current_context(), expected);
        drop(engine);
        assert_eq!(current_context(), expected);
    };
    check(0);
    let context = Context::open(0, None).unwrap();
    let _entered = context.enter().unwrap();
    check(context.raw().addr());
}

#[test]
fn a_stream_without_its_context_is_refused() {
    let _world = World::new();
    let cuda = CudaOptions { stream: 8, ..CudaOptions::default() };
    let options = Options { cuda, ..options(KvType::BF16) };
    let result = Engine::plan(&model("llama"), &options);
    assert!(matches!(result, Err(Error::InvalidArgument(text)) if text.contains("cuda_stream")));
}

/// What steps draw greedily is what the logits of a pass say.
#[test]
fn requests_run_without_taking_memory() {
    let world = World::new();
    let options = Options { max_requests: 3, ..options(KvType::BF16) };
    let mut engine = Engine::create(&model("llama"), &options).unwrap();
    let taken = world.books();
    let prompts = [3, 20, 7].map(|n| (0..n).map(|i| TokenId(3 + i * 7 % 120)).collect::<Vec<_>>());
    let edge = Arc::clone(engine.edge());
    let requests = prompts.each_ref().map(|prompt| {
        let prompt = Prompt::Tokens(prompt);
        edge.submit(None, &RequestInput { prompt, max_new_tokens: 5, ..Default::default() })
            .unwrap()
    });
    let mut drawn = [const { Vec::new() }; 3];
    let mut events = vec![Event::default(); 16];
    for _ in 0..20 {
        let n = engine.step(&mut events).unwrap();
        for event in events[..n].iter().filter(|event| event.kind == EventKind::Token) {
            let request = requests.iter().position(|&request| request == event.request).unwrap();
            drawn[request].push(event.token.unwrap().0);
        }
    }
    assert_eq!(world.books(), taken);
    for (prompt, drawn) in prompts.iter().zip(&drawn) {
        let sequence = engine.sequence_open().unwrap();
        let mut tokens: Vec<u32> = prompt.iter().map(|token| token.0).collect();
        for &token in drawn {
            let logits = append(&mut engine, sequence, &tokens);
            assert_eq!(argmax(logits.last().unwrap()) as u32, token);
            tokens = vec![token];
        }
        assert_eq!(drawn.len(), 5);
        engine.sequence_release(sequence).unwrap();
    }
}

fn argmax(row: &[f32]) -> usize {
    let larger = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (0..row.len()).fold(0, larger)
}
