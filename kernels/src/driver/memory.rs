//! Blocks of memory: one call each, for all of a purpose.

use std::ptr::null_mut;

use super::{Context, DevicePtr, Result, call};

/// Gives memory back to the host that lent it.
pub type GiveBack = Box<dyn FnOnce() + Send>;

enum Owner {
    Driver(Context),
    /// Taken out when it is called.
    Host(Option<GiveBack>),
}

/// A block of device memory, freed on drop.
pub struct DeviceBlock {
    address: DevicePtr,
    bytes: u64,
    owner: Owner,
}

impl DeviceBlock {
    /// Allocates `bytes` (at least 1) at a multiple of 256.
    pub fn new(context: &Context, bytes: u64) -> Result<Self> {
        let mut address = 0;
        // SAFETY: a place for an address; freed on drop.
        unsafe { call!(cuMemAlloc_v2(&mut address, size(bytes))) }?;
        Ok(Self { address, bytes, owner: Owner::Driver(context.clone()) })
    }

    /// Memory that the host lends: `give_back` is called on drop.
    pub fn lent(address: DevicePtr, bytes: u64, give_back: GiveBack) -> Self {
        Self { address, bytes, owner: Owner::Host(Some(give_back)) }
    }

    /// Where it begins.
    pub fn address(&self) -> DevicePtr {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for DeviceBlock {
    fn drop(&mut self) {
        match &mut self.owner {
            Owner::Driver(context) => {
                let _entered = context.enter();
                // SAFETY: allocated by `new` and freed once.
                let _ = unsafe { call!(cuMemFree_v2(self.address)) };
            }
            Owner::Host(give_back) => {
                if let Some(give_back) = give_back.take() {
                    give_back();
                }
            }
        }
    }
}

/// A block of host memory that the device can read and write while the CPU goes on, freed on drop.
pub struct PinnedBlock {
    address: *mut u8,
    bytes: u64,
    owner: Owner,
}

// SAFETY: the block is owned; no thread-local state belongs to it.
unsafe impl Send for PinnedBlock {}

impl PinnedBlock {
    /// Allocates `bytes` (at least 1), cached for the CPU.
    pub fn new(context: &Context, bytes: u64) -> Result<Self> {
        let mut address = null_mut();
        // SAFETY: a place for an address; freed on drop.
        unsafe { call!(cuMemHostAlloc(&mut address, size(bytes), 0)) }?;
        Ok(Self { address: address.cast(), bytes, owner: Owner::Driver(context.clone()) })
    }

    /// Pinned memory that the host lends: `give_back` is called on drop.
    pub fn lent(address: *mut u8, bytes: u64, give_back: GiveBack) -> Self {
        Self { address, bytes, owner: Owner::Host(Some(give_back)) }
    }

    /// Where it begins.
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for PinnedBlock {
    fn drop(&mut self) {
        match &mut self.owner {
            Owner::Driver(context) => {
                let _entered = context.enter();
                // SAFETY: allocated by `new` and freed once.
                let _ = unsafe { call!(cuMemFreeHost(self.address.cast())) };
            }
            Owner::Host(give_back) => {
                if let Some(give_back) = give_back.take() {
                    give_back();
                }
            }
        }
    }
}

/// A size for the driver; one that this machine cannot count is one that no device has.
pub(super) fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
