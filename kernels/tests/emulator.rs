//! That the emulator and the stand-in for libcuda find faults: kernels and hosts with planted ones, each of which must
//! be seen, under the policy that is there to see it.
#![cfg(feature = "standin")]

mod common;

use std::ffi::c_void;

use common::{Device, DeviceKind, Policy, device, device_of};
use larder_kernels::args;
use larder_kernels::driver::{DeviceBlock, Event, Launch, PinnedBlock, Result, Stream};
use larder_kernels::standin::Order;

const LAZY: Policy = Policy { eager_copies: false, order: Order::Forward };
const EAGER: Policy = Policy { eager_copies: true, order: Order::Forward };

/// Queues a launch of one block.
fn launch(device: &Device, name: &str, block: u32, args: &mut [*mut c_void]) -> Result<()> {
    let launch =
        Launch { grid: [1, 1, 1], block: [block, 1, 1], shared_bytes: 1024, dependent: true };
    // SAFETY: the arguments are the kernel's, and the buffers live in the callers.
    unsafe { device.kernels.function(name).launch(&device.stream, launch, args) }
}

/// Runs a kernel that writes `block` floats, on a device of its own, and returns what the driver says of it.
fn report_of(name: &str, block: u32) -> String {
    let device = device();
    let out = device.output::<f32>(64);
    let address = out.address();
    launch(&device, name, block, &mut args![address]).expect("the launch itself is well");
    let error = device.stream.synchronize().expect_err("the fault is found");
    assert!(error.is_sticky(), "{error}");
    // And from then on every call fails with it.
    assert!(device.stream.synchronize().is_err());
    error.to_string()
}

macro_rules! skip_on_a_gpu {
    () => {
        if common::is_real() {
            return;
        }
    };
}

#[test]
fn faults_of_synchronisation_are_reported() {
    skip_on_a_gpu!();
    for (name, block, words) in [
        ("fault_deadlock", 32, ["deadlock in fault_deadlock", "waits in __shfl_xor_sync"]),
        ("fault_exit_before_barrier", 64, ["fault_exit_before_barrier", "end"]),
        ("fault_mask_lacks_lane", 32, ["fault_mask_lacks_lane", "lacks the calling lane 16"]),
        ("fault_different_collectives", 32, ["different collectives", "__syncwarp"]),
        ("fault_no_pdl_wait", 32, ["fault_no_pdl_wait", "without pdl_wait"]),
    ] {
        let report = report_of(name, block);
        assert!(words.iter().all(|it| report.contains(it)), "{name}: {report}");
    }
}

#[test]
fn misaligned_copies_are_reported() {
    skip_on_a_gpu!();
    let device = device();
    let (from, to) = (device.upload(&[0u32; 8]), device.output::<u32>(4));
    let (a, b) = (from.address(), to.address());
    launch(&device, "fault_misaligned_copy", 1, &mut args![a, b]).unwrap();
    let report = device.stream.synchronize().unwrap_err().to_string();
    assert!(report.contains("not aligned to 16 bytes"), "{report}");
}

#[test]
fn shared_memory_starts_as_nan_in_every_block() {
    skip_on_a_gpu!();
    let device = device();
    for _ in 0..2 {
        let zeros = device.upload(&[0f32; 64]);
        let address = zeros.address();
        launch(&device, "fault_unset_shared", 32, &mut args![address]).unwrap();
        assert!(device.download(&zeros).iter().all(|it| it.is_nan()));
    }
}

/// The words that a kernel gives which should copy `from[..128]`.
fn copied(policy: Policy, name: &str) -> (Vec<u32>, Vec<u32>) {
    let device = device();
    policy.set();
    let values: Vec<u32> = (0..256).collect();
    let (from, to) = (device.upload(&values), device.output::<u32>(128));
    let (a, b) = (from.address(), to.address());
    launch(&device, name, 32, &mut args![a, b]).unwrap();
    let result = device.download(&to);
    (result, values[..128].to_vec())
}

#[test]
fn lazy_copies_show_a_missing_wait() {
    skip_on_a_gpu!();
    let (result, _) = copied(LAZY, "fault_missing_wait");
    assert_eq!(result, vec![u32::MAX; 128]);
    let (result, expected) = copied(EAGER, "fault_missing_wait");
    assert_eq!(result, expected, "eager copies hide it");
}

#[test]
fn eager_copies_show_an_early_overwrite() {
    skip_on_a_gpu!();
    let (result, expected) = copied(EAGER, "fault_early_overwrite");
    assert_ne!(result, expected);
    let (result, expected) = copied(LAZY, "fault_early_overwrite");
    assert_eq!(result, expected, "lazy copies hide it");
}

#[test]
fn some_order_shows_a_missing_barrier() {
    skip_on_a_gpu!();
    for order in [Order::Forward, Order::Random(1), Order::Random(2)] {
        let device = device();
        Policy { eager_copies: false, order }.set();
        let out = device.output::<f32>(64);
        let address = out.address();
        launch(&device, "fault_race", 64, &mut args![address]).unwrap();
        assert!(device.download(&out).iter().any(|it| it.is_nan()), "{order:?}");
    }
}

#[test]
fn a_write_behind_a_block_is_in_the_books() {
    skip_on_a_gpu!();
    let device = device();
    let block = DeviceBlock::new(&device.context, 256).unwrap();
    let (address, index, value) = (block.address(), 64u32, 1f32);
    launch(&device, "test_store", 32, &mut args![address, index, value]).unwrap();
    device.synchronize();
    let world = device.world.as_ref().unwrap();
    assert_eq!(world.books().overruns, 0);
    drop(block);
    assert_eq!(world.books().overruns, 1);
}

#[test]
fn copies_outside_of_a_block_are_refused() {
    skip_on_a_gpu!();
    let device = device();
    let block = DeviceBlock::new(&device.context, 256).unwrap();
    let host = [0u8; 300];
    // SAFETY: the stand-in refuses what is out of bounds.
    unsafe {
        let copy = |offset, bytes| {
            device.stream.copy_to_device(block.address() + offset, host.as_ptr(), bytes)
        };
        assert!(copy(0, 256).is_ok());
        assert!(copy(255, 1).is_ok());
        for (offset, bytes) in [(0, 257), (256, 1), (u64::MAX - block.address(), 1)] {
            let error = copy(offset, bytes).unwrap_err();
            assert!(error.message.contains("not in one block of device memory"), "{error}");
        }
        assert!(device.stream.fill(block.address() + 200, 0, 57).is_err());
    }
    device.synchronize();
}

/// A copy that is queued when its memory is freed... is done first: freeing waits, as the driver's does.
#[test]
fn freeing_waits_for_the_queue() {
    skip_on_a_gpu!();
    let device = device();
    let block = DeviceBlock::new(&device.context, 256).unwrap();
    let pinned = PinnedBlock::new(&device.context, 256).unwrap();
    // SAFETY: both are that large.
    unsafe {
        device.stream.fill(block.address(), 7, 256).unwrap();
        device.stream.copy_to_host(pinned.address(), block.address(), 256).unwrap();
    }
    drop(block);
    // SAFETY: the copy has run.
    assert_eq!(unsafe { *pinned.address() }, 7);
}

#[test]
fn pinned_memory_is_touched_when_the_copy_runs() {
    skip_on_a_gpu!();
    let device = device();
    let block = DeviceBlock::new(&device.context, 4).unwrap();
    let source = PinnedBlock::new(&device.context, 4).unwrap();
    let target = PinnedBlock::new(&device.context, 4).unwrap();
    // SAFETY: all are that large.
    unsafe {
        source.address().write(1);
        device.stream.copy_to_device(block.address(), source.address(), 4).unwrap();
        device.stream.copy_to_host(target.address(), block.address(), 4).unwrap();
        // Too early, both: what a host may not do.
        source.address().write(2);
        let read_early = target.address().read();
        device.synchronize();
        assert_eq!(read_early, 0xff, "fresh memory is 0xff, and the copy has not run");
        assert_eq!(target.address().read(), 2, "the source was read when the copy ran");
    }
}

#[test]
fn streams_do_not_wait_for_each_other() {
    skip_on_a_gpu!();
    let device = device();
    let other = Stream::new(&device.context).unwrap();
    let block = DeviceBlock::new(&device.context, 4).unwrap();
    let mut seen = [0u8; 4];
    // SAFETY: all are that large; a copy to memory that is not pinned is done when it returns.
    unsafe {
        device.stream.fill(block.address(), 5, 4).unwrap();
        other.copy_to_host(seen.as_mut_ptr(), block.address(), 4).unwrap();
        assert_eq!(seen, [0xff; 4]);
    }
    let event = Event::new(&device.context).unwrap();
    event.record(&device.stream).unwrap();
    event.synchronize().unwrap();
    // SAFETY: as above.
    unsafe { other.copy_to_host(seen.as_mut_ptr(), block.address(), 4).unwrap() };
    assert_eq!(seen, [5; 4]);
}

#[test]
fn launches_are_checked_as_the_driver_does() {
    skip_on_a_gpu!();
    let ampere = DeviceKind { compute_capability: (8, 6), ..DeviceKind::default() };
    let device = device_of(ampere);
    let out = device.output::<f32>(64);
    let (address, index, value) = (out.address(), 0u32, 1f32);
    let function = device.kernels.function("test_store");
    let try_launch = |grid, block, shared_bytes| {
        let launch = Launch { grid, block, shared_bytes, dependent: true };
        // SAFETY: the arguments are the kernel's.
        unsafe { function.launch(&device.stream, launch, &mut args![address, index, value]) }
    };
    assert!(try_launch([1, 1, 1], [1024, 1, 1], 99 << 10).is_ok());
    assert!(try_launch([1, 65535, 1], [1, 1, 1], 0).is_ok());
    assert!(try_launch([1, 1, 1], [32, 33, 1], 0).is_err(), "too many threads");
    assert!(try_launch([1, 1, 1], [0, 1, 1], 0).is_err(), "no thread");
    assert!(try_launch([0, 1, 1], [1, 1, 1], 0).is_err(), "no block");
    assert!(try_launch([1, 65536, 1], [1, 1, 1], 0).is_err(), "too many blocks in y");
    assert!(try_launch([1, 1, 1], [1, 1, 1], (99 << 10) + 1).is_err(), "more than the chip has");
    assert!(function.allow_shared((99 << 10) + 1).is_err());
    function.allow_shared(1000).unwrap();
    assert!(try_launch([1, 1, 1], [1, 1, 1], 1001).is_err(), "more than was allowed");
    let missing = device.kernels.function("no_such_kernel");
    let launch = Launch { grid: [1; 3], block: [1; 3], shared_bytes: 0, dependent: false };
    // SAFETY: nothing is launched.
    assert!(unsafe { missing.launch(&device.stream, launch, &mut []) }.is_err());
}

#[test]
fn places_and_barriers_with_votes() {
    common::for_policies(|device| {
        let (grid, block) = ([3u32, 2, 2], [4u32, 5, 3]);
        let n_threads = 60usize;
        let out = device.output::<u32>(12 * n_threads);
        let address = out.address();
        let launch = Launch { grid, block, shared_bytes: 0, dependent: true };
        let function = device.kernels.function("test_places");
        // SAFETY: the argument is the kernel's.
        unsafe { function.launch(&device.stream, launch, &mut args![address]) }.unwrap();
        let expected: Vec<u32> = (0..12 * n_threads)
            .map(|i| ((i / n_threads * 1000 + i % n_threads) as u32) + (30 << 24))
            .collect();
        assert_eq!(device.download(&out), expected);
    });
}

#[test]
fn exited_lanes_take_no_part() {
    skip_on_a_gpu!(); // there, a mask may not name them
    common::for_policies(|device| {
        let out = device.output::<u32>(8);
        let address = out.address();
        launch(device, "test_exited_lanes", 32, &mut args![address]).unwrap();
        assert_eq!(device.download(&out), vec![28 * 1000 + 0xaa; 8]);
    });
}

#[test]
fn atomics() {
    common::for_policies(|device| {
        let (counter, largest) = (device.upload(&[0u32]), device.upload(&[0u32]));
        let (a, b) = (counter.address(), largest.address());
        let launch =
            Launch { grid: [4, 1, 1], block: [50, 1, 1], shared_bytes: 0, dependent: true };
        let function = device.kernels.function("test_atomics");
        // SAFETY: the arguments are the kernel's.
        unsafe { function.launch(&device.stream, launch, &mut args![a, b]) }.unwrap();
        assert_eq!(device.download(&counter), [199 * 200 / 2]);
        assert_eq!(device.download(&largest), [99]);
    });
}

#[test]
fn graphs_run_again_with_what_memory_holds_then() {
    common::for_policies(|device| {
        let out = device.upload(&[0f32; 4]);
        let (address, index, value) = (out.address(), 2u32, 3f32);
        device.stream.begin_capture().unwrap();
        launch(device, "test_store", 32, &mut args![address, index, value]).unwrap();
        let graph = device.stream.end_capture().unwrap();
        assert_eq!(device.download(&out), [0.0; 4], "capturing runs nothing");
        for _ in 0..2 {
            graph.launch(&device.stream).unwrap();
            assert_eq!(device.download(&out), [0.0, 0.0, 3.0, 0.0]);
            // SAFETY: inside of the buffer.
            unsafe { device.stream.fill(address, 0, 16) }.unwrap();
        }
        device.synchronize();
    });
}

#[test]
fn allocating_breaks_a_capture() {
    skip_on_a_gpu!();
    let device = device();
    device.stream.begin_capture().unwrap();
    assert!(DeviceBlock::new(&device.context, 256).is_err());
    assert!(device.stream.end_capture().is_err());
    assert!(DeviceBlock::new(&device.context, 256).is_ok());
}
