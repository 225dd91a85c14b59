#include "gemv.cuh"

GEMV_KERNELS(q4_0, ReadQ4_0)
GEMV_KERNELS(q4_k, ReadQ4_K)
GEMV_KERNELS(q6_k, ReadQ6_K)
