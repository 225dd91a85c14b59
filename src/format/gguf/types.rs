//! The tensor types that GGUF numbers, and those of them that larder computes with.
#![forbid(unsafe_code)]

use crate::dtype::DType;

/// What a type number means.
pub(super) enum TensorType {
    Known(DType),
    /// Of this name, not supported.
    Other(&'static str),
    /// A number that this version has no name for.
    Unknown,
}

/// The type of a number, as ggml counts them.
pub(super) fn tensor_type(number: u32) -> TensorType {
    use TensorType::{Known, Other, Unknown};
    match number {
        0 => Known(DType::F32),
        1 => Known(DType::F16),
        2 => Known(DType::Q4_0),
        3 => Known(DType::Q4_1),
        4 => Other("Q4_2"),
        5 => Other("Q4_3"),
        6 => Known(DType::Q5_0),
        7 => Known(DType::Q5_1),
        8 => Known(DType::Q8_0),
        9 => Other("Q8_1"),
        10 => Known(DType::Q2_K),
        11 => Known(DType::Q3_K),
        12 => Known(DType::Q4_K),
        13 => Known(DType::Q5_K),
        14 => Known(DType::Q6_K),
        15 => Other("Q8_K"),
        16 => Other("IQ2_XXS"),
        17 => Other("IQ2_XS"),
        18 => Other("IQ3_XXS"),
        19 => Other("IQ1_S"),
        20 => Known(DType::IQ4_NL),
        21 => Other("IQ3_S"),
        22 => Other("IQ2_S"),
        23 => Known(DType::IQ4_XS),
        24 => Other("I8"),
        25 => Other("I16"),
        26 => Other("I32"),
        27 => Other("I64"),
        28 => Other("F64"),
        29 => Other("IQ1_M"),
        30 => Known(DType::BF16),
        31 => Other("Q4_0_4_4"),
        32 => Other("Q4_0_4_8"),
        33 => Other("Q4_0_8_8"),
        34 => Other("TQ1_0"),
        35 => Other("TQ2_0"),
        36 => Other("IQ4_NL_4_4"),
        37 => Other("IQ4_NL_4_8"),
        38 => Other("IQ4_NL_8_8"),
        39 => Known(DType::MXFP4),
        40 => Other("NVFP4"),
        _ => Unknown,
    }
}
