//! What can go wrong inside: a call of the driver, or a mistake that larder finds by itself.

use crate::error::Error;
use larder_kernels::driver::CudaError;

/// An error before it is known whether the device survived it.
#[derive(Debug)]
pub enum Fault {
    Cuda(CudaError),
    Larder(Error),
}

pub type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// A defect of larder.
    pub fn defect(text: String) -> Fault {
        Fault::Larder(Error::Internal(text))
    }

    /// Whether nothing can run on the device any more.
    pub fn is_sticky(&self) -> bool {
        matches!(self, Fault::Cuda(error) if error.is_sticky())
    }

    /// As the layers above see it.
    pub fn into_error(self) -> Error {
        match self {
            Fault::Cuda(error) => Error::Device(error.to_string()),
            Fault::Larder(error) => error,
        }
    }
}

impl From<CudaError> for Fault {
    fn from(error: CudaError) -> Fault {
        Fault::Cuda(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Larder(error)
    }
}
