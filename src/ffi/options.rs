//! `larder_options`: numbers from C become Rust values, and each one that means nothing is refused by name.

use std::ffi::c_void;

use super::hooks::{hooks_from, larder_hooks};
use super::pointers::{Versioned, init, invalid, versioned};
use crate::dtype::KvType;
use crate::error::Result;
use crate::options::{AreaMode, CudaOptions, CudaWeights, Device, Options};

/// options.device: the processor.
pub const LARDER_DEVICE_CPU: u32 = 0;
/// options.device: a CUDA GPU, number options.device_index.
pub const LARDER_DEVICE_CUDA: u32 = 1;

/// options.k_type and v_type: bfloat16.
pub const LARDER_KV_BF16: u32 = 0;
/// options.k_type and v_type: IEEE half precision.
pub const LARDER_KV_F16: u32 = 1;
/// options.k_type and v_type: IEEE single precision.
pub const LARDER_KV_F32: u32 = 2;
/// options.k_type and v_type: 8-bit integers with a scale per token and head. On CUDA devices.
pub const LARDER_KV_INT8: u32 = 3;
/// options.k_type and v_type: 8-bit floats (e4m3) with a scale per token and head. On CUDA devices.
pub const LARDER_KV_FP8: u32 = 4;

/// options.area_mode: chosen at create from the device and the other options.
pub const LARDER_AREA_AUTO: u32 = 0;
/// options.area_mode: the smallest compute area.
pub const LARDER_AREA_SHORT: u32 = 1;
/// options.area_mode: wide tiles.
pub const LARDER_AREA_LONG: u32 = 2;

/// options.flags: quantised weights meet f32 activations instead of 8-bit ones; slower, closer to the reference.
pub const LARDER_FLAG_EXACT_ACTIVATIONS: u32 = 1;
/// options.flags: weight matrices that the file has as plain floats are stored as 8-bit floats (e4m3) with a scale
/// per output row. On CUDA devices.
pub const LARDER_FLAG_CUDA_FP8_WEIGHTS: u32 = 2;
/// options.flags: the same as 8-bit integers. On CUDA devices.
pub const LARDER_FLAG_CUDA_INT8_WEIGHTS: u32 = 4;
/// All of them.
const KNOWN_FLAGS: u32 =
    LARDER_FLAG_EXACT_ACTIVATIONS | LARDER_FLAG_CUDA_FP8_WEIGHTS | LARDER_FLAG_CUDA_INT8_WEIGHTS;

/// What an engine is to be. All zero, but for struct_size, is a good start: larder_options_init.
/// Read during plan and create only; the caller may free it afterwards.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_options {
    /// Set by larder_options_init.
    pub struct_size: u32,
    /// LARDER_DEVICE_
    pub device: u32,
    /// Which of several GPUs.
    pub device_index: u32,
    /// 0: one per physical core; 1: starts none; with hooks.parallel_for: starts none.
    pub n_threads: u32,
    /// 0: none. Else create stays under it, all classes together, or fails with the numbers.
    pub memory_limit_bytes: u64,
    /// Token slots; 0: what the limit leaves, without limit max_sequences * max_sequence_tokens.
    pub total_tokens: u64,
    /// 0: the model's own limit as far as total_tokens allows; at most 4096 where nothing else is said.
    pub max_sequence_tokens: u32,
    /// 0: 4.
    pub max_sequences: u32,
    /// Requests that wait or run at one time. 0: 64.
    pub max_requests: u32,
    /// Rows of one step: prefill chunks and decode rows together. 0: chosen with the area mode.
    pub max_batch_rows: u32,
    /// Rows of logits that exist at one time. 0: 16.
    pub max_logits_rows: u32,
    /// LARDER_KV_
    pub k_type: u32,
    /// LARDER_KV_
    pub v_type: u32,
    /// LARDER_AREA_
    pub area_mode: u32,
    /// LARDER_FLAG_ bits
    pub flags: u32,
    /// NULL: the device's primary context.
    pub cuda_context: *mut c_void,
    /// NULL: a stream of our own.
    pub cuda_stream: *mut c_void,
    /// NULL: none. Copied.
    pub hooks: *const larder_hooks,
}

// SAFETY: integers and pointers only.
unsafe impl Versioned for larder_options {
    const NAME: &'static str = "larder_options";
    const MIN_BYTES: usize = 8;
}

const _: () = assert!(size_of::<larder_options>() == 96);

/// Sets every field to its default. options: not NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_options_init(options: *mut larder_options) {
    // SAFETY: the header's contract.
    unsafe { init(options) }
}

/// Reads and checks a host's options; NULL gives the defaults.
///
/// # Safety
/// As [`versioned`], for the options and for the hooks that they point to.
pub(super) unsafe fn options_from(pointer: *const larder_options) -> Result<Options> {
    if pointer.is_null() {
        return Ok(Options::default());
    }
    // SAFETY: handed on.
    let options = unsafe { versioned(pointer, "options")? };
    let unknown = options.flags & !KNOWN_FLAGS;
    if unknown != 0 {
        return Err(invalid(format!("options.flags has unknown bits {unknown:#x}")));
    }
    Ok(Options {
        device: device_from(&options)?,
        n_threads: options.n_threads,
        memory_limit_bytes: options.memory_limit_bytes,
        total_tokens: options.total_tokens,
        max_sequence_tokens: options.max_sequence_tokens,
        max_sequences: options.max_sequences,
        max_requests: options.max_requests,
        max_batch_rows: options.max_batch_rows,
        max_logits_rows: options.max_logits_rows,
        k_type: kv_type_from(options.k_type, "options.k_type")?,
        v_type: kv_type_from(options.v_type, "options.v_type")?,
        area_mode: area_mode_from(options.area_mode)?,
        exact_activations: options.flags & LARDER_FLAG_EXACT_ACTIVATIONS != 0,
        cuda: CudaOptions {
            context: options.cuda_context.addr(),
            stream: options.cuda_stream.addr(),
            weights: cuda_weights_from(&options)?,
        },
        // SAFETY: handed on.
        hooks: unsafe { hooks_from(options.hooks)? },
    })
}

fn device_from(options: &larder_options) -> Result<Device> {
    match options.device {
        LARDER_DEVICE_CPU => {
            if options.device_index != 0 {
                let index = options.device_index;
                return Err(invalid(format!(
                    "options.device_index is {index}, the CPU has only 0"
                )));
            }
            if !options.cuda_context.is_null() || !options.cuda_stream.is_null() {
                return Err(invalid(
                    "options.cuda_context or cuda_stream is set, but options.device is the CPU"
                        .into(),
                ));
            }
            Ok(Device::Cpu)
        }
        LARDER_DEVICE_CUDA => Ok(Device::Cuda { index: options.device_index }),
        other => {
            Err(invalid(format!("options.device is {other}, expected a LARDER_DEVICE_ value")))
        }
    }
}

fn cuda_weights_from(options: &larder_options) -> Result<CudaWeights> {
    let fp8 = options.flags & LARDER_FLAG_CUDA_FP8_WEIGHTS != 0;
    let int8 = options.flags & LARDER_FLAG_CUDA_INT8_WEIGHTS != 0;
    if (fp8 || int8) && options.device != LARDER_DEVICE_CUDA {
        return Err(invalid(
            "options.flags asks for CUDA weights, but options.device is the CPU".into(),
        ));
    }
    match (fp8, int8) {
        (false, false) => Ok(CudaWeights::AsInFile),
        (true, false) => Ok(CudaWeights::Fp8),
        (false, true) => Ok(CudaWeights::Int8),
        (true, true) => {
            Err(invalid("options.flags asks for fp8 and for int8 weights, expected one".into()))
        }
    }
}

fn kv_type_from(value: u32, name: &str) -> Result<KvType> {
    match value {
        LARDER_KV_BF16 => Ok(KvType::BF16),
        LARDER_KV_F16 => Ok(KvType::F16),
        LARDER_KV_F32 => Ok(KvType::F32),
        LARDER_KV_INT8 => Ok(KvType::Int8),
        LARDER_KV_FP8 => Ok(KvType::Fp8),
        other => Err(invalid(format!("{name} is {other}, expected a LARDER_KV_ value"))),
    }
}

fn area_mode_from(value: u32) -> Result<AreaMode> {
    match value {
        LARDER_AREA_AUTO => Ok(AreaMode::Auto),
        LARDER_AREA_SHORT => Ok(AreaMode::Short),
        LARDER_AREA_LONG => Ok(AreaMode::Long),
        other => {
            Err(invalid(format!("options.area_mode is {other}, expected a LARDER_AREA_ value")))
        }
    }
}
