//! The one error type. Each variant is one `larder_status`; the text says what was wrong and what was expected.
#![forbid(unsafe_code)]

/// What went wrong, in the classes that a host can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An argument or option is out of range; the message names it.
    #[error("{0}")]
    InvalidArgument(String),
    /// A handle that was released before, or that belongs to another engine.
    #[error("{0}")]
    StaleHandle(String),
    /// Another forward or step is running.
    #[error("another forward or step is running on this engine")]
    Busy,
    /// The operating system could not open or read a file.
    #[error("{0}")]
    Io(String),
    /// The model's files contradict themselves; the message names the place.
    #[error("{0}")]
    BadModel(String),
    /// Well formed, but not for this build, device or version.
    #[error("{0}")]
    Unsupported(String),
    /// More memory than the limit or the machine has; the message says which number to change, and to what.
    #[error("{0}")]
    OutOfMemory(String),
    /// Fewer free token slots than needed. Nothing was changed.
    #[error("{needed} token slots are needed, {free} are free")]
    OutOfSlots {
        /// Slots that the call needs.
        needed: u64,
        /// Slots that are free.
        free: u64,
    },
    /// A `max_` option is reached; the message names it.
    #[error("{0}")]
    LimitReached(String),
    /// The host's buffer is too small.
    #[error("the buffer holds {capacity}, {needed} are needed")]
    BufferTooSmall {
        /// Elements needed.
        needed: usize,
        /// Elements that the buffer holds.
        capacity: usize,
    },
    /// The device or its driver failed.
    #[error("{0}")]
    Device(String),
    /// A callback of the host asked to stop.
    #[error("{0}")]
    Cancelled(String),
    /// An earlier error left the engine unusable.
    #[error("{0}")]
    EngineFailed(String),
    /// A defect of larder.
    #[error("{0}")]
    Internal(String),
}

/// Result with larder's error.
pub type Result<T> = std::result::Result<T, Error>;
