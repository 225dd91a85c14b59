//! What a host may choose, as Rust values; `ffi` converts the C structs to these. Zero or `None` means "default".
#![forbid(unsafe_code)]

use crate::dtype::KvType;

/// Which backend runs the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The host's processor.
    Cpu,
    /// CUDA device number `index`.
    Cuda { index: u32 },
}

/// The trade of bytes for speed in the compute area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AreaMode {
    /// Chosen at create; the plan says what and why.
    Auto,
    /// The smallest area.
    Short,
    /// Wide tiles.
    Long,
}

/// Options of create and plan. `Default` gives every default; a 0 is replaced at plan time as each field says.
#[derive(Clone)]
pub struct Options {
    pub device: Device,
    /// 0: one per physical core; 1: no thread is started.
    pub n_threads: u32,
    /// 0: none. All classes together stay below it.
    pub memory_limit_bytes: u64,
    /// Token slots. 0: what the limit leaves; without limit `max_sequences * max_sequence_tokens`.
    pub total_tokens: u64,
    /// 0: the model's own limit as far as `total_tokens` allows; without any number given, at most 4096.
    pub max_sequence_tokens: u32,
    /// 0: 4.
    pub max_sequences: u32,
    /// 0: 64.
    pub max_requests: u32,
    /// Rows of one step. 0: chosen with the area mode.
    pub max_batch_rows: u32,
    /// Rows of logits that exist at once. 0: 16.
    pub max_logits_rows: u32,
    pub k_type: KvType,
    pub v_type: KvType,
    pub area_mode: AreaMode,
    /// Quantised weights meet f32 activations instead of 8-bit ones: slower, closer to the reference.
    pub exact_activations: bool,
    pub cuda: CudaOptions,
    pub hooks: Hooks,
}

/// What a host may lend or ask of a CUDA device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CudaOptions {
    /// A `CUcontext` of the host; 0: the device's primary context.
    pub context: usize,
    /// A `CUstream` of the host; 0: a stream of our own.
    pub stream: usize,
    /// How plain (F32, F16, BF16) weight matrices are stored on the device.
    pub weights: CudaWeights,
}

/// How a CUDA device stores weight matrices that the file has as plain floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CudaWeights {
    /// As in the file.
    #[default]
    AsInFile,
    /// e4m3 with a scale per output row.
    Fp8,
    /// 8-bit integers with a scale per output row.
    Int8,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            device: Device::Cpu,
            n_threads: 0,
            memory_limit_bytes: 0,
            total_tokens: 0,
            max_sequence_tokens: 0,
            max_sequences: 0,
            max_requests: 0,
            max_batch_rows: 0,
            max_logits_rows: 0,
            k_type: KvType::BF16,
            v_type: KvType::BF16,
            area_mode: AreaMode::Auto,
            exact_activations: false,
            cuda: CudaOptions::default(),
            hooks: Hooks::default(),
        }
    }
}

/// Severity of a log line, as in the header: 1 errors, 2 warnings, 3 information, 4 debugging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error = 1,
    Warning = 2,
    Information = 3,
    Debug = 4,
}

/// What kind of memory a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    Host = 0,
    HostPinned = 1,
    Device = 2,
}

/// Where big blocks come from when the host lends its own memory.
pub trait BlockAllocator: Send + Sync {
    /// Returns the address of `bytes` bytes with this alignment, or `None` when refused.
    fn allocate(
        &self,
        kind: BlockKind,
        bytes: usize,
        alignment: usize,
    ) -> Option<std::ptr::NonNull<u8>>;
    /// Takes back what [`allocate`](Self::allocate) returned.
    fn deallocate(&self, kind: BlockKind, address: std::ptr::NonNull<u8>, bytes: usize);
}

/// The host's own thread pool: runs `task(0) .. task(n_tasks - 1)` and returns when all have returned.
pub trait Executor: Send + Sync {
    fn parallel_for(&self, n_tasks: u32, task: &(dyn Fn(u32) + Sync));
}

/// Takes one line of the log.
pub type Log = dyn Fn(LogLevel, &str) + Send + Sync;

/// Called with (done, total) bytes while weights are read; `false` stops the load.
pub type Progress = dyn Fn(u64, u64) -> bool + Send + Sync;

/// Told of evictions: namespace and number of tokens.
pub type Evicted = dyn Fn(u64, u64) + Send + Sync;

/// What the host lends; every part is optional.
#[derive(Clone, Default)]
pub struct Hooks {
    pub log: Option<std::sync::Arc<Log>>,
    pub progress: Option<std::sync::Arc<Progress>>,
    pub allocator: Option<std::sync::Arc<dyn BlockAllocator>>,
    pub executor: Option<std::sync::Arc<dyn Executor>>,
    pub evicted: Option<std::sync::Arc<Evicted>>,
}
