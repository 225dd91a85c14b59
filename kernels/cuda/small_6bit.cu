#include "small.cuh"

SMALL_KERNELS(q6_k, ReadQ6_K)
