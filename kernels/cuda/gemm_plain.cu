// Products of many rows with bf16 and f16 weights.
#include "gemm_body.cuh"
#include "gemm_plain.cuh"

using LargeBf16 = PlainSource<LargeShape, bf16>;
using SmallBf16 = PlainSource<SmallShape, bf16>;
using LargeF16 = PlainSource<LargeShape, f16>;
using SmallF16 = PlainSource<SmallShape, f16>;

GEMM(gemm_large_bf16, LargeShape, bf16, LargeBf16)
GEMM(gemm_small_bf16, SmallShape, bf16, SmallBf16)
GEMM(gemm_large_f16, LargeShape, f16, LargeF16)
GEMM(gemm_small_f16, SmallShape, f16, SmallF16)
