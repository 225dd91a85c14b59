// Attention on tensor cores for heads of up to 128 elements.
#include "attend_mma.cuh"

ATTEND_KERNEL(attend_128, 128);
