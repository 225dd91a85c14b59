//! The device, its memory, and how times are taken.

use std::fmt;

use larder_kernels::driver::{Context, DeviceBlock, DevicePtr, Event, Result, Stream};
use larder_kernels::modules::Kernels;

/// Why the benchmark stops.
pub type Failure = Box<dyn std::error::Error>;

/// Memory that is used in turn has at least this many times the size of the level-2 cache, so that it is read anew.
const CACHES: u64 = 4;

pub struct Bench {
    pub is_smoke: bool,
    pub context: Context,
    pub stream: Stream,
    pub kernels: Kernels,
    /// Bytes read and written by a large copy, in 1e9 per second.
    pub copy_gb_per_s: f64,
}

impl Bench {
    pub fn open(is_smoke: bool) -> std::result::Result<Self, Failure> {
        let context = Context::open(0, None)?;
        // Current until the process ends: all that follows works in this thread.
        std::mem::forget(context.enter()?);
        let stream = Stream::new(&context)?;
        let kernels = Kernels::load(&context)?;
        let mut bench = Self { is_smoke, context, stream, kernels, copy_gb_per_s: 0.0 };
        bench.copy_gb_per_s = bench.copy_bandwidth()?;
        Ok(bench)
    }

    /// Of several copies the fastest.
    fn copy_bandwidth(&self) -> Result<f64> {
        let bytes: u64 = if self.is_smoke { 1 << 16 } else { 1 << 30 };
        let (from, to) = (self.random(bytes)?, self.random(bytes)?);
        let microseconds = self.time(4, |_| {
            // SAFETY: two blocks of that size.
            unsafe { self.stream.copy_on_device(to.address(), from.address(), bytes) }
        })?;
        Ok(gb_per_s(2 * bytes, microseconds))
    }

    /// Device memory with random bytes that make finite numbers of any of the formats: the highest bit of an exponent
    /// is never set.
    pub fn random(&self, bytes: u64) -> Result<DeviceBlock> {
        let block = DeviceBlock::new(&self.context, bytes)?;
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let pattern: Vec<u8> = (0..bytes.min(1 << 22))
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8 & 0xbf
            })
            .collect();
        let mut done = pattern.len() as u64;
        // SAFETY: the pattern fits, and lives until the stream has been waited for; each copy stays in the block.
        unsafe { self.stream.copy_to_device(block.address(), pattern.as_ptr(), done) }?;
        while done < bytes {
            let n = done.min(bytes - done);
            // SAFETY: as above.
            unsafe { self.stream.copy_on_device(block.address() + done, block.address(), n) }?;
            done += n;
        }
        self.stream.synchronize()?;
        Ok(block)
    }

    /// Device memory with these bytes.
    pub fn upload(&self, bytes: &[u8]) -> Result<DeviceBlock> {
        let block = DeviceBlock::new(&self.context, bytes.len() as u64)?;
        // SAFETY: both have that size, and the copy is waited for.
        unsafe { self.stream.copy_to_device(block.address(), bytes.as_ptr(), bytes.len() as u64) }?;
        self.stream.synchronize()?;
        Ok(block)
    }

    /// Copies of something of `bytes` in one block, to be used in turn.
    pub fn copies(&self, bytes: u64, at_most: u64) -> Result<Copies> {
        let wanted = (CACHES * self.kernels.info().l2_bytes).div_ceil(bytes.max(1)) + 1;
        let n = if self.is_smoke { 2 } else { wanted.clamp(2, at_most.max(2)) };
        Ok(Copies { block: self.random(n * bytes)?, bytes, n })
    }

    /// Microseconds of one of `n` things that `enqueue` is called for, captured as one graph: the best of some runs.
    pub fn time(&self, n: u64, enqueue: impl Fn(u64) -> Result<()>) -> Result<f64> {
        let graph = self.stream.capture(|| (0..n).try_for_each(&enqueue))?;
        let (start, end) = (Event::timed(&self.context)?, Event::timed(&self.context)?);
        let mut best = f64::INFINITY;
        for _ in 0..if self.is_smoke { 1 } else { 12 } {
            start.record(&self.stream)?;
            graph.launch(&self.stream)?;
            end.record(&self.stream)?;
            end.synchronize()?;
            best = best.min(f64::from(start.elapsed_ms(&end)?));
        }
        Ok(best * 1e3 / n as f64)
    }
}

/// See [`Bench::copies`].
pub struct Copies {
    block: DeviceBlock,
    bytes: u64,
    pub n: u64,
}

impl Copies {
    /// The copy for turn `i`.
    pub fn address(&self, i: u64) -> DevicePtr {
        self.block.address() + i % self.n * self.bytes
    }
}

/// 1e9 bytes per second.
pub fn gb_per_s(bytes: u64, microseconds: f64) -> f64 {
    bytes as f64 / microseconds / 1e3
}

/// One row of a table.
pub struct Row<'a>(pub &'a [String]);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} |", self.0.join(" | "))
    }
}

/// A table's first two lines.
pub fn print_header(columns: &[&str]) {
    println!("{}", Row(&columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>()));
    println!("|{}", "-|".repeat(columns.len()));
}
