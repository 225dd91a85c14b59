//! `larder_stats`: what an engine has done and holds, read without waiting for a step.

use std::ffi::c_char;

use super::boundary::{engine_call, guard};
use super::engine::larder_engine;
use super::pointers::{Versioned, copy_out, init, text, versioned, write_versioned};
use super::status::larder_status;
use crate::error::Result;
use crate::serve::Stats;

/// Numbers as of the end of the last step. Gauges unless said otherwise; counters count since create, times are in
/// nanoseconds. Plain numbers: the caller's own.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_stats {
    /// Set by larder_stats_init.
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// Token slots of the KV repo.
    pub total_slots: u64,
    /// Token slots that sequences read or pinned namespaces keep.
    pub used_slots: u64,
    /// Token slots that can be taken, by eviction if need be.
    pub free_slots: u64,
    /// Token slots that the prefix cache holds, read or not.
    pub tree_slots: u64,
    /// Token slots saved by sequences that read the same ones.
    pub shared_slots: u64,
    /// Requests that are not admitted yet.
    pub requests_waiting: u64,
    /// Requests that are admitted and have not ended.
    pub requests_running: u64,
    /// Answers that are computed.
    pub answers_running: u64,
    /// Answers that were paused for lack of slots.
    pub answers_paused: u64,
    /// Counter: requests whose answers are complete.
    pub requests_finished: u64,
    /// Counter: requests that were cancelled.
    pub requests_cancelled: u64,
    /// Counter: requests with an answer that failed.
    pub requests_failed: u64,
    /// Counter: prompt tokens of admitted answers.
    pub prompt_tokens: u64,
    /// Counter: those of them that the prefix cache had.
    pub cached_tokens: u64,
    /// Counter: tokens drawn.
    pub generated_tokens: u64,
    /// Counter: answers paused.
    pub pauses: u64,
    /// Counter: token slots taken back from the prefix cache.
    pub evicted_slots: u64,
    /// Counter: steps with at least one row.
    pub steps: u64,
    /// Counter: rows of answers that lacked one token.
    pub decode_rows: u64,
    /// Counter: rows of prompts and of resumed answers.
    pub prefill_rows: u64,
    /// Rows of the last step.
    pub last_step_rows: u64,
    /// Counter: time spent on scheduling.
    pub schedule_nanoseconds: u64,
    /// Counter: time spent in layers.
    pub forward_nanoseconds: u64,
    /// Counter: time spent on logits and on drawing tokens.
    pub sample_nanoseconds: u64,
    /// Bytes that compiled constraints and their parsers take, an estimate; those of requests that no step has seen yet
    /// are not in it.
    pub constraint_bytes: u64,
}

// SAFETY: integers only.
unsafe impl Versioned for larder_stats {
    const NAME: &'static str = "larder_stats";
    const MIN_BYTES: usize = 8;
}

const _: () = assert!(size_of::<larder_stats>() == 208);

/// Sets every field to 0, and struct_size. stats: not NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_stats_init(stats: *mut larder_stats) {
    // SAFETY: the header's contract.
    unsafe { init(stats) }
}

/// What the engine has done and holds, as of the end of the last step. Waits for nothing.
///
/// engine: not NULL. stats: not NULL, set up by larder_stats_init.
/// Errors: INVALID_ARGUMENT, ENGINE_FAILED. Any thread, at any time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_engine_stats(
    engine: *const larder_engine,
    stats: *mut larder_stats,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            write_versioned(stats, &larder_stats::from(engine.edge.stats()), "stats")
        })
    }
}

/// Writes statistics in Prometheus' text format (version 0.0.4).
///
/// stats: not NULL. prefix: `[prefix_length]`, begins every metric's name, as in "larder_". text: `[capacity]`, not
/// NULL unless capacity is 0; no NUL is added. needed: not NULL, gets the length in bytes also when the buffer is too
/// small.
/// Errors: INVALID_ARGUMENT, BUFFER_TOO_SMALL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_stats_prometheus(
    stats: *const larder_stats,
    prefix: *const c_char,
    prefix_length: usize,
    text: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> larder_status {
    guard(|| {
        // SAFETY: the header's contract, for each pointer.
        unsafe {
            let written = prometheus(stats, prefix, prefix_length)?;
            copy_out(written.as_bytes(), text.cast(), capacity, needed, "text")
        }
    })
}

/// # Safety
/// As [`versioned`] and [`text`].
unsafe fn prometheus(
    stats: *const larder_stats,
    prefix: *const c_char,
    prefix_length: usize,
) -> Result<String> {
    // SAFETY: handed on.
    let (stats, prefix) =
        unsafe { (versioned(stats, "stats")?, text(prefix, prefix_length, "prefix")?) };
    Stats::from(stats).prometheus(prefix)
}

/// The same fields on both sides.
macro_rules! convert {
    ($($name:ident)*) => {
        impl From<Stats> for larder_stats {
            fn from(stats: Stats) -> Self {
                let struct_size = size_of::<larder_stats>() as u32;
                larder_stats { struct_size, reserved: 0, $($name: stats.$name,)* }
            }
        }

        impl From<larder_stats> for Stats {
            fn from(stats: larder_stats) -> Self {
                Stats { $($name: stats.$name,)* }
            }
        }
    };
}

convert! {
    total_slots used_slots free_slots tree_slots shared_slots
    requests_waiting requests_running answers_running answers_paused
    requests_finished requests_cancelled requests_failed
    prompt_tokens cached_tokens generated_tokens pauses evicted_slots
    steps decode_rows prefill_rows last_step_rows
    schedule_nanoseconds forward_nanoseconds sample_nanoseconds constraint_bytes
}
