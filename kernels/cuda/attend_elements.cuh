// Pairs of 16-bit elements for tensor cores, and where the elements of a tile lie in shared memory.
#pragma once
#include "attend.cuh"

constexpr uint32_t TILE = 64;        // tokens, and vectors of a wide item
constexpr uint32_t SLOT_TILES = 4;   // tiles whose slots and scales are kept
constexpr uint32_t THREADS = 128;

template <class T> struct Pair;

template <> struct Pair<__half> {
    static __device__ __forceinline__ uint32_t pack(float a, float b) {
        const __half2 pair = __halves2half2(kv_to_f16(a), kv_to_f16(b));
        return reinterpret_cast<const uint32_t&>(pair);
    }
    static __device__ __forceinline__ float2 unpack(uint32_t pair) {
        return __half22float2(reinterpret_cast<const __half2&>(pair));
    }
    static __device__ __forceinline__ void mma(
        float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_f16(d, a, b);
    }
};

template <> struct Pair<__nv_bfloat16> {
    static __device__ __forceinline__ uint32_t pack(float a, float b) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
        return reinterpret_cast<const uint32_t&>(pair);
    }
    static __device__ __forceinline__ float2 unpack(uint32_t pair) {
        return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
    }
    static __device__ __forceinline__ void mma(
        float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_bf16(d, a, b);
    }
};

// A tile of 16-bit elements, D to a row. The 16-byte chunks of a row are permuted by the row's
// number, so that the eight rows of a matrix lie in different banks.
template <uint32_t D>
__device__ __forceinline__ unsigned char* at_chunk(unsigned char* tile, uint32_t row, uint32_t chunk) {
    return tile + row * (D * 2) + ((chunk ^ (row & 7)) * 16);
}
