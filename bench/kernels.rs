//! What the CPU's products reach of what one core can do: `cargo bench --bench kernels [-- ROUNDS [TYPE…]]`.
//!
//! One activation row meets many matrices, whose weights come from memory: bytes of weights a second, and their share
//! of the read rate. 128 rows meet one matrix: operations a second (two for a multiplication and an addition), and
//! their share of bare multiply-adds of f32, or of 8-bit integers for the quantised types. The limits are measured in
//! the same rounds. Times are processor time of this thread, best of all rounds, then their median.

use larder::backend::cpu::blocks::pack::packed_bytes;
use larder::backend::cpu::dispatch::Kernels;
use larder::backend::cpu::matmul::{
    Activations, Output, Precision, Weights, matmul, q8, scratch_bytes,
};
use larder::dtype::DType;
use std::hint::black_box;

const N_OUT: usize = 2048;
const N_IN: usize = 2048;
const N_ROWS: usize = 128;
/// Rows of weights and of activations in a call, as in an engine's tasks.
const PANEL: usize = 32;
const TILE: usize = 64;
/// Bytes of weights that one activation row passes; each round takes others.
const PASS: usize = 32 << 20;
const PLACES: usize = 6;

/// Seconds of each round.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn take(&mut self, work: impl FnOnce()) {
        let begin = thread_seconds();
        work();
        self.0.push(thread_seconds() - begin);
    }

    /// Best and median of `amount` a second, in thousand millions.
    fn rates(&mut self, amount: f64) -> (f64, f64) {
        self.0.sort_by(f64::total_cmp);
        (amount / self.0[0] / 1e9, amount / self.0[self.0.len() / 2] / 1e9)
    }
}

/// Processor time of this thread.
fn thread_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the time given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The limits, round by round.
#[derive(Default)]
struct Limits {
    read: Times,
    floats: Times,
    unsigned: Times,
    signed: Times,
}

const FLOAT_ROUNDS: usize = 1 << 16;
const INTEGER_BYTES: usize = 8192;
const INTEGER_ROUNDS: usize = 256;

impl Limits {
    fn measure(&mut self, kernels: &Kernels, weights: &[u8]) {
        let small = vec![3; INTEGER_BYTES];
        // SAFETY: the table is supported; no byte of `small` is above 15.
        unsafe {
            self.read.take(|| {
                black_box((kernels.read_bytes)(weights));
            });
            self.floats.take(|| {
                black_box((kernels.multiply_floats)(FLOAT_ROUNDS, 0.5));
            });
            for (times, signed) in [(&mut self.unsigned, false), (&mut self.signed, true)] {
                times.take(|| {
                    for _ in 0..INTEGER_ROUNDS {
                        black_box((kernels.multiply_integers)(&small, signed));
                    }
                });
            }
        }
    }
}

/// One weight type and what is known of it.
struct Case {
    dtype: DType,
    precision: Precision,
    one: Times,
    many: Times,
}

/// Activations and room, made once.
struct Room {
    x: Vec<f32>,
    quantised: Vec<u8>,
    out: Vec<f32>,
    scratch: Vec<f32>,
}

impl Case {
    fn product(&self, kernels: &Kernels, weights: &[u8], n_x: usize, room: &mut Room) {
        let weights = Weights { dtype: self.dtype, n_in: N_IN, bytes: weights };
        let x = match self.precision {
            Precision::Exact => Activations::F32 { data: &room.x, stride: N_IN },
            Precision::Q8 => Activations::Q8 { data: &room.quantised, stride: q8::row_bytes(N_IN) },
        };
        let bytes = scratch_bytes(self.dtype, N_IN, self.precision);
        assert!(bytes <= 4 * room.scratch.len());
        // SAFETY: the bytes of the scratch's numbers.
        let scratch = unsafe {
            std::slice::from_raw_parts_mut(room.scratch.as_mut_ptr().cast::<u8>(), bytes)
        };
        for rows in (0..N_OUT).step_by(PANEL).map(|row| row..row + PANEL) {
            for m in (0..n_x).step_by(TILE) {
                let first = room.out[m * N_OUT + rows.start..].as_mut_ptr();
                let out = Output { first, stride: N_OUT };
                let m = m..n_x.min(m + TILE);
                // SAFETY: the table is supported; `out` has N_ROWS rows of N_OUT values.
                unsafe { matmul(kernels, &weights, rows.clone(), &x, m, scratch, out) };
            }
        }
    }

    fn matrix_bytes(&self) -> usize {
        packed_bytes(self.dtype, N_OUT as u64, N_IN as u64).unwrap_or(0) as usize
    }

    fn n_matrices(&self) -> usize {
        PASS / self.matrix_bytes()
    }

    fn measure(&mut self, kernels: &Kernels, weights: &[u8], room: &mut Room) {
        let mut times = std::mem::take(&mut self.one);
        times.take(|| {
            for weights in weights.chunks_exact(self.matrix_bytes()) {
                self.product(kernels, weights, 1, room);
            }
        });
        self.one = times;
        let mut times = std::mem::take(&mut self.many);
        times.take(|| self.product(kernels, &weights[..self.matrix_bytes()], N_ROWS, room));
        self.many = times;
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let rounds = arguments.first().and_then(|n| n.parse().ok()).unwrap_or(9);
    let wanted = |dtype: &DType| {
        let mut names = arguments.iter().skip(1).peekable();
        names.peek().is_none() || names.any(|name| *name == format!("{dtype:?}"))
    };
    let kernels = Kernels::detect();
    let case =
        |dtype, precision| Case { dtype, precision, one: Times::default(), many: Times::default() };
    let types: Vec<DType> = DType::ALL.into_iter().filter(wanted).collect();
    let mut cases: Vec<Case> = types
        .iter()
        .map(|&dtype| match dtype.is_quantised() {
            true => case(dtype, Precision::Q8),
            false => case(dtype, Precision::Exact),
        })
        .collect();
    cases.extend(
        types
            .iter()
            .filter(|dtype| dtype.is_quantised())
            .map(|&dtype| case(dtype, Precision::Exact)),
    );
    let weights = weights(PLACES * PASS);
    let mut room = room(kernels);
    let mut limits = Limits::default();
    for round in 0..rounds {
        for case in &mut cases {
            let weights = &weights[round % PLACES * PASS..][..PASS];
            limits.measure(kernels, weights);
            case.measure(kernels, weights, &mut room);
        }
    }
    print(kernels, limits, cases);
}

/// Bytes that are ordinary numbers whatever type they are taken for.
fn weights(n: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut words = Vec::with_capacity(n);
    while words.len() < n {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let bytes = (state ^ state >> 32) & 0x0f0f_0f0f_0f0f_0f0f;
        words.extend_from_slice(&(bytes + 0x2c2c_2c2c_2c2c_2c2c).to_le_bytes());
    }
    // SAFETY: advice on memory of our own.
    #[cfg(target_os = "linux")]
    unsafe {
        let at = words.as_mut_ptr().add(words.as_ptr().align_offset(4096));
        libc::madvise(at.cast(), n - 4096, libc::MADV_COLLAPSE);
    }
    words
}

fn room(kernels: &Kernels) -> Room {
    let x: Vec<f32> = (0..N_ROWS * N_IN).map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0).collect();
    let row_bytes = q8::row_bytes(N_IN);
    let mut quantised = vec![0; N_ROWS * row_bytes];
    for (x, row) in x.chunks_exact(N_IN).zip(quantised.chunks_exact_mut(row_bytes)) {
        // SAFETY: the table is supported; the sizes are those of a row.
        unsafe { (kernels.quantise_row)(x, row) };
    }
    Room { x, quantised, out: vec![0.0; N_ROWS * N_OUT], scratch: vec![0.0; 1 << 18] }
}

fn print(kernels: &Kernels, mut limits: Limits, cases: Vec<Case>) {
    let (read, read_median) = limits.read.rates(PASS as f64);
    let floats = limits.floats.rates((FLOAT_ROUNDS * 20 * kernels.lanes) as f64).0;
    let integers = (INTEGER_ROUNDS * INTEGER_BYTES * 20) as f64;
    let (unsigned, signed) = (limits.unsigned.rates(integers).0, limits.signed.rates(integers).0);
    println!("{}, one thread: reads {read:.1} GB/s (median {read_median:.1});", kernels.name);
    println!("multiply-adds: f32 {floats:.0} GFLOP/s, 8-bit {unsigned:.0} GOP/s unsigned,");
    println!("{signed:.0} signed\n");
    println!("| weights | one row, GB/s | median | of reading | 128 rows, G/s | median | of |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for mut case in cases {
        let bytes = case.n_matrices() * case.matrix_bytes();
        let (one, one_median) = case.one.rates(bytes as f64);
        let (many, many_median) = case.many.rates((2 * N_ROWS * N_OUT * N_IN) as f64);
        let is_exact = case.dtype.is_quantised() && case.precision == Precision::Exact;
        let limit = match (case.precision, case.dtype) {
            (Precision::Exact, _) => floats,
            (_, DType::Q8_0 | DType::IQ4_NL | DType::IQ4_XS) => signed,
            _ => unsigned,
        };
        println!(
            "| {:?}{} | {one:.1} | {one_median:.1} | {:.0} % | {many:.0} | {many_median:.0} | {:.0} % |",
            case.dtype,
            if is_exact { ", f32 activations" } else { "" },
            100.0 * one / read,
            100.0 * many / limit,
        );
    }
}
