#include "small.cuh"

SMALL_KERNELS(i8, ReadI8)
SMALL_KERNELS(q8_0, ReadQ8_0)
