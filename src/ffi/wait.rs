//! How a host's loop learns that there is work: by sleeping in larder, or by watching a file of its own.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;

use super::boundary::engine_call;
use super::engine::larder_engine;
use super::pointers::output;
use super::status::larder_status;
use crate::error::{Error, Result};

/// larder_engine_wait: as long as it takes.
pub const LARDER_WAIT_FOREVER: u32 = u32::MAX;

/// Sleeps until a step would have something to do or to tell, or until the time is over.
///
/// engine: not NULL. timeout_ms: 0 only looks; LARDER_WAIT_FOREVER. has_work: not NULL; 1 when there is work, else 0.
/// Errors: INVALID_ARGUMENT, ENGINE_FAILED. Any thread, also while a step runs; not while release does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_engine_wait(
    engine: *mut larder_engine,
    timeout_ms: u32,
    has_work: *mut u32,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            let target = output(has_work, "has_work")?;
            let timeout = match timeout_ms {
                LARDER_WAIT_FOREVER => Duration::MAX,
                ms => Duration::from_millis(u64::from(ms)),
            };
            let has_work = engine.edge.wait(timeout);
            engine.check_failed()?;
            target.write(u32::from(has_work));
            Ok(())
        })
    }
}

/// An eventfd for the host's own poll, epoll or io_uring: readable once a request was submitted or cancelled since the
/// last step began. The host that sees it readable steps until larder_engine_wait(engine, 0, ..) finds no more work.
/// It only watches: it does not read the file, and does not close it; release does. The first call makes it.
///
/// engine: not NULL. fd: not NULL, written on success only.
/// Errors: INVALID_ARGUMENT, IO, UNSUPPORTED (not on this system), ENGINE_FAILED. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_engine_event_fd(
    engine: *mut larder_engine,
    fd: *mut i32,
) -> larder_status {
    // SAFETY: the header's contract, for each pointer.
    unsafe {
        engine_call(engine, |engine| {
            let target: &mut MaybeUninit<i32> = output(fd, "fd")?;
            target.write(engine.edge.signal_through(event_fd)?.as_raw_fd());
            Ok(())
        })
    }
}

#[cfg(target_os = "linux")]
fn event_fd() -> Result<File> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Error::Io(format!("the system gives no eventfd: {error}")));
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { File::from_raw_fd(fd) })
}

#[cfg(not(target_os = "linux"))]
fn event_fd() -> Result<File> {
    Err(Error::Unsupported("an eventfd exists on Linux only: use larder_engine_wait".into()))
}
