//! Which of the device's formats a weight matrix is stored in.

use super::fault::{Fault, Result};
use crate::backend::ops::Linear;
use crate::dtype::DType;
use crate::error::Error;
use crate::options::CudaWeights;
use larder_kernels::format::{Format, FormatError, Layout};

/// How the file's rows become the device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// The same numbers in another order.
    Packed(Format),
    /// Decoded to f32 and quantised.
    Quantised(Format),
}

impl Conversion {
    /// Of matrices that the file has as `dtype`. Quantised types without kernels of their own become Q8_0, which is
    /// wider than each of them.
    pub fn of(dtype: DType, plain: CudaWeights) -> Conversion {
        use Conversion::{Packed, Quantised};
        match (dtype, plain) {
            (DType::F32, CudaWeights::AsInFile) => Packed(Format::F32),
            (DType::F16, CudaWeights::AsInFile) => Packed(Format::F16),
            (DType::BF16, CudaWeights::AsInFile) => Packed(Format::BF16),
            (DType::F32 | DType::F16 | DType::BF16, CudaWeights::Fp8) => Quantised(Format::F8E4M3),
            (DType::F32 | DType::F16 | DType::BF16, CudaWeights::Int8) => Quantised(Format::I8),
            (DType::Q8_0, _) => Packed(Format::Q8_0),
            (DType::Q4_0, _) => Packed(Format::Q4_0),
            (DType::Q4_K, _) => Packed(Format::Q4_K),
            (DType::Q6_K, _) => Packed(Format::Q6_K),
            (
                DType::Q4_1
                | DType::Q5_0
                | DType::Q5_1
                | DType::Q2_K
                | DType::Q3_K
                | DType::Q5_K
                | DType::IQ4_NL
                | DType::IQ4_XS
                | DType::MXFP4,
                _,
            ) => Quantised(Format::Q8_0),
        }
    }

    /// What the device stores.
    pub fn format(self) -> Format {
        match self {
            Conversion::Packed(format) | Conversion::Quantised(format) => format,
        }
    }
}

/// How a matrix lies on the device.
///
/// # Errors
/// `BadModel` where rows are no whole blocks, or the matrix is too large.
pub fn layout(plain: CudaWeights, dtype: DType, n_out: u32, n_in: u32) -> Result<Layout> {
    if dtype.row_bytes(u64::from(n_in)).is_none() {
        let block = dtype.block_len();
        return Err(Fault::Larder(Error::BadModel(format!(
            "a row of {n_in} is no multiple of {dtype:?}'s block of {block}"
        ))));
    }
    Layout::new(Conversion::of(dtype, plain).format(), n_out, n_in).map_err(refused)
}

/// The layout of a matrix that was planned before.
pub fn layout_of(plain: CudaWeights, linear: &Linear) -> Result<Layout> {
    layout(plain, linear.dtype, linear.n_out, linear.n_in)
}

/// What is wrong with a model's matrix.
pub fn refused(error: FormatError) -> Fault {
    Fault::Larder(Error::BadModel(error.to_string()))
}
