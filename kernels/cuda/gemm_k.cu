// Products of many rows with weights of GGUF's K kinds.
#include "gemm_body.cuh"
#include "gemm_decoded.cuh"

GEMM_DECODED(q4_k, ReadQ4_K)
GEMM_DECODED(q6_k, ReadQ6_K)
