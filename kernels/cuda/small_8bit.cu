#include "small.cuh"

SMALL_KERNELS(f8e4m3, ReadF8E4M3)
SMALL_KERNELS(i8, ReadI8)
SMALL_KERNELS(q8_0, ReadQ8_0)
