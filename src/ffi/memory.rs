//! `larder_memory`: bytes by class, the same numbers before create (plan) and after it (memory).

use super::options::{LARDER_AREA_AUTO, LARDER_AREA_LONG, LARDER_AREA_SHORT};
use super::pointers::{Versioned, init};
use crate::engine::Memory;
use crate::options::AreaMode;

/// Bytes by class, the same before (plan) and after (memory). Plain numbers: the caller's own.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_memory {
    /// Set by larder_memory_init.
    pub struct_size: u32,
    /// What auto chose; larder_engine_describe tells why.
    pub area_mode: u32,
    /// The model's weights, as the backend packs them.
    pub weights_bytes: u64,
    /// K and V of total_tokens token slots and one more, all layers.
    pub kv_repo_bytes: u64,
    /// Every activation.
    pub compute_area_bytes: u64,
    /// Sequences, requests, tokenizer tables.
    pub bookkeeping_bytes: u64,
    /// Of all classes, what lies in the host's memory.
    pub host_bytes: u64,
    /// Of all classes, what lies in the device's memory.
    pub device_bytes: u64,
    /// Highest use while create runs.
    pub load_peak_bytes: u64,
    /// Token slots.
    pub total_tokens: u64,
    /// One token, all layers.
    pub token_slot_bytes: u64,
}

// SAFETY: integers only.
unsafe impl Versioned for larder_memory {
    const NAME: &'static str = "larder_memory";
    const MIN_BYTES: usize = 8;
}

const _: () = assert!(size_of::<larder_memory>() == 80);

/// Sets every field to 0, and struct_size. memory: not NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_memory_init(memory: *mut larder_memory) {
    // SAFETY: the header's contract.
    unsafe { init(memory) }
}

impl From<&Memory> for larder_memory {
    fn from(memory: &Memory) -> Self {
        larder_memory {
            struct_size: size_of::<larder_memory>() as u32,
            area_mode: match memory.area_mode {
                AreaMode::Auto => LARDER_AREA_AUTO,
                AreaMode::Short => LARDER_AREA_SHORT,
                AreaMode::Long => LARDER_AREA_LONG,
            },
            weights_bytes: memory.weights_bytes,
            kv_repo_bytes: memory.kv_repo_bytes,
            compute_area_bytes: memory.compute_area_bytes,
            bookkeeping_bytes: memory.bookkeeping_bytes,
            host_bytes: memory.host_bytes,
            device_bytes: memory.device_bytes,
            load_peak_bytes: memory.load_peak_bytes,
            total_tokens: memory.total_tokens,
            token_slot_bytes: memory.token_slot_bytes,
        }
    }
}
