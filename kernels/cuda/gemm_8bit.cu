// Products of many rows with weights with a scale per row.
#include "gemm_body.cuh"
#include "gemm_decoded.cuh"

GEMM_DECODED(f8e4m3, ReadF8E4M3)
GEMM_DECODED(i8, ReadI8)
