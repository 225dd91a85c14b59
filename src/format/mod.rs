//! Model files: bytes in, checked views out. Nothing that a file says is trusted.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::dtype::DType;
use crate::error::Result;

/// A tensor in one of the model's files. Everything is checked: the bytes lie inside the file, are as many as
/// dtype and shape need, and belong to no other tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: DType,
    /// Outermost first, as in PyTorch: a matrix is `[n_out, n_in]`, its rows are contiguous.
    pub shape: Vec<u64>,
    /// Which of the checkpoint's files.
    pub file: usize,
    /// From the begin of the file.
    pub offset: u64,
    pub bytes: u64,
}
