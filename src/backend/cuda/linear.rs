//! Which of the device's formats a weight matrix is stored in.

use super::fault::{Fault, Result};
use crate::backend::ops::Linear;
use crate::dtype::DType;
use crate::error::Error;
use crate::options::CudaWeights;
use larder_kernels::format::{Format, FormatError, Layout};
use larder_kernels::gemm;

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
/// `BadModel` where rows are no whole blocks, or the matrix is too large; `Unsupported` for rows of an odd length.
pub fn layout(plain: CudaWeights, dtype: DType, n_out: u32, n_in: u32) -> Result<Layout> {
    if dtype.row_bytes(u64::from(n_in)).is_none() {
        let block = dtype.block_len();
        return Err(Fault::Larder(Error::BadModel(format!(
            "a row of {n_in} is no multiple of {dtype:?}'s block of {block}"
        ))));
    }
    let format = Conversion::of(dtype, plain).format();
    let multiple = gemm::input_multiple(format);
    if !n_in.is_multiple_of(multiple) {
        return Err(Fault::Larder(Error::Unsupported(format!(
            "a {format:?} matrix with rows of {n_in} elements: on CUDA devices rows have a multiple \
             of {multiple}"
        ))));
    }
    Layout::new(format, n_out, n_in).map_err(refused)
}

/// The layout of a matrix that was planned before.
pub fn layout_of(plain: CudaWeights, linear: &Linear) -> Result<Layout> {
    layout(plain, linear.dtype, linear.n_out, linear.n_in)
}

/// What is wrong with a model's matrix.
pub fn refused(error: FormatError) -> Fault {
    Fault::Larder(Error::BadModel(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_type_gets_narrower() {
        for dtype in DType::ALL {
            let bytes = |n| layout(CudaWeights::AsInFile, dtype, 8, n).unwrap().bytes();
            let file_bytes = 8 * dtype.row_bytes(1024).unwrap();
            assert!(bytes(1024) >= file_bytes, "{dtype:?}");
            let narrowest = layout(CudaWeights::Fp8, dtype, 8, 1024).unwrap().bytes();
            let is_plain = !dtype.is_quantised();
            assert_eq!(narrowest < bytes(1024), is_plain, "{dtype:?}");
        }
    }

    #[test]
    fn rows_that_kernels_cannot_read_are_refused() {
        let error = |dtype, n_in| {
            layout(CudaWeights::AsInFile, dtype, 8, n_in).err().map(Fault::into_error)
        };
        assert!(matches!(error(DType::BF16, 12), Some(Error::Unsupported(_))));
        assert!(matches!(error(DType::F32, 6), Some(Error::Unsupported(_))));
        assert!(matches!(error(DType::Q8_0, 40), Some(Error::BadModel(_))));
        assert!(matches!(error(DType::BF16, 0), Some(Error::BadModel(_))));
        assert!(error(DType::BF16, 8).is_none() && error(DType::F32, 4).is_none());
    }
}
