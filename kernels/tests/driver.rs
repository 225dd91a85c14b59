//! The driver's wrappers on the stand-in: contexts, memory, copies, launches, graphs, events, and why a device cannot
//! be used.
#![cfg(feature = "standin")]

mod host;

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use host::{Host, current};
use larder_kernels::args;
use larder_kernels::driver::{
    Context, DeviceBlock, Event, Launch, Module, PinnedBlock, Result, Stream, Unavailable,
};
use larder_kernels::modules::Kernels;
use larder_kernels::standin::{self, DeviceKind, World};

/// Copies numbers to a new block.
fn upload(context: &Context, stream: &Stream, values: &[f32]) -> DeviceBlock {
    let bytes = size_of_val(values) as u64;
    let block = DeviceBlock::new(context, bytes).expect("memory");
    // SAFETY: both are that large, and the copy is waited for.
    unsafe { stream.copy_to_device(block.address(), values.as_ptr().cast(), bytes) }
        .expect("copies");
    stream.synchronize().expect("copies");
    block
}

/// Reads numbers back.
fn download(stream: &Stream, address: u64, n: usize) -> Vec<f32> {
    let mut values = vec![0f32; n];
    // SAFETY: the caller names a block that is that large, and the copy is waited for.
    unsafe { stream.copy_to_host(values.as_mut_ptr().cast(), address, n as u64 * 4) }
        .expect("copies");
    stream.synchronize().expect("copies");
    values
}

#[test]
fn a_device_is_described() {
    let _world = World::with_devices(DeviceKind { n_multiprocessors: 7, ..DeviceKind::default() });
    let context = Context::open(0, None).expect("opens");
    let info = context.info();
    assert_eq!(info.name, "SIMT emulator");
    assert_eq!(info.compute_capability, (9, 0));
    assert_eq!(info.n_multiprocessors, 7);
    assert_eq!(info.memory_bytes, 8 << 30);
    assert!(info.shared_bytes_per_block >= 227 << 10);
    assert!(info.l2_bytes > 0);
    assert!(!context.is_host());
    let _entered = context.enter().expect("enters");
    assert_eq!(context.free_bytes(), Ok(8 << 30));
    let _block = DeviceBlock::new(&context, 1 << 20).expect("memory");
    assert_eq!(context.free_bytes(), Ok((8 << 30) - (1 << 20)));
}

#[test]
fn why_a_device_cannot_be_used() {
    let kind = DeviceKind::default();
    let world = World::with_devices(DeviceKind { n_devices: 0, ..kind });
    let open = |index| Context::open(index, None).expect_err("not available");
    assert_eq!(open(0), Unavailable::NoDevice { index: 0, count: 0 });

    world.set_devices(kind);
    assert_eq!(open(1), Unavailable::NoDevice { index: 1, count: 1 });
    assert_eq!(
        open(u32::MAX).to_string(),
        "there is no CUDA device 4294967295: the driver knows 1"
    );

    world.set_devices(DeviceKind { driver_version: 12090, ..kind });
    let old = Unavailable::DriverTooOld { found: 12090, needed: 13000 };
    assert_eq!(open(0), old);
    assert!(old.to_string().contains("supports CUDA 12.9 and the kernels need 13.0"), "{old}");

    world.set_devices(DeviceKind { compute_capability: (7, 5), ..kind });
    let old = Unavailable::Architecture { found: (7, 5), oldest: (8, 0) };
    assert_eq!(open(0), old);
    assert!(old.to_string().contains("capability 7.5 and the kernels need 8.0"), "{old}");

    world.set_devices(DeviceKind { compute_capability: (8, 0), ..kind });
    assert!(Context::open(0, None).is_ok());
    assert!(world.books().is_clean(), "{:?}", world.books());
}

#[test]
fn the_primary_context_is_released_with_the_last_that_uses_it() {
    let world = World::new();
    let context = Context::open(0, None).expect("opens");
    let entered = context.enter().expect("enters");
    let block = DeviceBlock::new(&context, 64).expect("memory");
    let stream = Stream::new(&context).expect("a stream");
    drop(entered);
    drop(context);
    assert_eq!(world.books().primary_retains, 1);
    drop(stream);
    assert_eq!(world.books().primary_retains, 1);
    drop(block);
    assert!(world.books().is_clean(), "{:?}", world.books());
}

#[test]
fn what_was_current_is_current_again_after_every_call() {
    let _world = World::new();
    // First with nothing current, then with a context of the host's.
    let mut host = None;
    for round in 0..2 {
        if round == 1 {
            host = Some(Host::new());
        }
        let entered_by_host = host.as_ref().map(Host::enter);
        let before = current();
        assert_eq!(before, host.as_ref().map_or(std::ptr::null_mut(), Host::context));
        let context = Context::open(0, None).expect("opens");
        assert_eq!(current(), before);
        assert!(Context::open(9, None).is_err());
        assert_eq!(current(), before);
        {
            let _entered = context.enter().expect("enters");
            assert_eq!(current(), context.raw());
            let _again = context.enter().expect("enters");
            assert_eq!(current(), context.raw());
        }
        assert_eq!(current(), before);
        let entered = context.enter().expect("enters");
        let made = (
            DeviceBlock::new(&context, 64).expect("memory"),
            PinnedBlock::new(&context, 64).expect("memory"),
            Stream::new(&context).expect("a stream"),
            Event::new(&context).expect("an event"),
            Kernels::load(&context).expect("loads"),
        );
        assert!(DeviceBlock::new(&context, 1 << 60).is_err());
        assert!(Module::load(&context, b"no module, but long enough").is_err());
        drop(entered);
        assert_eq!(current(), before);
        drop(made);
        assert_eq!(current(), before);
        drop(context);
        assert_eq!(current(), before);
        drop(entered_by_host);
    }
}

#[test]
fn a_context_of_the_host_is_used_and_left_alone() {
    let world = World::new();
    let host = Host::new();
    let of_the_host = world.books();
    let context = Context::open(7, host.non_null()).expect("the index does not matter");
    assert!(context.is_host());
    assert_eq!(context.raw(), host.context());
    assert_eq!(context.info().compute_capability, (9, 0));
    assert!(current().is_null());
    let entered = context.enter().expect("enters");
    let stream = Stream::of_host(&context, host.stream());
    assert_eq!(stream.raw(), host.stream());
    let block = upload(&context, &stream, &[1.0, 2.0]);
    assert_eq!(download(&stream, block.address(), 2), [1.0, 2.0]);
    drop((block, stream, entered));
    drop(context);
    assert!(current().is_null());
    let after = world.books();
    assert_eq!((after.contexts, after.streams), (of_the_host.contexts, of_the_host.streams));
    assert_eq!((after.contexts, after.streams), (1, 1));
    assert_eq!((after.primary_retains, after.device_blocks), (0, 0));
    drop(host);
    assert!(world.books().is_clean(), "{:?}", world.books());
}

#[test]
fn a_primary_context_that_the_host_holds_is_not_released() {
    let world = World::new();
    let holder = Context::open(0, None).expect("opens");
    assert_eq!(world.books().primary_retains, 1);
    let context = Context::open(0, NonNull::new(holder.raw())).expect("opens");
    assert!(context.is_host());
    drop(context);
    assert_eq!(world.books().primary_retains, 1);
    let _entered = holder.enter().expect("enters");
    assert!(holder.free_bytes().is_ok());
}

#[test]
fn memory_of_the_host_is_given_back_once() {
    let world = World::new();
    let n_given_back = Arc::new(AtomicU32::new(0));
    let give_back = || {
        let n_given_back = Arc::clone(&n_given_back);
        Box::new(move || {
            n_given_back.fetch_add(1, Ordering::Relaxed);
        })
    };
    let device = DeviceBlock::lent(4096, 77, give_back());
    assert_eq!((device.address(), device.bytes()), (4096, 77));
    let mut bytes = [0u8; 12];
    let pinned = PinnedBlock::lent(bytes.as_mut_ptr(), 12, give_back());
    assert_eq!((pinned.address(), pinned.bytes()), (bytes.as_mut_ptr(), 12));
    drop(device);
    assert_eq!(n_given_back.load(Ordering::Relaxed), 1);
    drop(pinned);
    assert_eq!(n_given_back.load(Ordering::Relaxed), 2);
    assert_eq!(world.books().allocations, 0);
}

#[test]
fn copies_and_fills_arrive() {
    let world = World::new();
    let context = Context::open(0, None).expect("opens");
    let _entered = context.enter().expect("enters");
    let stream = Stream::new(&context).expect("a stream");
    let block = DeviceBlock::new(&context, 64).expect("memory");
    let pinned = PinnedBlock::new(&context, 64).expect("memory");
    assert_eq!(block.address() % 256, 0);
    let at = block.address();
    // SAFETY: all within the two blocks, which live until the stream is waited for.
    unsafe {
        pinned.address().write_bytes(7, 16);
        stream.fill(at, 3, 64).expect("fills");
        stream.copy_to_device(at + 8, pinned.address(), 16).expect("copies");
        stream.copy_on_device(at + 40, at + 20, 8).expect("copies");
        stream.copy_to_host(pinned.address(), at, 64).expect("copies");
    }
    stream.synchronize().expect("runs");
    // SAFETY: 64 bytes that the copy has written.
    let got = unsafe { std::slice::from_raw_parts(pinned.address(), 64) };
    let mut want = [3u8; 64];
    want[8..24].fill(7);
    want[40..44].fill(7);
    assert_eq!(got, want);
    // What does not fit is refused.
    // SAFETY: the stand-in checks the bounds.
    let error = unsafe { stream.fill(at, 0, 65) }.expect_err("too long");
    assert_eq!((error.call, error.code), ("cuMemsetD8Async", 1));
    assert!(!error.is_sticky());
    let books = world.books();
    assert_eq!((books.device_bytes, books.pinned_bytes, books.allocations), (64, 64, 2));
}

#[test]
fn too_much_memory_is_an_error_with_its_name() {
    let _world = World::new();
    let context = Context::open(0, None).expect("opens");
    let _entered = context.enter().expect("enters");
    for bytes in [(8 << 30) + 1, u64::MAX] {
        let error = DeviceBlock::new(&context, bytes).err().expect("too much");
        assert_eq!((error.call, error.code), ("cuMemAlloc", 2));
        assert!(error.to_string().starts_with("cuMemAlloc: CUDA_ERROR_"), "{error}");
        assert!(error.to_string().contains(" (2): "), "{error}");
    }
}

/// The table of RoPE for some positions, with one frequency: a kernel whose result is easily known.
struct Table {
    positions: DeviceBlock,
    frequencies: DeviceBlock,
    out: DeviceBlock,
}

impl Table {
    fn new(context: &Context, stream: &Stream, positions: &[u32]) -> Self {
        let bits: Vec<f32> = positions.iter().map(|&position| f32::from_bits(position)).collect();
        Self {
            positions: upload(context, stream, &bits),
            frequencies: upload(context, stream, &[0.5]),
            out: upload(context, stream, &vec![f32::NAN; positions.len() * 2]),
        }
    }

    fn enqueue(&self, kernels: &Kernels, stream: &Stream, n_rows: u32) -> Result<()> {
        // SAFETY: blocks of these sizes, which live as long as the table.
        unsafe {
            larder_kernels::rope::rope_table(
                kernels,
                stream,
                self.positions.address(),
                self.frequencies.address(),
                1.0,
                self.out.address(),
                n_rows,
                1,
            )
        }
    }

    fn check(&self, stream: &Stream, positions: &[u32]) {
        let got = download(stream, self.out.address(), positions.len() * 2);
        for (row, &position) in positions.iter().enumerate() {
            let (sin, cos) = (f64::from(position) * 0.5).sin_cos();
            assert!((f64::from(got[row * 2]) - cos).abs() <= 1e-6, "{got:?}");
            assert!((f64::from(got[row * 2 + 1]) - sin).abs() <= 1e-6, "{got:?}");
        }
    }
}

#[test]
fn kernels_are_launched_with_and_without_dependence() {
    for compute_capability in [(8, 0), (9, 0), (12, 0)] {
        let _world =
            World::with_devices(DeviceKind { compute_capability, ..DeviceKind::default() });
        let context = Context::open(0, None).expect("opens");
        let _entered = context.enter().expect("enters");
        let stream = Stream::new(&context).expect("a stream");
        let kernels = Kernels::load(&context).expect("loads");
        assert_eq!(kernels.info(), context.info());
        let table = Table::new(&context, &stream, &[0, 1, 5]);
        table.enqueue(&kernels, &stream, 3).expect("launches");
        table.check(&stream, &[0, 1, 5]);
    }
}

#[test]
fn a_launch_that_cannot_be_is_an_error() {
    let _world = World::new();
    let context = Context::open(0, None).expect("opens");
    let _entered = context.enter().expect("enters");
    let stream = Stream::new(&context).expect("a stream");
    let kernels = Kernels::load(&context).expect("loads");
    let launch = Launch { grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0, dependent: true };
    let n = 0u32;
    let missing = kernels.function("no_kernel_has_this_name");
    // SAFETY: nothing is launched.
    let error = unsafe { missing.launch(&stream, launch, &mut args![n]) }.expect_err("no kernel");
    assert_eq!((error.call, error.code), ("cuLaunchKernel", 500));
    let launch = Launch { block: [1025, 1, 1], ..launch };
    // SAFETY: as above.
    let error = unsafe { kernels.function("rope_table").launch(&stream, launch, &mut args![n]) }
        .expect_err("too many threads");
    assert_eq!((error.call, error.code), ("cuLaunchKernelEx", 1));
    assert_eq!(stream.synchronize(), Ok(()));
}

#[test]
fn modules_that_cannot_be_loaded_say_what_is_needed() {
    let world = World::new();
    let context = Context::open(0, None).expect("opens");
    let _entered = context.enter().expect("enters");
    let empty = Module::load(&context, &[]).expect_err("empty");
    assert!(empty.to_string().contains("built without kernels"), "{empty}");
    let garbage = Module::load(&context, &[1; 100]).expect_err("garbage");
    assert_eq!((garbage.call, garbage.code), ("cuModuleLoadData", 200));
    assert!(garbage.to_string().ends_with("need a driver of at least 580"), "{garbage}");
    assert_eq!(world.books().modules, 0);
}

#[test]
fn a_graph_runs_as_often_as_it_is_launched() {
    let world = World::new();
    let context = Context::open(0, None).expect("opens");
    let entered = context.enter().expect("enters");
    let stream = Stream::new(&context).expect("a stream");
    let kernels = Kernels::load(&context).expect("loads");
    let table = Table::new(&context, &stream, &[0, 0, 0]);
    let staged = PinnedBlock::new(&context, 12).expect("memory");
    // A step: the positions are copied, then used.
    let graph = stream
        .capture(|| {
            // SAFETY: both blocks have 12 bytes and outlive the graph.
            unsafe { stream.copy_to_device(table.positions.address(), staged.address(), 12) }?;
            table.enqueue(&kernels, &stream, 3)
        })
        .expect("captures");
    let untouched = download(&stream, table.out.address(), 6);
    assert!(untouched.iter().all(|value| value.is_nan()), "{untouched:?}");
    for positions in [[3, 1, 4], [1, 5, 9], [2, 6, 5]] {
        // SAFETY: 12 bytes, and no step is under way.
        unsafe { staged.address().cast::<[u32; 3]>().write(positions) };
        graph.launch(&stream).expect("launches");
        table.check(&stream, &positions);
    }
    assert_eq!(world.books().graphs, 1);
    drop((graph, table, staged, kernels, stream, entered));
    drop(context);
    assert!(world.books().is_clean(), "{:?}", world.books());
}

#[test]
fn a_capture_that_fails_leaves_the_stream_usable() {
    let world = World::new();
    let context = Context::open(0, None).expect("opens");
    let _entered = context.enter().expect("enters");
    let stream = Stream::new(&context).expect("a stream");
    let block = upload(&context, &stream, &[1.0]);
    let failed = stream.capture(|| {
        // SAFETY: the second is refused by its bounds.
        unsafe {
            stream.fill(block.address(), 0, 4)?;
            stream.fill(block.address(), 0, 5)
        }
    });
    assert_eq!(failed.expect_err("too long").call, "cuMemsetD8Async");
    assert_eq!(world.books().graphs, 0);
    assert_eq!(download(&stream, block.address(), 1), [1.0], "nothing of it has run");
    assert!(stream.end_capture().is_err(), "no capture is under way");
    // SAFETY: within the block.
    let graph = stream.capture(|| unsafe { stream.fill(block.address(), 0, 4) }).expect("captures");
    graph.launch(&stream).expect("launches");
    assert_eq!(download(&stream, block.address(), 1), [0.0]);
}

#[test]
fn events_wait_for_what_was_before_them() {
    let world = World::new();
    let context = Context::open(0, None).expect("opens");
    let entered = context.enter().expect("enters");
    let stream = Stream::new(&context).expect("a stream");
    let pinned = PinnedBlock::new(&context, 4).expect("memory");
    let block = upload(&context, &stream, &[2.5]);
    let (start, end) =
        (Event::timed(&context).expect("an event"), Event::timed(&context).expect("an event"));
    let plain = Event::new(&context).expect("an event");
    start.record(&stream).expect("records");
    // SAFETY: both have 4 bytes and live until the event has been waited for.
    unsafe { stream.copy_to_host(pinned.address(), block.address(), 4) }.expect("copies");
    end.record(&stream).expect("records");
    plain.record(&stream).expect("records");
    plain.synchronize().expect("waits");
    assert!(!plain.raw().is_null());
    // SAFETY: the copy has run.
    assert_eq!(unsafe { pinned.address().cast::<f32>().read() }, 2.5);
    let milliseconds = start.elapsed_ms(&end).expect("both have taken place");
    assert!(milliseconds >= 0.0 && milliseconds.is_finite());
    drop((start, end, plain, pinned, block, stream, entered));
    drop(context);
    assert!(world.books().is_clean(), "{:?}", world.books());
}

#[test]
fn a_lost_context_is_told_by_every_call_and_drops_stay_quiet() {
    const LAUNCH_FAILED: u32 = 719;
    let world = World::new();
    let context = Context::open(0, None).expect("opens");
    let entered = context.enter().expect("enters");
    let stream = Stream::new(&context).expect("a stream");
    let block = DeviceBlock::new(&context, 64).expect("memory");
    let event = Event::new(&context).expect("an event");
    let kernels = Kernels::load(&context).expect("loads");
    standin::fail_call(1, LAUNCH_FAILED);
    let error = stream.synchronize().expect_err("as asked for");
    assert_eq!((error.call, error.code), ("cuStreamSynchronize", LAUNCH_FAILED));
    assert!(error.is_sticky());
    for error in [
        stream.synchronize().expect_err("lost"),
        event.record(&stream).expect_err("lost"),
        DeviceBlock::new(&context, 64).err().expect("lost"),
    ] {
        assert!(error.is_sticky(), "{error}");
    }
    drop((event, block, kernels, stream));
    drop(entered);
    assert!(current().is_null());
    drop(context);
    assert!(world.books().is_clean(), "{:?}", world.books());
}
