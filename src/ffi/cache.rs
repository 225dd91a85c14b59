//! The prefix cache: what it keeps for whom.

use super::boundary::engine_call;
use super::engine::larder_engine;
use super::pointers::{Versioned, init, invalid, versioned};
use super::status::larder_status;
use crate::kv::NameSpaceSettings;

/// What the prefix cache does for one namespace. The caller's own: copied.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_name_space_options {
    /// Set by larder_name_space_options_init.
    pub struct_size: u32,
    /// 1: its prefixes are never evicted, and so do not count as free; else 0.
    pub is_pinned: u32,
    /// Token slots that are kept for it while no sequence reads them; 0: no limit of its own.
    pub max_idle_tokens: u32,
    /// 1: nothing is kept for it. Its requests still share what runs at the same time.
    pub keeps_nothing: u32,
}

// SAFETY: integers only.
unsafe impl Versioned for larder_name_space_options {
    const NAME: &'static str = "larder_name_space_options";
    const MIN_BYTES: usize = 8;
}

const _: () = assert!(size_of::<larder_name_space_options>() == 16);

/// Sets every field to its default. options: not NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_name_space_options_init(options: *mut larder_name_space_options) {
    // SAFETY: the header's contract.
    unsafe { init(options) }
}

/// Sets what the prefix cache does for a namespace from now on. Every namespace begins with the defaults.
///
/// engine: not NULL. name_space: as in requests. options: NULL = defaults.
/// Errors: INVALID_ARGUMENT, LIMIT_REACHED (1024 namespaces have settings or cached tokens), BUSY, ENGINE_FAILED.
/// Any thread; BUSY while another call runs on the engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_name_space_set(
    engine: *mut larder_engine,
    name_space: u64,
    options: *const larder_name_space_options,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            let settings = if options.is_null() {
                NameSpaceSettings::default()
            } else {
                settings_from(&versioned(options, "options")?)?
            };
            engine.lock()?.engine.set_name_space(name_space, settings)
        })
    }
}

fn settings_from(options: &larder_name_space_options) -> crate::error::Result<NameSpaceSettings> {
    for (name, value) in
        [("is_pinned", options.is_pinned), ("keeps_nothing", options.keeps_nothing)]
    {
        if value > 1 {
            return Err(invalid(format!("options.{name} is {value}, expected 0 or 1")));
        }
    }
    let max_idle_slots = match (options.keeps_nothing, options.max_idle_tokens) {
        (1, 0) => 0,
        (1, n) => {
            return Err(invalid(format!(
                "options.keeps_nothing is 1 and options.max_idle_tokens is {n}, expected 0"
            )));
        }
        (_, 0) => u32::MAX,
        (_, n) => n,
    };
    Ok(NameSpaceSettings { max_idle_slots, is_pinned: options.is_pinned == 1 })
}

/// Evicts every cached prefix that no sequence reads and no namespace has pinned.
///
/// engine: not NULL. Errors: INVALID_ARGUMENT, BUSY, ENGINE_FAILED.
/// Any thread; BUSY while another call runs on the engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_cache_flush(engine: *mut larder_engine) -> larder_status {
    // SAFETY: the header's contract.
    unsafe {
        engine_call(engine, |engine| {
            engine.lock()?.engine.flush_cache();
            Ok(())
        })
    }
}
