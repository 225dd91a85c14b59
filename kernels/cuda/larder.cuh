// The one include of every kernel file. nvcc sees CUDA; the tests' compiler sees the SIMT emulator of simt/, with the
// same names. A kernel is `extern "C" __global__ void name(...)` followed by KERNEL_ENTRY(name).
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef LARDER_SIMT
#include "simt.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#define KERNEL_ENTRY(name) static_assert(true, #name);
// Dynamic shared memory, aligned for any use.
#define DYN_SMEM(type, name)                                                                       \
    extern __shared__ __align__(1024) unsigned char larder_dynamic_shared[];                       \
    type* name = reinterpret_cast<type*>(larder_dynamic_shared)
#endif

#include "ptx.cuh"

using bf16 = __nv_bfloat16;
using f16 = __half;

constexpr unsigned FULL_WARP = 0xffffffffu;

template <class T> __host__ __device__ constexpr T ceil_div(T value, T divisor) {
    return (value + divisor - 1) / divisor;
}

template <class T> __host__ __device__ constexpr T round_up(T value, T multiple) {
    return ceil_div(value, multiple) * multiple;
}

// Every lane gets the sum over the warp; the order of the additions is fixed.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(FULL_WARP, value, distance);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(FULL_WARP, value, distance));
    return value;
}

// Sum over the block, the same in every thread. The block is one-dimensional with whole warps; `scratch` is shared
// memory for 32 floats, free again when the call returns.
__device__ __forceinline__ float block_sum(float value, float* scratch) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    value = warp_sum(value);
    if (lane == 0)
        scratch[warp] = value;
    __syncthreads();
    value = warp_sum(lane < blockDim.x / 32 ? scratch[lane] : 0.0f);
    __syncthreads();
    return value;
}

__device__ __forceinline__ float block_sum(float value) {
    __shared__ float scratch[32];
    return block_sum(value, scratch);
}

__device__ __forceinline__ float block_max(float value, float* scratch) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    value = warp_max(value);
    if (lane == 0)
        scratch[warp] = value;
    __syncthreads();
    value = warp_max(lane < blockDim.x / 32 ? scratch[lane] : -INFINITY);
    __syncthreads();
    return value;
}
