//! Where the big blocks come from: the driver, or the host's allocator.

use super::fault::Result;
use super::memory::ALIGNMENT;
use crate::error::Error;
use crate::options::{BlockAllocator, BlockKind};
use larder_kernels::driver::{Context, CudaError, DeviceBlock, GiveBack, PinnedBlock};
use std::ptr::NonNull;
use std::sync::Arc;

/// A block of `bytes` bytes on the device, not initialised. `what` names it in the error when it is refused.
pub fn device(
    context: &Context,
    what: &str,
    bytes: u64,
    allocator: Option<&Arc<dyn BlockAllocator>>,
) -> Result<DeviceBlock> {
    let kind = BlockKind::Device;
    match allocator {
        None => Ok(DeviceBlock::new(context, bytes.max(1)).map_err(|e| refused(what, bytes, e))?),
        Some(allocator) => {
            let (address, give_back) = borrow(allocator, kind, what, bytes)?;
            Ok(DeviceBlock::lent(address.as_ptr() as u64, bytes, give_back))
        }
    }
}

/// A zeroed block of page-locked host memory.
pub fn pinned(
    context: &Context,
    bytes: u64,
    allocator: Option<&Arc<dyn BlockAllocator>>,
) -> Result<PinnedBlock> {
    let what = "the pinned host block";
    let block = match allocator {
        None => PinnedBlock::new(context, bytes.max(1)).map_err(|e| refused(what, bytes, e))?,
        Some(allocator) => {
            let (address, give_back) = borrow(allocator, BlockKind::HostPinned, what, bytes)?;
            PinnedBlock::lent(address.as_ptr(), bytes, give_back)
        }
    };
    // SAFETY: the block has that many bytes, and nobody else knows it yet.
    unsafe { block.address().write_bytes(0, bytes as usize) };
    Ok(block)
}

fn borrow(
    allocator: &Arc<dyn BlockAllocator>,
    kind: BlockKind,
    what: &str,
    bytes: u64,
) -> Result<(NonNull<u8>, GiveBack)> {
    let refused = || {
        Error::OutOfMemory(format!("{what}: {bytes} bytes were refused by the host's allocator"))
    };
    let size = usize::try_from(bytes).map_err(|_| refused())?;
    let address = allocator.allocate(kind, size, ALIGNMENT as usize).ok_or_else(refused)?;
    let at = Lent { allocator: Arc::clone(allocator), kind, address, bytes: size };
    if address.addr().get() % ALIGNMENT as usize != 0 {
        let text = format!(
            "hooks.allocate gave {address:p} for {what}, expected a multiple of {ALIGNMENT}"
        );
        at.give_back();
        return Err(Error::InvalidArgument(text).into());
    }
    Ok((address, Box::new(move || at.give_back())))
}

/// What the host lent.
struct Lent {
    allocator: Arc<dyn BlockAllocator>,
    kind: BlockKind,
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address that is only handed back.
unsafe impl Send for Lent {}

impl Lent {
    fn give_back(self) {
        self.allocator.deallocate(self.kind, self.address, self.bytes);
    }
}

fn refused(what: &str, bytes: u64, error: CudaError) -> Error {
    /// CUDA_ERROR_OUT_OF_MEMORY
    const OUT_OF_MEMORY: u32 = 2;
    let text = format!("{what}: {bytes} bytes were refused: {error}");
    if error.code == OUT_OF_MEMORY { Error::OutOfMemory(text) } else { Error::Device(text) }
}
