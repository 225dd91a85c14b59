#include "gemv.cuh"

GEMV_KERNELS(f32, ReadF32)
GEMV_KERNELS(f16, ReadF16)
GEMV_KERNELS(bf16, ReadBF16)
