//! The codes that every call returns. Values are pinned: a binding may hard-code them.

use crate::error::Error;

/// What a call returns: `LARDER_OK` or a negative code; `larder_last_error` has the reason in words.
#[allow(non_camel_case_types, reason = "the C name")]
pub type larder_status = i32;

/// Success.
pub const LARDER_OK: i32 = 0;
/// An argument or a field is out of range; the message names it.
pub const LARDER_INVALID_ARGUMENT: i32 = -1;
/// A handle that was released before, or that belongs to another engine.
pub const LARDER_STALE_HANDLE: i32 = -2;
/// Another call is running on this engine: try again when it has returned.
pub const LARDER_BUSY: i32 = -3;
/// A file could not be opened or read.
pub const LARDER_IO: i32 = -4;
/// The model's files contradict themselves; the message names the place.
pub const LARDER_BAD_MODEL: i32 = -5;
/// Well formed, but not for this build, device or version.
pub const LARDER_UNSUPPORTED: i32 = -6;
/// More memory than the limit or the machine has; the message says which number to change, and to what.
pub const LARDER_OUT_OF_MEMORY: i32 = -7;
/// The KV repo has fewer free token slots than needed. Nothing was changed.
pub const LARDER_OUT_OF_SLOTS: i32 = -8;
/// A max_ of the options is reached; the message names it.
pub const LARDER_LIMIT_REACHED: i32 = -9;
/// The caller's buffer is too small; `*needed` is set.
pub const LARDER_BUFFER_TOO_SMALL: i32 = -10;
/// The device or its driver failed.
pub const LARDER_DEVICE: i32 = -11;
/// A callback of the host asked to stop.
pub const LARDER_CANCELLED: i32 = -12;
/// An earlier error left the engine unusable: only release works.
pub const LARDER_ENGINE_FAILED: i32 = -13;
/// A defect of larder, caught at the border. The engine is unusable from then on.
pub const LARDER_INTERNAL: i32 = -14;

/// The code of an error.
pub(super) fn status_of(error: &Error) -> larder_status {
    match error {
        Error::InvalidArgument(_) => LARDER_INVALID_ARGUMENT,
        Error::StaleHandle(_) => LARDER_STALE_HANDLE,
        Error::Busy => LARDER_BUSY,
        Error::Io(_) => LARDER_IO,
        Error::BadModel(_) => LARDER_BAD_MODEL,
        Error::Unsupported(_) => LARDER_UNSUPPORTED,
        Error::OutOfMemory(_) => LARDER_OUT_OF_MEMORY,
        Error::OutOfSlots { .. } => LARDER_OUT_OF_SLOTS,
        Error::LimitReached(_) => LARDER_LIMIT_REACHED,
        Error::BufferTooSmall { .. } => LARDER_BUFFER_TOO_SMALL,
        Error::Device(_) => LARDER_DEVICE,
        Error::Cancelled(_) => LARDER_CANCELLED,
        Error::EngineFailed(_) => LARDER_ENGINE_FAILED,
        Error::Internal(_) => LARDER_INTERNAL,
    }
}
