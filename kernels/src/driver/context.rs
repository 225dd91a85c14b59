//! The device and its context.

use std::ffi::{c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute, CUresult};

use super::{Result, Unavailable, call};

/// The CUDA version that the driver has to support, as cuDriverGetVersion tells it: the kernels' compiler's.
pub const NEEDED_DRIVER: u32 = 13000;

/// The oldest compute capability that the kernels are built for. Newer ones without a binary of their own run through
/// the embedded PTX.
pub const OLDEST_ARCHITECTURE: (u32, u32) = (8, 0);

/// What larder asks a device once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The name, like "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Number of streaming multiprocessors.
    pub n_multiprocessors: u32,
    /// The most shared memory that a block can have when its kernel asks for it.
    pub shared_bytes_per_block: u32,
    /// Device memory in bytes, used or not.
    pub memory_bytes: u64,
    /// Level-2 cache in bytes.
    pub l2_bytes: u64,
}

/// A device's context: the primary one, which is released with the last clone, or the host's own, which stays. All
/// that is made in a context keeps it.
#[derive(Debug, Clone)]
pub struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    raw: CUcontext,
    device: CUdevice,
    is_primary: bool,
    info: DeviceInfo,
}

// SAFETY: a context belongs to the process; the driver's calls may use it from any thread, several at a time.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Context {
    /// Opens the device of that index in its primary context, or in `host_context` when there is one (a CUcontext;
    /// the index is not looked at then). The caller's current context stays what it was.
    pub fn open(
        device_index: u32,
        host_context: Option<NonNull<c_void>>,
    ) -> std::result::Result<Self, Unavailable> {
        let (device, info) = find(device_index, host_context)?;
        let (raw, is_primary) = match host_context {
            Some(raw) => (raw.as_ptr().cast(), false),
            None => (retain(device)?, true),
        };
        Ok(Self(Arc::new(Inner { raw, device, is_primary, info })))
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// How much device memory is free now.
    pub fn free_bytes(&self) -> Result<u64> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both point to places for a number.
        unsafe { call!(cuMemGetInfo_v2(&mut free, &mut total)) }?;
        Ok(free as u64)
    }

    /// Makes the context current in this thread until the value is dropped. What was current before is again
    /// afterwards.
    pub fn enter(&self) -> Result<Entered<'_>> {
        enter(self.0.raw)
    }

    /// True for the host's own context.
    pub fn is_host(&self) -> bool {
        !self.0.is_primary
    }

    /// The CUcontext.
    pub fn raw(&self) -> *mut c_void {
        self.0.raw.cast()
    }

    /// Whether a launch can begin before the one in front of it has ended (programmatic dependent launch).
    pub(super) fn has_dependent_launch(&self) -> bool {
        self.0.info.compute_capability >= (9, 0)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.is_primary {
            // SAFETY: retained when it was opened, and released once. A failure leaves nothing to do.
            let _ = unsafe { call!(cuDevicePrimaryCtxRelease_v2(self.device)) };
        }
    }
}

/// The time that a context is current in a thread.
#[derive(Debug)]
pub struct Entered<'a> {
    previous: CUcontext,
    // What is current is a matter of one thread, and of the context's life.
    context: PhantomData<(&'a Context, *mut ())>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut popped = null_mut();
        // SAFETY: this thread pushed a context in `enter`.
        let result = unsafe { call!(cuCtxPopCurrent_v2(&mut popped)) };
        if result.is_err() {
            restore(self.previous);
        }
    }
}

fn enter<'a>(raw: CUcontext) -> Result<Entered<'a>> {
    let mut previous = null_mut();
    // SAFETY: a place for a handle; then a context that lives.
    unsafe { call!(cuCtxGetCurrent(&mut previous)) }?;
    // SAFETY: the context is retained by us or kept by the host.
    if let Err(error) = unsafe { call!(cuCtxPushCurrent_v2(raw)) } {
        restore(previous);
        return Err(error);
    }
    Ok(Entered { previous, context: PhantomData })
}

/// Pushing and popping can report an earlier launch's error, and then it is not told whether they took place. This
/// makes `previous` current in either case.
fn restore(previous: CUcontext) {
    // SAFETY: what the driver itself said was current (or none).
    let _ = unsafe { call!(cuCtxSetCurrent(previous)) };
}

/// Checks that there is a driver, that it is new enough, and that it starts.
fn check_driver(device_index: u32) -> std::result::Result<(), Unavailable> {
    // SAFETY: looks for the library, which has no unusual constructors.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unavailable::NoDriver);
    }
    let mut version: c_int = 0;
    // SAFETY: a place for a number; this call needs no cuInit.
    unsafe { call!(cuDriverGetVersion(&mut version)) }?;
    let found = u32::try_from(version).unwrap_or(0);
    if found < NEEDED_DRIVER {
        return Err(Unavailable::DriverTooOld { found, needed: NEEDED_DRIVER });
    }
    // SAFETY: starts the driver; calls after the first do nothing.
    match unsafe { call!(cuInit(0)) } {
        Err(error) if error.code == CUresult::CUDA_ERROR_NO_DEVICE as u32 => {
            Err(Unavailable::NoDevice { index: device_index, count: 0 })
        }
        other => Ok(other?),
    }
}

/// The device of a context of the host's, or else of that index, if the kernels are built for it.
fn find(
    device_index: u32,
    host_context: Option<NonNull<c_void>>,
) -> std::result::Result<(CUdevice, DeviceInfo), Unavailable> {
    check_driver(device_index)?;
    let device = match host_context {
        Some(raw) => device_of(raw.as_ptr().cast())?,
        None => device_at(device_index)?,
    };
    let info = describe(device)?;
    let found = info.compute_capability;
    match found < OLDEST_ARCHITECTURE {
        true => Err(Unavailable::Architecture { found, oldest: OLDEST_ARCHITECTURE }),
        false => Ok((device, info)),
    }
}

fn device_at(index: u32) -> std::result::Result<CUdevice, Unavailable> {
    let mut count: c_int = 0;
    // SAFETY: a place for a number.
    unsafe { call!(cuDeviceGetCount(&mut count)) }?;
    let count = u32::try_from(count).unwrap_or(0);
    if index >= count {
        return Err(Unavailable::NoDevice { index, count });
    }
    let mut device: CUdevice = 0;
    // SAFETY: a place for the device's number.
    unsafe { call!(cuDeviceGet(&mut device, index as c_int)) }?;
    Ok(device)
}

fn device_of(context: CUcontext) -> Result<CUdevice> {
    let _entered = enter(context)?;
    let mut device: CUdevice = 0;
    // SAFETY: a place for the device's number; the host's context is current.
    unsafe { call!(cuCtxGetDevice(&mut device)) }?;
    Ok(device)
}

/// The primary context, to be released once.
fn retain(device: CUdevice) -> Result<CUcontext> {
    let mut raw = null_mut();
    // SAFETY: a place for a handle.
    unsafe { call!(cuDevicePrimaryCtxRetain(&mut raw, device)) }?;
    Ok(raw)
}

impl DeviceInfo {
    /// What [`Context::open`] would find, or why it would fail. Takes no context of the device's and no memory.
    pub fn find(
        device_index: u32,
        host_context: Option<NonNull<c_void>>,
    ) -> std::result::Result<Self, Unavailable> {
        find(device_index, host_context).map(|(_, info)| info)
    }
}

fn describe(device: CUdevice) -> Result<DeviceInfo> {
    use CUdevice_attribute::*;
    let attribute = |which| -> Result<u32> {
        let mut value: c_int = 0;
        // SAFETY: a place for a number.
        unsafe { call!(cuDeviceGetAttribute(&mut value, which, device)) }?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    let mut name = [0u8; 128];
    // SAFETY: the driver writes at most that many bytes, a zero at the end included.
    unsafe {
        call!(cuDeviceGetName(name.as_mut_ptr().cast::<c_char>(), name.len() as c_int - 1, device))
    }?;
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    let mut memory_bytes = 0;
    // SAFETY: a place for a number.
    unsafe { call!(cuDeviceTotalMem_v2(&mut memory_bytes, device)) }?;
    Ok(DeviceInfo {
        name: String::from_utf8_lossy(&name[..end]).into_owned(),
        compute_capability: (
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        n_multiprocessors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_per_block: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        memory_bytes: memory_bytes as u64,
        l2_bytes: u64::from(attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
    })
}
