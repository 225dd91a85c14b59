// Products of many rows with bf16 and f16 weights.
#include "gemm_body.cuh"
#include "gemm_plain.cuh"

#define GEMM_PLAIN(name, T)                                                                  \
    GEMM(gemm_large_##name, TensorCores<LargeShape, T, PlainSource<LargeShape, T>>)          \
    GEMM(gemm_small_##name, TensorCores<SmallShape, T, PlainSource<SmallShape, T>>)

GEMM_PLAIN(bf16, bf16)
GEMM_PLAIN(f16, f16)
