#include "small.cuh"

SMALL_KERNELS(f16, ReadF16)
SMALL_KERNELS(bf16, ReadBF16)
