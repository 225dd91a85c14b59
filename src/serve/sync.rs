//! The lock, the condition variable and the atomics of the edge: the standard library's, or loom's when threads are
//! model-checked (feature `test-loom`).
//!
//! ThreadSanitizer (`cfg(larder_tsan)`) sees no lock that had to be waited for, as the standard library is not
//! instrumented. There each lock tells its order by an atomic of its own, too.
#![forbid(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

#[cfg(feature = "test-loom")]
use loom::sync as imp;
#[cfg(not(feature = "test-loom"))]
use std::sync as imp;

pub(super) use imp::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// A mutex that a panic does not poison.
#[derive(Debug)]
pub(super) struct Lock<T> {
    mutex: imp::Mutex<T>,
    #[cfg(larder_tsan)]
    order: AtomicU64,
}

impl<T> Lock<T> {
    pub(super) fn new(value: T) -> Lock<T> {
        Lock {
            mutex: imp::Mutex::new(value),
            #[cfg(larder_tsan)]
            order: AtomicU64::new(0),
        }
    }

    pub(super) fn lock(&self) -> Guard<'_, T> {
        self.guard(self.mutex.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn guard<'a>(&'a self, held: imp::MutexGuard<'a, T>) -> Guard<'a, T> {
        #[cfg(larder_tsan)]
        self.order.load(Ordering::Acquire);
        Guard {
            #[cfg(larder_tsan)]
            _told: Told(&self.order),
            held,
        }
    }
}

/// Access to what a lock protects.
pub(super) struct Guard<'a, T> {
    /// Dropped before the lock is free.
    #[cfg(larder_tsan)]
    _told: Told<'a>,
    held: imp::MutexGuard<'a, T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.held
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.held
    }
}

#[cfg(larder_tsan)]
struct Told<'a>(&'a AtomicU64);

#[cfg(larder_tsan)]
impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// A condition variable.
#[derive(Debug)]
pub(super) struct Bell(imp::Condvar);

impl Bell {
    pub(super) fn new() -> Bell {
        Bell(imp::Condvar::new())
    }

    /// Wakes all who wait.
    pub(super) fn ring(&self) {
        self.0.notify_all();
    }

    /// Gives `lock` free and sleeps as long as `idle` says so of what it protects, or for `timeout`. Whether it is
    /// idle no more. In loom's models no time passes.
    pub(super) fn wait_while<T>(
        &self,
        lock: &Lock<T>,
        timeout: Duration,
        mut idle: impl FnMut(&T) -> bool,
    ) -> bool {
        // What no clock reaches is for ever.
        let end = Instant::now().checked_add(timeout);
        let mut guard = lock.lock();
        while idle(&guard) {
            let left =
                end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            guard = self.sleep(lock, guard, left);
        }
        true
    }

    fn sleep<'a, T>(
        &self,
        lock: &'a Lock<T>,
        guard: Guard<'a, T>,
        timeout: Duration,
    ) -> Guard<'a, T> {
        let Guard { held, .. } = guard;
        #[cfg(feature = "test-loom")]
        let held = {
            let _ = timeout;
            self.0.wait(held).unwrap_or_else(PoisonError::into_inner)
        };
        #[cfg(not(feature = "test-loom"))]
        let (held, _) = self.0.wait_timeout(held, timeout).unwrap_or_else(PoisonError::into_inner);
        lock.guard(held)
    }
}

/// A moment for others, in a loop that waits for them.
pub(super) fn pause() {
    #[cfg(feature = "test-loom")]
    loom::thread::yield_now();
    #[cfg(not(feature = "test-loom"))]
    std::hint::spin_loop();
}
