//! What products are refused.
#![forbid(unsafe_code)]

use cudarc::driver::sys::CUresult;

use crate::driver::{CudaError, Result};
use crate::format::{Format, Weights};
use crate::kv::MAX_HEAD_DIM;
use crate::product::FinishKind;

/// What `n_in` must be a multiple of, so that every row of the input is aligned to 16 bytes.
pub const fn input_multiple(format: Format) -> u32 {
    match format {
        Format::F32 => 4,
        _ => 8,
    }
}

/// An error as the driver would report it.
pub fn refuse(why: &str) -> CudaError {
    CudaError::found("gemm", CUresult::CUDA_ERROR_INVALID_VALUE, &format!(" ({why})"))
}

pub fn check(weights: &[Weights], format: Format, finish: &FinishKind) -> Result<()> {
    let expected = match finish {
        FinishKind::Store(_) | FinishKind::Residual(_) => 1..=1,
        FinishKind::Gated(..) => 2..=2,
        FinishKind::Qkv(_) => 1..=3,
    };
    if !expected.contains(&weights.len()) {
        return Err(refuse(&format!("{} matrices, expected {expected:?}", weights.len())));
    }
    let n_in = weights[0].n_in;
    if weights.iter().any(|matrix| matrix.format != format || matrix.n_in != n_in) {
        return Err(refuse(&format!(
            "matrices of other formats than {format:?}, or of other n_in"
        )));
    }
    let multiple = input_multiple(format);
    if n_in == 0 || !n_in.is_multiple_of(multiple) {
        return Err(refuse(&format!("n_in is {n_in}, expected a multiple of {multiple}")));
    }
    match finish {
        FinishKind::Gated(..) if weights[0].n_out != weights[1].n_out => {
            let (gate, up) = (weights[0].n_out, weights[1].n_out);
            Err(refuse(&format!("gate has {gate} columns and up {up}")))
        }
        FinishKind::Qkv(qkv) => {
            let head_dim = qkv.kv.head_dim;
            if head_dim == 0 || head_dim > MAX_HEAD_DIM {
                return Err(refuse(&format!("heads of {head_dim}, expected 1 to {MAX_HEAD_DIM}")));
            }
            match weights.iter().find(|matrix| !matrix.n_out.is_multiple_of(head_dim)) {
                Some(matrix) => {
                    let n_out = matrix.n_out;
                    Err(refuse(&format!("{n_out} columns are no whole heads of {head_dim}")))
                }
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}
