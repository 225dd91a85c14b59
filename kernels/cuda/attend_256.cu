// Attention on tensor cores for heads of up to 256 elements.
#include "attend_mma.cuh"

ATTEND_KERNEL(attend_256, 256);
