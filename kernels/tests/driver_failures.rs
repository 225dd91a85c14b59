//! Each call of the driver failing in turn: an error each time, never a panic, and nothing is left over.
#![cfg(feature = "standin")]

mod host;

use std::ffi::c_void;
use std::ptr::NonNull;

use host::{Host, current};
use larder_kernels::driver::{Context, DeviceBlock, Event, PinnedBlock, Stream, Unavailable};
use larder_kernels::modules::{IMAGES, Kernels};
use larder_kernels::standin::{self, World};

const OUT_OF_MEMORY: u32 = 2;
const ILLEGAL_ADDRESS: u32 = 700;

/// One of everything.
fn everything(context: Option<NonNull<c_void>>) -> Result<(), Unavailable> {
    let context = Context::open(0, context)?;
    let _entered = context.enter()?;
    context.free_bytes()?;
    let stream = Stream::new(&context)?;
    let block = DeviceBlock::new(&context, 4096)?;
    let pinned = PinnedBlock::new(&context, 4096)?;
    let (start, end) = (Event::timed(&context)?, Event::timed(&context)?);
    // One module: each is loaded the same way.
    let image = IMAGES.iter().position(|image| image.kernels.contains(&"rope_table"));
    let image = image.expect("rope.cu is embedded");
    let kernels = Kernels::load_images(&context, &IMAGES[image..=image])?;
    start.record(&stream)?;
    let at = block.address();
    let step = || {
        // SAFETY: all within the two blocks, which outlive the graph.
        unsafe {
            stream.fill(at, 0, 4096)?;
            stream.copy_to_device(at, pinned.address(), 16)?;
            stream.copy_on_device(at + 64, at, 16)?;
            larder_kernels::rope::rope_table(&kernels, &stream, at, at + 64, 1.0, at + 128, 2, 2)?;
            stream.copy_to_host(pinned.address(), at, 16)
        }
    };
    step()?;
    let graph = stream.capture(step)?;
    graph.launch(&stream)?;
    end.record(&stream)?;
    end.synchronize()?;
    start.elapsed_ms(&end)?;
    stream.synchronize()?;
    Ok(())
}

/// Makes each call fail in turn with `code`; returns the names of those whose failure was told.
fn fail_each(world: &World, host: Option<&Host>, code: u32) -> Vec<&'static str> {
    let at_first = world.books();
    let context = || host.and_then(Host::non_null);
    let before = standin::calls();
    everything(context()).expect("without a failure");
    let n_calls = standin::calls() - before;
    let mut told = Vec::new();
    for nth in 1..=n_calls {
        let current_before = current();
        standin::fail_call(nth, code);
        let result = everything(context());
        standin::fail_call(0, 0);
        if let Err(error) = result {
            let Unavailable::Cuda(error) = error else { panic!("call {nth}: {error}") };
            assert_eq!(error.code, code, "call {nth}: {error}");
            told.push(error.call);
        }
        assert_eq!(current(), current_before, "call {nth}");
        let books = world.books();
        assert_eq!(
            (books.device_blocks, books.pinned_blocks, books.streams, books.events),
            (at_first.device_blocks, at_first.pinned_blocks, at_first.streams, at_first.events),
            "call {nth}"
        );
        assert_eq!(
            (books.modules, books.graphs, books.contexts, books.primary_retains, books.resets),
            (0, 0, at_first.contexts, 0, 0),
            "call {nth}"
        );
    }
    told
}

#[test]
fn each_call_failing_is_told_and_leaves_nothing_over() {
    let world = World::new();
    let told = fail_each(&world, None, OUT_OF_MEMORY);
    for call in [
        "cuDriverGetVersion",
        "cuInit",
        "cuDeviceGetCount",
        "cuDevicePrimaryCtxRetain",
        "cuCtxPushCurrent",
        "cuMemAlloc",
        "cuMemHostAlloc",
        "cuStreamCreate",
        "cuEventCreate",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuFuncSetAttribute",
        "cuMemcpyHtoDAsync",
        "cuMemcpyDtoHAsync",
        "cuMemcpyDtoDAsync",
        "cuMemsetD8Async",
        "cuLaunchKernelEx",
        "cuStreamBeginCapture",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphUpload",
        "cuGraphLaunch",
        "cuEventElapsedTime",
        "cuStreamSynchronize",
    ] {
        assert!(told.contains(&call), "{call} is not among {told:?}");
    }
    assert!(world.books().is_clean(), "{:?}", world.books());
}

#[test]
fn each_call_failing_leaves_a_host_context_as_it_was() {
    let world = World::new();
    let host = Host::new();
    let _entered = host.enter();
    let told = fail_each(&world, Some(&host), OUT_OF_MEMORY);
    assert!(told.contains(&"cuCtxGetDevice"), "{told:?}");
}

#[test]
fn a_context_lost_at_any_call_is_released() {
    let world = World::new();
    fail_each(&world, None, ILLEGAL_ADDRESS);
    assert!(world.books().is_clean(), "{:?}", world.books());
}
