// Attention on tensor cores for heads of up to 64 elements.
#include "attend_mma.cuh"

ATTEND_KERNEL(attend_64, 64);
