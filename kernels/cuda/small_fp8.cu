#include "small.cuh"

SMALL_KERNELS(f8e4m3, ReadF8E4M3)
