//! For tests without a GPU: installs the stand-ins for libcuda and libcublasLt, which run the kernels on a SIMT
//! emulator, and says what they are to do and what they have seen.
//!
//! A [`World`] is a machine of its own with devices, memory and books; a thread is in one at a time. Tests that each
//! enter a world of their own can run in parallel and still count every byte.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;

/// In which order the threads of a block, and the blocks of a grid, get their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they are numbered.
    Forward,
    /// The other way round.
    Reverse,
    /// Shuffled anew at every turn, from this seed.
    Random(u64),
}

/// Choices that CUDA leaves open. They hold for what the calling thread launches from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// cp.async copies at once, which shows what is overwritten too early. Otherwise it copies when it is waited for,
    /// which shows what is read too early.
    pub eager_copies: bool,
    /// The order of threads and blocks.
    pub order: Order,
}

impl Policy {
    /// Those that tests run under: no one of them shows every race.
    pub const ALL: [Policy; 5] = [
        Policy { eager_copies: false, order: Order::Forward },
        Policy { eager_copies: false, order: Order::Random(1) },
        Policy { eager_copies: false, order: Order::Random(2) },
        Policy { eager_copies: true, order: Order::Random(3) },
        Policy { eager_copies: true, order: Order::Reverse },
    ];

    /// Sets it for this thread.
    pub fn set(self) {
        let (order, seed) = match self.order {
            Order::Forward => (0, 0),
            Order::Reverse => (1, 0),
            Order::Random(seed) => (2, seed),
        };
        // SAFETY: numbers only.
        unsafe { (library().policy)(c_int::from(self.eager_copies), order, seed) }
    }
}

/// What is alive in a world, and what went wrong in it without an error to show it.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // each is what its name says
pub struct Books {
    pub device_bytes: u64,
    pub device_blocks: u64,
    pub device_bytes_peak: u64,
    pub pinned_bytes: u64,
    pub pinned_blocks: u64,
    pub streams: u64,
    pub events: u64,
    pub modules: u64,
    pub graphs: u64,
    pub contexts: u64,
    pub primary_retains: u64,
    /// Calls that allocated device or pinned memory, ever.
    pub allocations: u64,
    /// Resets of a device.
    pub resets: u64,
    /// Blocks behind which something was written, seen when they are freed.
    pub overruns: u64,
}

impl Books {
    /// Whether everything was given back, and nothing forbidden was done.
    pub fn is_clean(&self) -> bool {
        let history = Books {
            device_bytes_peak: self.device_bytes_peak,
            allocations: self.allocations,
            ..Books::default()
        };
        *self == history
    }
}

/// What devices a world has.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DeviceKind {
    pub n_devices: c_int,
    pub compute_capability: (c_int, c_int),
    pub driver_version: c_int,
    pub n_multiprocessors: c_int,
    pub memory_bytes: u64,
}

impl Default for DeviceKind {
    fn default() -> Self {
        Self {
            n_devices: 1,
            compute_capability: (9, 0),
            driver_version: 13000,
            n_multiprocessors: 4,
            memory_bytes: 8 << 30,
        }
    }
}

/// A machine of its own. The thread that makes it is in it until it is dropped, then in the one before.
#[derive(Debug)]
pub struct World {
    id: c_int,
    former: c_int,
    // Entered and left by one thread.
    _thread: std::marker::PhantomData<*mut ()>,
}

impl World {
    /// A new world with one device.
    pub fn new() -> Self {
        Self::with_devices(DeviceKind::default())
    }

    /// A new world with such devices.
    pub fn with_devices(kind: DeviceKind) -> Self {
        // SAFETY: makes one more world.
        let id = unsafe { (library().world_new)() };
        let world = Self::enter(WorldId(id));
        world.set_devices(kind);
        world
    }

    /// Enters a world that another thread has made, which must outlive this.
    pub fn enter(id: WorldId) -> Self {
        // SAFETY: an id that `world_new` gave.
        let former = unsafe { (library().world_enter)(id.0) };
        Self { id: id.0, former, _thread: std::marker::PhantomData }
    }

    /// For [`World::enter`] in other threads.
    pub fn id(&self) -> WorldId {
        WorldId(self.id)
    }

    /// Changes what calls say about the devices from now on.
    pub fn set_devices(&self, kind: DeviceKind) {
        // SAFETY: a world that exists, and a struct of the same layout there.
        unsafe { (library().device_kind)(self.id, &kind) }
    }

    /// What is alive now.
    pub fn books(&self) -> Books {
        let mut books = Books::default();
        // SAFETY: a world that exists, and a struct of the same layout there.
        unsafe { (library().books)(self.id, &mut books) };
        books
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // SAFETY: an id that `world_enter` gave.
        unsafe { (library().world_enter)(self.former) };
    }
}

/// Names a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorldId(c_int);

/// The folder with `libcuda.so` and `libcublasLt.so`: the one that was built, or (for scripts that build others) what
/// the variable `LARDER_STANDIN_FOLDER` says.
pub fn folder() -> PathBuf {
    let other = std::env::var_os("LARDER_STANDIN_FOLDER");
    other.map_or_else(|| PathBuf::from(env!("LARDER_STANDIN_FOLDER")), PathBuf::from)
}

/// Loads the stand-ins, so that they are what the driver's loader finds under the names of the real ones, also where
/// those are installed. Repeated calls do nothing.
///
/// # Panics
/// If they cannot be loaded.
pub fn install() {
    library();
}

/// The `nth` call of the driver by this thread (1 is the next) fails with `code`, and gives nothing; a call that gives
/// something back does so before it fails. 0: none.
pub fn fail_call(nth: u64, code: u32) {
    let nth = i64::try_from(nth).unwrap_or(i64::MAX);
    // SAFETY: numbers only.
    unsafe { (library().fail_call)(nth, code as c_int) }
}

/// How many calls of the driver this thread has made.
pub fn calls() -> u64 {
    // SAFETY: returns a number.
    unsafe { (library().calls)() }
}

/// Whether streams work at once instead of when they are waited for, in this thread.
pub fn set_eager_streams(eager: bool) {
    // SAFETY: a number.
    unsafe { (library().eager_streams)(c_int::from(eager)) }
}

/// What the emulator or the stand-in said about this thread's last error.
pub fn report() -> String {
    // SAFETY: a string that lives until this thread's next call.
    unsafe { CStr::from_ptr((library().report)()) }.to_string_lossy().into_owned()
}

/// The names of all kernels on the emulator, sorted.
pub fn kernel_names() -> Vec<String> {
    unsafe extern "C" fn visit(name: *const c_char, data: *mut c_void) {
        // SAFETY: a string that lives as long as the library, and the list that was handed in below.
        let (name, names) = unsafe { (CStr::from_ptr(name), &mut *data.cast::<Vec<String>>()) };
        names.push(name.to_string_lossy().into_owned());
    }
    let mut names: Vec<String> = Vec::new();
    // SAFETY: `visit` gets the list it expects, during this call only.
    unsafe { (library().kernels)(visit, (&raw mut names).cast()) };
    names.sort();
    names
}

type VisitName = unsafe extern "C" fn(*const c_char, *mut c_void);

struct Library {
    world_new: unsafe extern "C" fn() -> c_int,
    world_enter: unsafe extern "C" fn(c_int) -> c_int,
    books: unsafe extern "C" fn(c_int, *mut Books),
    device_kind: unsafe extern "C" fn(c_int, *const DeviceKind),
    policy: unsafe extern "C" fn(c_int, c_int, u64),
    eager_streams: unsafe extern "C" fn(c_int),
    fail_call: unsafe extern "C" fn(i64, c_int),
    calls: unsafe extern "C" fn() -> u64,
    report: unsafe extern "C" fn() -> *const c_char,
    kernels: unsafe extern "C" fn(VisitName, *mut c_void),
}

#[allow(clippy::missing_transmute_annotations, reason = "the field says the type")]
fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let cuda = open("libcuda.so");
        open("libcublasLt.so");
        macro_rules! symbols {
            ($($field:ident: $name:literal),* $(,)?) => {
                // SAFETY: functions of these types, defined in standin/world.cpp.
                Library { $($field: unsafe { std::mem::transmute::<*mut c_void, _>(symbol(cuda, $name)) }),* }
            };
        }
        symbols! {
            world_new: "larder_standin_world_new",
            world_enter: "larder_standin_world_enter",
            books: "larder_standin_books",
            device_kind: "larder_standin_device_kind",
            policy: "larder_standin_policy",
            eager_streams: "larder_standin_eager_streams",
            fail_call: "larder_standin_fail_call",
            calls: "larder_standin_calls",
            report: "larder_standin_report",
            kernels: "larder_standin_kernels",
        }
    })
}

/// Never closed again.
fn open(name: &str) -> *mut c_void {
    let path = folder().join(name);
    let c_path = CString::new(path.as_os_str().as_encoded_bytes()).expect("a path without zeros");
    // SAFETY: a library that this crate has built.
    let handle = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() {
        // SAFETY: after a failed dlopen there is a message.
        let why = unsafe { CStr::from_ptr(libc::dlerror()) };
        panic!("{}: {}", path.display(), why.to_string_lossy());
    }
    handle
}

fn symbol(library: *mut c_void, name: &str) -> *mut c_void {
    let c_name = CString::new(name).expect("a name without zeros");
    // SAFETY: a library that is open.
    let address = unsafe { libc::dlsym(library, c_name.as_ptr()) };
    assert!(!address.is_null(), "the stand-in for libcuda has no {name}");
    address
}
