//! larder's CUDA side below the backend: the kernels (`cuda/*.cu`, embedded as fatbins), one launcher for each, and
//! the driver calls that they need. Knows addresses and sizes, not models.

pub mod attention;
pub mod blas;
pub mod driver;
pub mod embed;
pub mod format;
pub mod gemm;
pub mod gemv;
pub mod kv;
pub mod modules;
pub mod norm;
pub mod product;
pub mod rope;
pub mod sample;
pub mod small;
#[cfg(feature = "standin")]
pub mod standin;
