//! What the kernels' tests share: a device (the stand-in, or with `LARDER_TEST_GPU=1` a real one), buffers whose
//! surroundings are watched, the policies of the emulator, random data, comparison.
//!
//! ```ignore
//! mod common;
//! #[test]
//! fn negates() {
//!     common::for_policies(|device| {
//!         let values = common::Random::new(1).values(100);
//!         let (input, output) = (device.upload(&values), device.output::<f32>(100));
//!         my_launcher(&device.kernels, &device.stream, input.address(), output.address(), 100).unwrap();
//!         let expected: Vec<f64> = values.iter().map(|&x| -f64::from(x)).collect();
//!         common::assert_close(&device.download(&output), &expected, 1e-6);
//!     });
//! }
//! ```
#![allow(dead_code)] // each test uses its part
#![cfg(feature = "standin")]

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use half::{bf16, f16};
use larder_kernels::driver::{Context, DeviceBlock, DevicePtr, Entered, Stream};
use larder_kernels::modules::Kernels;
pub use larder_kernels::standin::{DeviceKind, Policy, World};

/// An open device with a stream and all kernels; its context is current in this thread.
pub struct Device {
    entered: Entered<'static>, // of `context`; dropped before it
    pub kernels: Kernels,
    pub stream: Stream,
    pub context: Context,
    /// None on a real GPU.
    pub world: Option<World>,
}

/// A device in a world of its own.
pub fn device() -> Device {
    device_of(DeviceKind::default())
}

/// The same with another kind of stand-in (on a real GPU: what is there).
pub fn device_of(kind: DeviceKind) -> Device {
    let world = if is_real() {
        None
    } else {
        larder_kernels::standin::install();
        Some(World::with_devices(kind))
    };
    let context = Context::open(0, None).unwrap_or_else(|reason| panic!("no device: {reason}"));
    let entered = context.enter().expect("the context can be made current");
    // SAFETY: the context outlives it, as the next field but two; only the lifetime changes.
    let entered = unsafe { std::mem::transmute::<Entered<'_>, Entered<'static>>(entered) };
    let kernels = Kernels::load(&context).unwrap_or_else(|error| panic!("{error}"));
    let stream = Stream::new(&context).unwrap_or_else(|error| panic!("{error}"));
    Device { entered, kernels, stream, context, world }
}

/// Whether the tests run on a GPU.
pub fn is_real() -> bool {
    std::env::var("LARDER_TEST_GPU").is_ok_and(|it| it == "1")
}

/// Runs a test under every policy of the emulator, on one device (on a GPU: once). At the end nothing may be left on
/// the device, and nothing may have been written behind a block. `LARDER_TEST_POLICY=n` is for one policy only.
pub fn for_policies(test: impl Fn(&Device)) {
    let device = device();
    if device.world.is_none() {
        return test(&device);
    }
    let only = std::env::var("LARDER_TEST_POLICY").ok().and_then(|it| it.parse::<usize>().ok());
    for (index, policy) in Policy::ALL.into_iter().enumerate() {
        if only.is_some_and(|it| it != index) {
            continue;
        }
        policy.set();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(&device))) {
            eprintln!("under {policy:?}");
            resume_unwind(panic);
        }
    }
    Policy::ALL[0].set();
    device.close();
}

impl Device {
    /// Closes the device and checks that nothing is left of it.
    pub fn close(mut self) {
        let world = self.world.take();
        drop(self);
        if let Some(world) = world {
            assert!(world.books().is_clean(), "left on the device: {:?}", world.books());
        }
    }

    /// Values in device memory.
    pub fn upload<T: Copy>(&self, values: &[T]) -> Buffer<T> {
        let buffer = self.output(values.len());
        let bytes = std::mem::size_of_val(values) as u64;
        // SAFETY: the buffer is that large; the values stay until the copy has run.
        unsafe { self.stream.copy_to_device(buffer.address(), values.as_ptr().cast(), bytes) }
            .unwrap();
        self.synchronize();
        buffer
    }

    /// Device memory for values, filled with 0xff: NaN, and no valid index.
    pub fn output<T: Copy>(&self, len: usize) -> Buffer<T> {
        let bytes = (len * size_of::<T>()) as u64;
        let block = DeviceBlock::new(&self.context, bytes + 2 * GUARD_BYTES).unwrap();
        let (start, end) = (block.address(), block.address() + GUARD_BYTES + bytes);
        // SAFETY: all three are in the block.
        unsafe {
            self.stream.fill(start, GUARD, GUARD_BYTES).unwrap();
            self.stream.fill(start + GUARD_BYTES, 0xff, bytes).unwrap();
            self.stream.fill(end, GUARD, GUARD_BYTES).unwrap();
        }
        Buffer { block, len, element: PhantomData }
    }

    /// The values of a buffer, when all work before is done. Fails if anything was written around it.
    pub fn download<T: Copy>(&self, buffer: &Buffer<T>) -> Vec<T> {
        let mut bytes = vec![0u8; buffer.block.bytes() as usize];
        let all = bytes.len() as u64;
        // SAFETY: `bytes` is as large as the block and stays until the copy has run.
        unsafe { self.stream.copy_to_host(bytes.as_mut_ptr(), buffer.block.address(), all) }
            .unwrap_or_else(|error| panic!("{error}"));
        self.synchronize();
        let guard = GUARD_BYTES as usize;
        let (before, rest) = bytes.split_at(guard);
        let (values, after) = rest.split_at(rest.len() - guard);
        assert!(before.iter().all(|&it| it == GUARD), "written in front of a buffer");
        assert!(after.iter().all(|&it| it == GUARD), "written behind a buffer");
        let mut result = Vec::<T>::with_capacity(buffer.len);
        // SAFETY: `values` has as many bytes as `len` elements, which are plain numbers.
        unsafe {
            result.as_mut_ptr().cast::<u8>().copy_from(values.as_ptr(), values.len());
            result.set_len(buffer.len);
        }
        result
    }

    /// Waits for the stream.
    pub fn synchronize(&self) {
        self.stream.synchronize().unwrap_or_else(|error| panic!("{error}"));
    }
}

const GUARD: u8 = 0xa7;
const GUARD_BYTES: u64 = 256;

/// Values in device memory, between guards.
pub struct Buffer<T> {
    block: DeviceBlock,
    len: usize,
    element: PhantomData<T>,
}

impl<T> Buffer<T> {
    /// Of the first value; aligned to 256 bytes.
    pub fn address(&self) -> DevicePtr {
        self.block.address() + GUARD_BYTES
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }
}

/// Numbers that are the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    /// 64 random bits (splitmix64).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly in -1..1.
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `len` of those.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.value()).collect()
    }

    pub fn below(&mut self, count: usize) -> usize {
        (self.bits() % count as u64) as usize
    }
}

pub fn to_bf16(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&value| bf16::from_f32(value)).collect()
}

pub fn to_f16(values: &[f32]) -> Vec<f16> {
    values.iter().map(|&value| f16::from_f32(value)).collect()
}

/// Compares with what f64 arithmetic gives: the error of each value may be `tolerance` times the largest expected
/// magnitude. NaN never passes.
#[track_caller]
pub fn assert_close<T: Copy + Into<f64>>(actual: &[T], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(1e-30, |scale: f64, value| scale.max(value.abs()));
    for (index, (&value, &wanted)) in actual.iter().zip(expected).enumerate() {
        let value: f64 = value.into();
        let error = (value - wanted).abs() / scale;
        // True for numbers only: a NaN is not within anything.
        assert!(
            error <= tolerance,
            "value {index} is {value}, expected {wanted}: error {error:.2e} of the largest, allowed {tolerance:.1e}"
        );
    }
}
