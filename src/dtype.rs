//! Storage types of weights and of K/V, with their block sizes. Knows bytes, not arithmetic.
#![forbid(unsafe_code)]

/// How a weight is stored. The quantised types are GGUF's blocks, kept as they are in the file.
#[allow(non_camel_case_types, reason = "the names of the GGUF format")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

impl DType {
    /// All of them, in order of declaration.
    pub const ALL: [DType; 16] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2_K,
        DType::Q3_K,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
        DType::IQ4_NL,
        DType::IQ4_XS,
        DType::MXFP4,
    ];

    /// Elements of one block; 1 for the plain types.
    pub const fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q4_0
            | DType::Q4_1
            | DType::Q5_0
            | DType::Q5_1
            | DType::Q8_0
            | DType::IQ4_NL
            | DType::MXFP4 => 32,
            DType::Q2_K | DType::Q3_K | DType::Q4_K | DType::Q5_K | DType::Q6_K | DType::IQ4_XS => {
                256
            }
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q4_0 | DType::IQ4_NL => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q8_0 => 34,
            DType::Q2_K => 84,
            DType::Q3_K => 110,
            DType::Q4_K => 144,
            DType::Q5_K => 176,
            DType::Q6_K => 210,
            DType::IQ4_XS => 136,
            DType::MXFP4 => 17,
        }
    }

    /// Whether rows are made of quantised blocks.
    pub const fn is_quantised(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes of a row of `n` elements, or `None` when `n` is no whole number of blocks or it overflows.
    pub fn row_bytes(self, n: u64) -> Option<u64> {
        let block_len = self.block_len() as u64;
        n.is_multiple_of(block_len).then_some(())?;
        (n / block_len).checked_mul(self.block_bytes() as u64)
    }
}

/// How K or V is stored in the KV repo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvType {
    F32,
    F16,
    BF16,
    /// 8-bit integers with an f32 scale per token and head.
    Int8,
    /// e4m3 with an f32 scale per token and head.
    Fp8,
}

impl KvType {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 | KvType::BF16 => 2,
            KvType::Int8 | KvType::Fp8 => 1,
        }
    }

    /// Bytes of the scale of one token and head.
    pub const fn scale_bytes(self) -> usize {
        match self {
            KvType::F32 | KvType::F16 | KvType::BF16 => 0,
            KvType::Int8 | KvType::Fp8 => 4,
        }
    }
}
