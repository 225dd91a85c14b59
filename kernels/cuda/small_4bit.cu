#include "small.cuh"

SMALL_KERNELS(q4_0, ReadQ4_0)
SMALL_KERNELS(q4_k, ReadQ4_K)
