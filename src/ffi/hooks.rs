//! What the host lends: its functions become Rust trait objects. A host's function gets the `user` pointer that
//! came with it, and is called only as the header says.

use std::ffi::{c_char, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use super::pointers::{Versioned, init, invalid, versioned};
use crate::error::Result;
use crate::options::{BlockAllocator, BlockKind, Executor, Hooks, LogLevel};

/// hooks.allocate: ordinary memory.
pub const LARDER_BLOCK_HOST: u32 = 0;
/// hooks.allocate: page-locked memory.
pub const LARDER_BLOCK_HOST_PINNED: u32 = 1;
/// hooks.allocate: memory of the device.
pub const LARDER_BLOCK_DEVICE: u32 = 2;

/// One of the tasks of hooks.parallel_for.
#[allow(non_camel_case_types, reason = "the C name")]
pub type larder_task = unsafe extern "C" fn(context: *mut c_void, index: u32);

/// What the host may lend; every function may be NULL. All are called from the thread that called larder, but for
/// parallel_for's tasks. They must not raise exceptions, longjmp, or call this engine again.
/// Copied by create; user must stay valid until release has returned.
#[repr(C)]
#[allow(non_camel_case_types, reason = "the C name")]
pub struct larder_hooks {
    /// Set by larder_hooks_init.
    pub struct_size: u32,
    /// 0 nothing, 1 errors, 2 warnings, 3 information, 4 debugging.
    pub log_level: u32,
    /// Comes back as the first argument of each function.
    pub user: *mut c_void,
    /// One line of text, without a line end; not NUL-terminated.
    pub log: Option<
        unsafe extern "C" fn(user: *mut c_void, level: u32, text: *const c_char, length: usize),
    >,
    /// While weights are read. Non-zero stops the load: LARDER_CANCELLED.
    pub progress:
        Option<unsafe extern "C" fn(user: *mut c_void, done_bytes: u64, total_bytes: u64) -> i32>,
    /// The few big blocks. block is a LARDER_BLOCK_ value; NULL: refused. Needs deallocate.
    pub allocate: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            block: u32,
            bytes: usize,
            alignment: usize,
        ) -> *mut c_void,
    >,
    /// Takes back what allocate gave.
    pub deallocate: Option<
        unsafe extern "C" fn(user: *mut c_void, block: u32, address: *mut c_void, bytes: usize),
    >,
    /// Runs task(context, 0) .. task(context, n_tasks - 1), on any threads, and returns when all have returned.
    pub parallel_for: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            n_tasks: u32,
            task: larder_task,
            context: *mut c_void,
        ),
    >,
    /// Tokens of a cached prefix have left the KV repo, during a call that needs their slots or asks for it.
    pub evicted: Option<unsafe extern "C" fn(user: *mut c_void, name_space: u64, n_tokens: u64)>,
}

// SAFETY: integers and pointers only; a zero function pointer is None.
unsafe impl Versioned for larder_hooks {
    const NAME: &'static str = "larder_hooks";
    const MIN_BYTES: usize = 16;
}

const _: () = assert!(size_of::<larder_hooks>() == 64);

/// Sets every field to its default. hooks: not NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_hooks_init(hooks: *mut larder_hooks) {
    // SAFETY: the header's contract.
    unsafe { init(hooks) }
}

/// The host's pointer, which larder only hands back.
#[derive(Clone, Copy)]
struct User(*mut c_void);

// SAFETY: larder never reads through it; the header tells the host from which threads its functions are called.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

impl User {
    fn pointer(self) -> *mut c_void {
        self.0
    }
}

/// Reads and checks a host's hooks; NULL lends nothing.
///
/// # Safety
/// As [`versioned`]; the functions are callable as the header says until the engine's release.
pub(super) unsafe fn hooks_from(pointer: *const larder_hooks) -> Result<Hooks> {
    if pointer.is_null() {
        return Ok(Hooks::default());
    }
    // SAFETY: handed on.
    let hooks = unsafe { versioned(pointer, "options.hooks")? };
    let user = User(hooks.user);
    if hooks.log_level > LogLevel::Debug as u32 {
        let level = hooks.log_level;
        return Err(invalid(format!("options.hooks.log_level is {level}, expected 0 to 4")));
    }
    let mut lent = Hooks::default();
    if let Some(log) = hooks.log {
        let wanted = hooks.log_level;
        lent.log = Some(Arc::new(move |level: LogLevel, text: &str| {
            if level as u32 <= wanted {
                // SAFETY: the host's function, called as the header says.
                unsafe { log(user.pointer(), level as u32, text.as_ptr().cast(), text.len()) }
            }
        }));
    }
    if let Some(progress) = hooks.progress {
        lent.progress = Some(Arc::new(move |done, total| {
            // SAFETY: the host's function, called as the header says.
            unsafe { progress(user.pointer(), done, total) == 0 }
        }));
    }
    lent.allocator = match (hooks.allocate, hooks.deallocate) {
        (Some(allocate), Some(deallocate)) => {
            Some(Arc::new(HostAllocator { user, allocate, deallocate }))
        }
        (None, None) => None,
        _ => {
            return Err(invalid(
                "options.hooks.allocate and deallocate: one is NULL, set both or none".into(),
            ));
        }
    };
    if let Some(evicted) = hooks.evicted {
        lent.evicted = Some(Arc::new(move |name_space, n_tokens| {
            // SAFETY: the host's function, called as the header says.
            unsafe { evicted(user.pointer(), name_space, n_tokens) }
        }));
    }
    if let Some(parallel_for) = hooks.parallel_for {
        lent.executor = Some(Arc::new(HostExecutor { user, parallel_for }));
    }
    Ok(lent)
}

struct HostAllocator {
    user: User,
    allocate: unsafe extern "C" fn(*mut c_void, u32, usize, usize) -> *mut c_void,
    deallocate: unsafe extern "C" fn(*mut c_void, u32, *mut c_void, usize),
}

impl BlockAllocator for HostAllocator {
    fn allocate(&self, kind: BlockKind, bytes: usize, alignment: usize) -> Option<NonNull<u8>> {
        // SAFETY: the host's function, called as the header says.
        let address = unsafe { (self.allocate)(self.user.0, kind as u32, bytes, alignment) };
        NonNull::new(address.cast())
    }

    fn deallocate(&self, kind: BlockKind, address: NonNull<u8>, bytes: usize) {
        // SAFETY: the host's function, with what its allocate gave.
        unsafe { (self.deallocate)(self.user.0, kind as u32, address.as_ptr().cast(), bytes) }
    }
}

struct HostExecutor {
    user: User,
    parallel_for: unsafe extern "C" fn(*mut c_void, u32, larder_task, *mut c_void),
}

/// What a task of the host's threads gets back as its context.
struct Call<'a> {
    task: &'a (dyn Fn(u32) + Sync),
    panicked: std::sync::atomic::AtomicBool,
}

impl Executor for HostExecutor {
    /// Panics when a task did, after all have returned: a panic must not cross the host's frames.
    fn parallel_for(&self, n_tasks: u32, task: &(dyn Fn(u32) + Sync)) {
        let call = Call { task, panicked: false.into() };
        let context = (&raw const call).cast_mut().cast();
        // SAFETY: the host's function; `call` lives until it returns, and by contract no task runs later.
        unsafe { (self.parallel_for)(self.user.0, n_tasks, run_task, context) };
        if call.panicked.into_inner() {
            std::panic::resume_unwind(Box::new("a task of hooks.parallel_for failed"));
        }
    }
}

unsafe extern "C" fn run_task(context: *mut c_void, index: u32) {
    // SAFETY: the context that parallel_for handed out; its call is still running.
    let call = unsafe { &*context.cast::<Call<'_>>() };
    if super::panics::catch(|| (call.task)(index)).is_none() {
        call.panicked.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
