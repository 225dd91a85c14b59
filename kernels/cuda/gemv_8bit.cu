#include "gemv.cuh"

GEMV_KERNELS(f8e4m3, ReadF8E4M3)
GEMV_KERNELS(i8, ReadI8)
GEMV_KERNELS(q8_0, ReadQ8_0)
