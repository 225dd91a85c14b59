//! Products through cuBLASLt on the stand-in, against f64.
#![cfg(feature = "standin")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};

use half::{bf16, f16};
use larder_kernels::blas::{Blas, Element, Operands, Outcome, Prepared, Shape};
use larder_kernels::driver::{self, Context, DeviceBlock, Stream, Unavailable};
use larder_kernels::standin::{self, World};

type Result<T> = std::result::Result<T, Unavailable>;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts this thread's allocations.
struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A world of its own, with what the stand-in for cuBLASLt lets tests see and set in this thread.
struct Library {
    world: World,
}

impl Library {
    fn new() -> Self {
        let library = Self { world: World::new() };
        library.workspace(8192, true);
        library.refuse(0);
        library
    }

    fn symbol(name: &CStr) -> *mut c_void {
        // SAFETY: strings that end in zero; the library stays loaded.
        let found = unsafe {
            let library = libc::dlopen(c"libcublasLt.so".as_ptr(), libc::RTLD_LAZY);
            libc::dlsym(library, name.as_ptr())
        };
        assert!(!found.is_null(), "{name:?} is not exported");
        found
    }

    fn workspace(&self, bytes: u64, honours_limit: bool) {
        let symbol = Self::symbol(c"larder_standin_cublaslt_workspace");
        // SAFETY: the type that cublaslt.cpp gives it.
        let function: extern "C" fn(u64, c_int) = unsafe { std::mem::transmute(symbol) };
        function(bytes, honours_limit.into());
    }

    fn refuse(&self, n_rows: u64) {
        let symbol = Self::symbol(c"larder_standin_cublaslt_refuse");
        // SAFETY: as above.
        let function: extern "C" fn(u64) = unsafe { std::mem::transmute(symbol) };
        function(n_rows);
    }

    fn calls(&self, name: &CStr) -> u64 {
        let symbol = Self::symbol(c"larder_standin_cublaslt_calls");
        // SAFETY: as above.
        let function: extern "C" fn(*const c_char) -> u64 = unsafe { std::mem::transmute(symbol) };
        function(name.as_ptr())
    }

    fn live(&self) -> u64 {
        let symbol = Self::symbol(c"larder_standin_cublaslt_live");
        // SAFETY: as above.
        let function: extern "C" fn() -> u64 = unsafe { std::mem::transmute(symbol) };
        function()
    }
}

/// A device with a stream and the library.
struct Device {
    context: Context,
    stream: Stream,
    blas: Blas,
}

impl Device {
    fn open() -> Self {
        let context = Context::open(0, None).expect("the stand-in");
        let _entered = context.enter().expect("enter");
        let stream = Stream::new(&context).expect("a stream");
        let blas = Blas::open(&context).expect("opens").expect("the library is there");
        Self { context: context.clone(), stream, blas }
    }
}

/// Device memory of a test, with what it held at first.
struct Buffer {
    block: DeviceBlock,
    bytes: usize,
}

/// Bytes behind every buffer's content that have to stay as they are.
const GUARD: usize = 64;

impl Buffer {
    fn new(device: &Device, content: &[u8]) -> Self {
        let mut padded = content.to_vec();
        padded.resize(content.len() + GUARD, 0xff);
        let block = DeviceBlock::new(&device.context, padded.len() as u64).expect("memory");
        // SAFETY: both are that large, and the copy is waited for.
        unsafe {
            device.stream.copy_to_device(block.address(), padded.as_ptr(), padded.len() as u64)
        }
        .expect("copies");
        device.stream.synchronize().expect("copies");
        Self { block, bytes: content.len() }
    }

    fn read(&self, device: &Device) -> Vec<u8> {
        let mut content = vec![0; self.bytes + GUARD];
        let bytes = content.len() as u64;
        // SAFETY: both are that large, and the copy is waited for.
        unsafe { device.stream.copy_to_host(content.as_mut_ptr(), self.block.address(), bytes) }
            .expect("copies");
        device.stream.synchronize().expect("runs");
        assert!(content[self.bytes..].iter().all(|&byte| byte == 0xff), "written behind the end");
        content.truncate(self.bytes);
        content
    }
}

fn element_bytes(element: Element) -> usize {
    if element == Element::F32 { 4 } else { 2 }
}

fn encode(element: Element, values: &[f32]) -> Vec<u8> {
    let one = |&value: &f32| match element {
        Element::F32 => value.to_le_bytes().to_vec(),
        Element::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Element::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(one).collect()
}

fn decode(element: Element, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match element {
        Element::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        Element::F16 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
        Element::Bf16 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
    }
}

/// Values in [-1, 1) that the element type holds exactly.
fn random(element: Element, n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..n).map(|_| next()).collect();
    decode(element, &encode(element, &values))
}

/// A shape whose rows lie close together.
fn dense(n_out: u32, n_in: u32, input: Element, out: Element) -> Shape {
    let (input_ld, weight_ld, out_ld) = (n_in, n_in, n_out);
    Shape { n_out, n_in, input_ld, weight_ld, out_ld, input, out, accumulate: false }
}

/// A product's matrices on the host and on the device.
struct Case {
    shape: Shape,
    n_rows: u32,
    alpha: f32,
    /// Where the first column of the weights lies in their rows.
    first_column: u32,
    input: Vec<f32>,
    weights: Vec<f32>,
    out: Vec<f32>,
    input_buffer: Buffer,
    weights_buffer: Buffer,
    out_buffer: Buffer,
    workspace: Buffer,
}

const WORKSPACE: u64 = 32768;

impl Case {
    fn new(device: &Device, shape: Shape, n_rows: u32, alpha: f32, first_column: u32) -> Self {
        let Shape { n_out, input_ld, weight_ld, out_ld, .. } = shape;
        let input = random(shape.input, (n_rows * input_ld) as usize, 1);
        let weights = random(shape.input, (n_out * weight_ld) as usize, 2);
        let out = match shape.accumulate {
            true => random(shape.out, (n_rows * out_ld) as usize, 3),
            false => vec![f32::NAN; (n_rows * out_ld) as usize],
        };
        Self {
            input_buffer: Buffer::new(device, &encode(shape.input, &input)),
            weights_buffer: Buffer::new(device, &encode(shape.input, &weights)),
            out_buffer: Buffer::new(device, &encode(shape.out, &out)),
            workspace: Buffer::new(device, &vec![0; WORKSPACE as usize]),
            shape,
            n_rows,
            alpha,
            first_column,
            input,
            weights,
            out,
        }
    }

    fn operands(&self) -> Operands {
        let skipped = u64::from(self.first_column) * element_bytes(self.shape.input) as u64;
        Operands {
            input: self.input_buffer.block.address(),
            weights: self.weights_buffer.block.address() + skipped,
            out: self.out_buffer.block.address(),
            n_rows: self.n_rows,
            alpha: self.alpha,
            workspace: self.workspace.block.address(),
            workspace_bytes: WORKSPACE,
        }
    }

    fn enqueue(&self, device: &mut Device, prepared: Prepared) -> driver::Result<Outcome> {
        // SAFETY: the buffers have the sizes of the shape and outlive the test's synchronization.
        unsafe { device.blas.matmul(&device.stream, prepared, &self.operands()) }
    }

    /// Compares the output with f64, `times` products having been done; what is between the rows is as before.
    fn check(&self, device: &Device, times: u32) {
        let Shape { n_out, n_in, input_ld, weight_ld, out_ld, out, accumulate, .. } = self.shape;
        let got = decode(out, &self.out_buffer.read(device));
        for row in 0..self.n_rows {
            for column in 0..out_ld {
                let at = (row * out_ld + column) as usize;
                if column >= n_out {
                    assert_eq!(got[at].to_bits(), self.out[at].to_bits(), "between the rows");
                    continue;
                }
                let product: f64 = (0..n_in)
                    .map(|i| {
                        let weight = column * weight_ld + self.first_column + i;
                        f64::from(self.input[(row * input_ld + i) as usize])
                            * f64::from(self.weights[weight as usize])
                    })
                    .sum();
                let before = if accumulate { f64::from(self.out[at]) } else { 0.0 };
                let times = if accumulate { f64::from(times) } else { 1.0 };
                let want = before + times * f64::from(self.alpha) * product;
                let rounding = match out {
                    Element::F32 => 0.0,
                    Element::F16 => want.abs() / 1024.0,
                    Element::Bf16 => want.abs() / 128.0,
                };
                let error = (f64::from(got[at]) - want).abs();
                let ok = error <= 1e-6 * f64::from(n_in) + rounding;
                assert!(ok, "row {row} column {column}: {} for {want} ({:?})", got[at], self.shape);
            }
        }
    }
}

/// Prepares, enqueues and compares one product.
fn product(shape: Shape, n_rows: u32, alpha: f32, first_column: u32) {
    let mut device = Device::open();
    let context = device.context.clone();
    let _entered = context.enter().expect("enter");
    let prepared = device.blas.prepare(shape, n_rows, WORKSPACE).expect("prepares");
    let case = Case::new(&device, shape, n_rows, alpha, first_column);
    assert_eq!(case.enqueue(&mut device, prepared), Ok(Outcome::Enqueued));
    case.check(&device, 1);
}

#[test]
fn products_of_ragged_sizes_agree_with_f64() {
    let _library = Library::new();
    for input in [Element::F16, Element::Bf16] {
        for out in [Element::F32, input] {
            for (n_out, n_in, n_rows) in [(1, 8, 1), (8, 8, 64), (40, 24, 5), (33, 130, 65)] {
                product(dense(n_out, n_in, input, out), n_rows, 1.0, 0);
            }
        }
    }
}

#[test]
fn rows_can_lie_apart() {
    let _library = Library::new();
    let dense = dense(24, 40, Element::Bf16, Element::F32);
    product(Shape { input_ld: 48, weight_ld: 56, out_ld: 27, ..dense }, 7, 0.25, 0);
}

#[test]
fn a_slice_of_the_weights_columns_can_be_used() {
    let _library = Library::new();
    let shape = Shape { weight_ld: 64, ..dense(24, 40, Element::F16, Element::F32) };
    product(shape, 9, 1.0, 16);
}

#[test]
fn products_are_added_in_place() {
    let _library = Library::new();
    for out in [Element::F32, Element::Bf16] {
        let shape = Shape { accumulate: true, ..dense(40, 72, Element::Bf16, out) };
        product(shape, 66, 0.5, 0);
    }
}

#[test]
fn a_captured_product_runs_when_the_graph_does() {
    let _library = Library::new();
    let mut device = Device::open();
    let context = device.context.clone();
    let _entered = context.enter().expect("enter");
    let shape = Shape { accumulate: true, ..dense(16, 24, Element::Bf16, Element::F32) };
    let prepared = device.blas.prepare(shape, 4, WORKSPACE).expect("prepares");
    let case = Case::new(&device, shape, 4, 1.0, 0);
    device.stream.begin_capture().expect("captures");
    assert_eq!(case.enqueue(&mut device, prepared), Ok(Outcome::Enqueued));
    let graph = device.stream.end_capture().expect("captures");
    case.check(&device, 0);
    for _ in 0..3 {
        graph.launch(&device.stream).expect("launches");
    }
    case.check(&device, 3);
}

#[test]
fn algorithms_are_chosen_once_for_64_rows_and_checked_once_for_each_count() {
    let library = Library::new();
    let mut device = Device::open();
    let context = device.context.clone();
    let _entered = context.enter().expect("enter");
    let chosen = || library.calls(c"cublasLtMatmulAlgoGetHeuristic");
    let checked = || library.calls(c"cublasLtMatmulAlgoCheck");
    let shape = dense(8, 8, Element::F16, Element::F32);
    let before = chosen();
    let prepared = device.blas.prepare(shape, 129, WORKSPACE).expect("prepares");
    assert_eq!(chosen() - before, 3);
    assert_eq!(device.blas.prepare(shape, 128, WORKSPACE), Ok(prepared));
    assert_eq!(chosen() - before, 3);
    assert_eq!(device.blas.workspace_bytes(prepared), 8192);
    let case = Case::new(&device, shape, 192, 1.0, 0);
    let before_checks = checked();
    for n_rows in [1, 64, 65, 1, 64, 65, 129, 1] {
        let operands = Operands { n_rows, ..case.operands() };
        // SAFETY: the buffers hold 192 rows.
        let outcome = unsafe { device.blas.matmul(&device.stream, prepared, &operands) };
        assert_eq!(outcome, Ok(Outcome::Enqueued));
    }
    assert_eq!(chosen() - before, 3);
    assert_eq!(checked() - before_checks, 4);
    // Further rows than prepared: the last bucket is whole, the next one is not there.
    for (n_rows, outcome) in [(192, Outcome::Enqueued), (193, Outcome::NotPossible)] {
        let operands = Operands { n_rows, ..case.operands() };
        // SAFETY: the buffers hold 192 rows, and more are refused.
        let got = unsafe { device.blas.matmul(&device.stream, prepared, &operands) };
        assert_eq!(got, Ok(outcome));
    }
    device.stream.synchronize().expect("runs");
}

#[test]
fn a_product_allocates_nothing_once_it_is_prepared() {
    let _library = Library::new();
    let mut device = Device::open();
    let context = device.context.clone();
    let _entered = context.enter().expect("enter");
    let shape = dense(8, 16, Element::Bf16, Element::F32);
    let prepared = device.blas.prepare(shape, 64, WORKSPACE).expect("prepares");
    let case = Case::new(&device, shape, 64, 1.0, 0);
    // The first call of each function looks it up in the library.
    assert_eq!(case.enqueue(&mut device, prepared), Ok(Outcome::Enqueued));
    let before = ALLOCATIONS.with(Cell::get);
    for n_rows in [1, 2, 63, 64, 1] {
        let operands = Operands { n_rows, ..case.operands() };
        // SAFETY: the buffers hold 64 rows.
        let outcome = unsafe { device.blas.matmul(&device.stream, prepared, &operands) };
        assert_eq!(outcome, Ok(Outcome::Enqueued));
    }
    assert_eq!(ALLOCATIONS.with(Cell::get), before);
    device.stream.synchronize().expect("runs");
}

#[test]
fn an_algorithm_never_gets_less_workspace_than_it_needs() {
    let library = Library::new();
    let mut device = Device::open();
    let context = device.context.clone();
    let _entered = context.enter().expect("enter");
    // Both where the library keeps to the limit and where it offers more than allowed.
    for honours_limit in [true, false] {
        library.workspace(8192, honours_limit);
        let n_out = if honours_limit { 8 } else { 16 };
        let shape = dense(n_out, 8, Element::F16, Element::F32);
        let small = device.blas.prepare(shape, 64, 8191).expect("prepares");
        assert_eq!(device.blas.workspace_bytes(small), 0);
        let larger = Shape { out_ld: 24, ..shape };
        let large = device.blas.prepare(larger, 64, 8192).expect("prepares");
        assert_eq!(device.blas.workspace_bytes(large), 8192);
        let case = Case::new(&device, larger, 3, 1.0, 0);
        let operands = Operands { workspace_bytes: 8191, ..case.operands() };
        // SAFETY: the buffers have the shape's sizes.
        let outcome = unsafe { device.blas.matmul(&device.stream, large, &operands) };
        assert_eq!(outcome, Ok(Outcome::NotPossible));
        assert_eq!(case.enqueue(&mut device, large), Ok(Outcome::Enqueued));
        case.check(&device, 1);
    }
}

#[test]
fn what_cannot_be_done_is_said_and_leaves_the_output() {
    let library = Library::new();
    let mut device = Device::open();
    let context = device.context.clone();
    let _entered = context.enter().expect("enter");
    let shape = Shape { accumulate: true, ..dense(8, 8, Element::F16, Element::F32) };
    let prepared = device.blas.prepare(shape, 64, WORKSPACE).expect("prepares");
    let case = Case::new(&device, shape, 6, 1.0, 0);
    library.refuse(6);
    assert_eq!(case.enqueue(&mut device, prepared), Ok(Outcome::NotPossible));
    library.refuse(0);
    assert_eq!(case.enqueue(&mut device, prepared), Ok(Outcome::NotPossible), "asked only once");
    let odd = Operands { n_rows: 5, input: case.operands().input + 2, ..case.operands() };
    // SAFETY: nothing is done.
    let outcome = unsafe { device.blas.matmul(&device.stream, prepared, &odd) };
    assert_eq!(outcome, Ok(Outcome::NotPossible), "an address that is not aligned");
    case.check(&device, 0);
    // Types that the library does not multiply.
    let strange = dense(8, 8, Element::F32, Element::F32);
    let prepared = device.blas.prepare(strange, 64, WORKSPACE).expect("prepares");
    let case = Case::new(&device, strange, 6, 1.0, 0);
    assert_eq!(case.enqueue(&mut device, prepared), Ok(Outcome::NotPossible));
}

#[path = "blas_parts/failures.rs"]
mod failures;
