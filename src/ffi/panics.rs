//! Panics stay silent and end here.
//!
//! Rust's default hook prints to stderr and reads environment variables, and a library does neither. The C
//! library has a copy of Rust's runtime of its own, so its hook is nobody else's; it is replaced once, by one
//! that keeps the message for `larder_last_error`. A Rust program that links larder as a crate and calls these
//! functions shares its runtime: there the hook leaves every panic that is not larder's to the former one.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::OnceLock;
use std::thread;

use super::last_error;

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// Threads that larder starts have names that begin so.
const THREAD_NAME_PREFIX: &str = "larder";

static FORMER_HOOK: OnceLock<Hook> = OnceLock::new();

thread_local! {
    /// How many calls of the C ABI are on this thread's stack: a callback may call larder again.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Whether the hook has seen the panic that is unwinding; one that another thread hands on skips it.
    static SEEN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`; a panic inside becomes `None`, with its message in `last_error`.
pub(super) fn catch<T>(call: impl FnOnce() -> T) -> Option<T> {
    replace_hook();
    SEEN.set(false);
    DEPTH.set(DEPTH.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(call)).map_err(report).ok();
    DEPTH.set(DEPTH.get() - 1);
    outcome
}

/// Keeps a panic's words, if the hook has not, and drops it.
fn report(payload: Box<dyn Any + Send>) {
    if !SEEN.replace(false) {
        last_error::set(format_args!("a defect in larder: {}", text_of(&*payload)));
    }
    // A payload may panic in its turn when it is dropped; what that leaves is leaked rather than dropped again.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

/// Once. A thread that is unwinding may not set a hook; the next call does.
fn replace_hook() {
    if FORMER_HOOK.get().is_none() && !thread::panicking() {
        FORMER_HOOK.get_or_init(|| {
            let former = take_hook();
            set_hook(Box::new(hook));
            former
        });
    }
}

fn hook(panic: &PanicHookInfo<'_>) {
    if DEPTH.get() > 0 {
        SEEN.set(true);
        last_error::set(format_args!("a defect in larder: {panic}"));
    } else if !thread::current().name().is_some_and(|name| name.starts_with(THREAD_NAME_PREFIX))
        && let Some(former) = FORMER_HOOK.get()
    {
        former(panic);
    }
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn message() -> String {
        // SAFETY: the buffer is this thread's own and always ends with a 0.
        unsafe { CStr::from_ptr(last_error::pointer()) }.to_str().expect("UTF-8").to_owned()
    }

    #[test]
    fn a_panic_becomes_a_message_with_its_place() {
        assert!(catch(|| panic!("number {}", 7)).is_none());
        assert!(message().contains("number 7") && message().contains("panics.rs"), "{}", message());
    }

    #[test]
    fn a_panic_handed_on_from_another_thread_keeps_its_text() {
        let handed_on = || std::panic::resume_unwind(Box::new("from a worker".to_owned()));
        assert!(catch(handed_on).is_none());
        assert!(message().contains("from a worker"), "{}", message());
    }

    #[test]
    fn what_succeeds_comes_back() {
        assert_eq!(catch(|| 5), Some(5));
    }
}
