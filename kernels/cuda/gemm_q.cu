// Products of many rows with weights with a scale per 32 elements.
#include "gemm_body.cuh"
#include "gemm_decoded.cuh"

GEMM_DECODED(q8_0, ReadQ8_0)
GEMM_DECODED(q4_0, ReadQ4_0)
