//! The worker threads: started at create, asleep between steps, joined on drop. Or none, or the host's executor.
//!
//! [`Pool::run`] splits tasks over threads in contiguous parts; the caller is thread 0. Workers spin briefly for the
//! next run, because a forward pass is many short runs, and sleep then. A panic in a task ends at the root of its
//! thread and becomes an error of `run`.

use super::float_mode;
use crate::error::{Error, Result};
use crate::options::Executor;
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread looks for work before it sleeps.
const SPIN: Duration = Duration::from_micros(50);
/// More threads than this are a mistake of the caller.
const MAX_THREADS: u32 = 1024;

/// Tests set it: the next part that a worker of any pool gets panics.
#[cfg(feature = "test-panic")]
pub static PANIC_IN_WORKER: AtomicBool = AtomicBool::new(false);

/// What [`Pool::run`] calls: `(task, thread)`.
pub type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// The threads of one engine.
pub struct Pool {
    n_threads: usize,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    executor: Option<Arc<dyn Executor>>,
    /// Set while a run is under way: runs do not nest.
    running: AtomicBool,
}

struct Shared {
    n_threads: usize,
    job: UnsafeCell<Option<Job>>,
    /// Counts runs: workers wait for it to change.
    generation: AtomicU32,
    /// Workers that have not finished the current run.
    unfinished: AtomicU32,
    /// Workers and callers that sleep or are about to.
    sleepers: AtomicU32,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    lock: Mutex<()>,
    changed: Condvar,
}

/// The tasks of one run. The pointer lives as long as the run.
#[derive(Clone, Copy)]
struct Job {
    n_tasks: usize,
    task: *const (dyn Fn(usize, usize) + Sync),
}

// SAFETY: `job` is written by the caller only while no worker runs (`unfinished` is 0) and read by workers only
// between their seeing the new generation and their decrement of `unfinished`; both are atomics that order it.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` refers to a `Sync` closure that outlives the run.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `n_threads` threads, the caller's included, of which none runs before [`start`](Self::start); 0 means
    /// one per physical core.
    pub fn idle(n_threads: u32, executor: Option<Arc<dyn Executor>>) -> Result<Pool> {
        if n_threads > MAX_THREADS {
            return Err(Error::InvalidArgument(format!(
                "n_threads is {n_threads}; at most {MAX_THREADS} are possible"
            )));
        }
        let n_threads = if n_threads == 0 { physical_cores() } else { n_threads as usize };
        let shared = Arc::new(Shared {
            n_threads,
            job: UnsafeCell::new(None),
            generation: AtomicU32::new(0),
            unfinished: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            lock: Mutex::new(()),
            changed: Condvar::new(),
        });
        Ok(Pool {
            n_threads,
            shared,
            workers: Vec::new(),
            executor,
            running: AtomicBool::new(false),
        })
    }

    /// Starts the workers: one less than there are threads, or none where the host's executor lends its own.
    pub fn start(&mut self) -> Result<()> {
        if self.executor.is_some() {
            return Ok(());
        }
        let _masked = SignalMask::block_all();
        self.workers.reserve_exact(self.n_threads - 1);
        self.shared.unfinished.store(self.n_threads as u32 - 1, SeqCst);
        for thread in 1..self.n_threads {
            self.workers.push(spawn(thread, self.shared.clone())?);
        }
        // A thread's own begin allocates: it belongs to the start, not to the first run.
        self.shared.wait_until(|| self.shared.unfinished.load(SeqCst) == 0);
        Ok(())
    }

    /// Heap bytes of the pool and of its workers' handles. The threads' stacks and what the standard library keeps
    /// for each thread are not counted.
    pub fn heap_bytes(&self) -> u64 {
        let n_workers = if self.executor.is_some() { 0 } else { self.n_threads - 1 };
        let shared = 2 * size_of::<usize>() + size_of::<Shared>();
        (shared + n_workers * size_of::<JoinHandle<()>>()) as u64
    }

    /// Threads that take part, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Calls `task(i, thread)` for every `i` of `0 .. n_tasks`; returns when all have returned. As many threads take
    /// part as there are tasks, at most all; thread `t` gets the `t`-th of as many contiguous parts. The first panic
    /// of a task is returned as [`Error::Internal`]; the other threads' parts still run to their ends.
    pub fn run(&self, n_tasks: usize, task: Task<'_>) -> Result<()> {
        if n_tasks == 0 {
            return Ok(());
        }
        if self.running.swap(true, SeqCst) {
            return Err(Error::Internal(
                "a run of the thread pool was started inside another".into(),
            ));
        }
        match &self.executor {
            Some(executor) if n_tasks > 1 && self.n_threads > 1 => {
                self.run_on_host(executor.as_ref(), n_tasks, task);
            }
            None if n_tasks > 1 && self.n_threads > 1 => self.run_on_workers(n_tasks, task),
            _ => self.shared.guarded(|| (0..n_tasks).for_each(|i| task(i, 0))),
        }
        let panic = lock(&self.shared.panic).take();
        let missing = self.shared.unfinished.swap(0, SeqCst);
        self.running.store(false, SeqCst);
        match panic {
            Some(payload) => Err(Error::Internal(message(&*payload))),
            None if missing > 0 => Err(Error::Device(format!(
                "the host's executor left out {missing} of {} tasks",
                self.n_threads.min(n_tasks)
            ))),
            None => Ok(()),
        }
    }

    fn run_on_host(&self, executor: &dyn Executor, n_tasks: usize, task: Task<'_>) {
        let shared = &*self.shared;
        let n_parts = self.n_threads.min(n_tasks);
        shared.unfinished.store(n_parts as u32, SeqCst);
        executor.parallel_for(n_parts as u32, &|thread| {
            if (thread as usize) < n_parts {
                shared.part(n_tasks, task, thread as usize);
                shared.unfinished.fetch_sub(1, SeqCst);
            }
        });
    }

    fn run_on_workers(&self, n_tasks: usize, task: Task<'_>) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; this function returns after every worker is done with the job.
        let task: *const (dyn Fn(usize, usize) + Sync + 'static) =
            unsafe { std::mem::transmute(std::ptr::from_ref(task)) };
        // SAFETY: `unfinished` is 0, so no worker reads the job (see `Shared`).
        unsafe { *shared.job.get() = Some(Job { n_tasks, task }) };
        shared.unfinished.store(self.workers.len() as u32, SeqCst);
        shared.generation.fetch_add(1, SeqCst);
        shared.wake();
        // SAFETY: the caller's closure, alive for the whole call.
        shared.part(n_tasks, unsafe { &*task }, 0);
        shared.wait_until(|| shared.unfinished.load(SeqCst) == 0);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.generation.fetch_add(1, SeqCst);
        self.shared.wake();
        for worker in self.workers.drain(..) {
            // A worker catches every panic, so it ends in order.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// The tasks of `thread`, with panics kept for the caller.
    fn part(&self, n_tasks: usize, task: Task<'_>, thread: usize) {
        let n_parts = self.n_threads.min(n_tasks);
        if thread >= n_parts {
            return;
        }
        let (begin, end) = (n_tasks * thread / n_parts, n_tasks * (thread + 1) / n_parts);
        self.guarded(|| {
            #[cfg(feature = "test-panic")]
            if thread > 0 && PANIC_IN_WORKER.swap(false, SeqCst) {
                panic!("injected into a worker");
            }
            (begin..end).for_each(|i| task(i, thread));
        });
    }

    fn guarded(&self, tasks: impl FnOnce()) {
        let _standard = float_mode::Standard::enter();
        if let Err(payload) = catch_unwind(AssertUnwindSafe(tasks)) {
            lock(&self.panic).get_or_insert(payload);
        }
    }

    fn work(&self, thread: usize) {
        let mut seen = 0;
        self.finish();
        loop {
            self.wait_until(|| self.generation.load(SeqCst) != seen);
            // The caller starts no run before this one is finished, so nothing is skipped.
            seen = self.generation.load(SeqCst);
            if self.stop.load(SeqCst) {
                return;
            }
            // SAFETY: the generation has changed and `unfinished` counts this worker (see `Shared`).
            if let Some(job) = unsafe { *self.job.get() } {
                // SAFETY: the closure outlives the run, which lasts until `unfinished` is 0.
                self.part(job.n_tasks, unsafe { &*job.task }, thread);
            }
            self.finish();
        }
    }

    /// One worker less to wait for.
    fn finish(&self) {
        if self.unfinished.fetch_sub(1, SeqCst) == 1 {
            self.wake();
        }
    }

    /// Spins, then sleeps. Whoever makes `ready` true must call `wake` afterwards.
    fn wait_until(&self, ready: impl Fn() -> bool) {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if ready() {
                    return;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > SPIN {
                break;
            }
        }
        // Announced before `ready` is read again: either the waker sees the sleeper or the sleeper what changed.
        self.sleepers.fetch_add(1, SeqCst);
        let mut guard = lock(&self.lock);
        while !ready() {
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, SeqCst);
    }

    fn wake(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            drop(lock(&self.lock));
            self.changed.notify_all();
        }
    }
}

/// Nothing inside these locks can be left half done, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(thread: usize, shared: Arc<Shared>) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("larder".into())
        .spawn(move || shared.work(thread))
        .map_err(|error| Error::Device(format!("worker thread {thread} could not start: {error}")))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("a task of the backend panicked: {text}")
}

/// Blocks every signal of the calling thread while it lives. Workers inherit it: signals are the host's.
struct SignalMask(libc::sigset_t);

impl SignalMask {
    fn block_all() -> SignalMask {
        // SAFETY: plain calls on two local sets; an all-zero sigset_t is valid memory for both.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
            SignalMask(before)
        }
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: restores the set that `block_all` saved, on the same thread.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// Physical cores that this process may use; where the system does not tell, its hardware threads.
fn physical_cores() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    allowed_cores().map_or(threads, |cores| cores.clamp(1, threads)).min(MAX_THREADS as usize)
}

#[cfg(target_os = "linux")]
fn allowed_cores() -> Option<usize> {
    // SAFETY: the call writes at most the size of the set it is given.
    let allowed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let bytes = std::mem::size_of::<libc::cpu_set_t>();
        (libc::sched_getaffinity(0, bytes, &mut set) == 0).then_some(set)?
    };
    // SAFETY: every index is below the size of the set.
    let is_allowed = |cpu: usize| unsafe { libc::CPU_ISSET(cpu, &allowed) };
    let read = |cpu: usize, file: &str| -> Option<u32> {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{file}");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let cores: Option<std::collections::BTreeSet<(u32, u32)>> = (0..libc::CPU_SETSIZE as usize)
        .filter(|&cpu| is_allowed(cpu))
        .map(|cpu| Some((read(cpu, "physical_package_id")?, read(cpu, "core_id")?)))
        .collect();
    cores.map(|cores| cores.len())
}

#[cfg(not(target_os = "linux"))]
fn allowed_cores() -> Option<usize> {
    None
}

#[cfg(test)]
#[path = "threads_tests.rs"]
mod tests;
