//! A call for tests that makes larder panic. Exists only with the feature test-panic, and not in the header.

use std::sync::atomic::Ordering;

use super::boundary::engine_call;
use super::engine::larder_engine;
use super::pointers::invalid;
use super::status::larder_status;
use crate::backend::cpu::threads::PANIC_IN_WORKER;

/// 0: panics in this call, while it holds the engine. 1: a worker of any engine panics during the next forward or
/// step.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_test_panic(
    engine: *mut larder_engine,
    place: u32,
) -> larder_status {
    // SAFETY: the header's contract.
    unsafe {
        engine_call(engine, |engine| {
            let _running = engine.lock()?;
            match place {
                0 => panic!("injected into a call"),
                1 => PANIC_IN_WORKER.store(true, Ordering::SeqCst),
                other => return Err(invalid(format!("place is {other}, expected 0 or 1"))),
            }
            Ok(())
        })
    }
}
