// What the sampling kernels share: the layouts of sample/layout.rs, ranks as integers, weights as fixed-point numbers.
#pragma once
#include "larder.cuh"

using Wide = unsigned long long;

constexpr uint32_t TILE = 2048, TILE_THREADS = 256, PER_THREAD = TILE / TILE_THREADS;
constexpr uint32_t N_BINS = 1728, MAX_TOPS = 64;

struct SampleRow {
    Wide seed, counter;
    float scale;  // 1 / temperature
    float top_p, min_p;
    uint32_t top_k;
    float repetition;
    uint32_t n_top, draws, cuts;
};
static_assert(sizeof(SampleRow) == 48, "sample/layout.rs has the same struct");

struct SampleEdit {
    uint32_t row, token, link;
    float amount;
};
static_assert(sizeof(SampleEdit) == 16, "sample/layout.rs has the same struct");

struct TopToken {
    uint32_t token;
    float logprob;
};

struct Choice {
    TopToken chosen;
    uint32_t is_finite, n_top;
};
static_assert(sizeof(Choice) == 16, "sample/layout.rs has the same struct");

// What a tile's block of sample_reduce leaves: its best token, and the sum of e^(logit - the best's logit).
struct SampleTile {
    Wide best;
    double sum;
};
static_assert(sizeof(SampleTile) == 16, "sample/layout.rs has the same size");

// What it leaves in sample_weigh: the weights of all its tokens, and of those that min-p lets pass.
struct TileWeights {
    Wide mass, above;
};
static_assert(sizeof(TileWeights) == 16, "sample/layout.rs has the same size");

// ---- Ranks --------------------------------------------------------------------------------------

// Ascends with the logit; both zeros have the same.
__device__ __forceinline__ uint32_t order_of(float logit) {
    const uint32_t bits = logit == 0.0f ? 0u : __float_as_uint(logit);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float logit_of(uint32_t order) {
    return __uint_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}

constexpr uint32_t ORDER_OF_INFINITY = 0xff800000u, ORDER_OF_MINUS_INFINITY = 0x007fffffu;

// Ascends with the logit, and with equal logits towards the lower id. A row's largest tells whether it is finite:
// a NaN or +inf counts as more than any logit.
__device__ __forceinline__ Wide rank_of(float logit, uint32_t token) {
    const uint32_t order = logit < INFINITY ? order_of(logit) : 0xffffffffu;
    return Wide(order) << 32 | ~token;
}

__device__ __forceinline__ uint32_t order_of_rank(Wide rank) { return uint32_t(rank >> 32); }
__device__ __forceinline__ uint32_t token_of_rank(Wide rank) { return ~uint32_t(rank); }

__device__ __forceinline__ bool is_finite_rank(Wide rank) {
    const uint32_t order = order_of_rank(rank);
    return order > ORDER_OF_MINUS_INFINITY && order < ORDER_OF_INFINITY;
}

// ---- Weights ------------------------------------------------------------------------------------

// Weights are at most 1 and have 43 bits behind the point: the sum of 2^20 of them fits, and is exact in any order.
constexpr Wide WEIGHT_OF_BEST = 1ull << 43;

__device__ __forceinline__ float weight_of(float logit, float best, float scale) {
    return expf((logit - best) * scale);
}

__device__ __forceinline__ Wide fixed_of(float weight) {
    return Wide(weight * float(WEIGHT_OF_BEST));
}

// ---- Bins ---------------------------------------------------------------------------------------

// The histogram is over the distance to the best token's order: exact below 64, then 64 bins each time it doubles.
__device__ __forceinline__ uint32_t bin_of(uint32_t distance) {
    if (distance < 64) return distance;
    const uint32_t top = 31 - __clz(int(distance));
    return (top - 5) << 6 | (distance >> (top - 6) & 63);
}

// A bin holds the 2^bin_bits distances from bin_begin on.
__device__ __forceinline__ uint32_t bin_bits(uint32_t bin) { return bin < 128 ? 0 : (bin >> 6) - 1; }

__device__ __forceinline__ uint32_t bin_begin(uint32_t bin) {
    return bin < 64 ? bin : (64 + (bin & 63)) << bin_bits(bin);
}

// ---- Over the block -----------------------------------------------------------------------------

// The combination of all threads' values, the same in every thread and in a fixed order. `scratch` has a place for
// each warp and is free again when the call returns.
template <class T, class Combine>
__device__ __forceinline__ T block_combine(T value, T* scratch, const Combine& combine) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2)
        value = combine(value, __shfl_xor_sync(FULL_WARP, value, lanes));
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    value = scratch[0];
    for (uint32_t warp = 1; warp < blockDim.x / 32; ++warp) value = combine(value, scratch[warp]);
    __syncthreads();
    return value;
}

template <class T> __device__ __forceinline__ T block_total(T value, T* scratch) {
    return block_combine(value, scratch, [](T a, T b) { return a + b; });
}

__device__ __forceinline__ Wide block_best(Wide rank, Wide* scratch) {
    return block_combine(rank, scratch, [](Wide a, Wide b) { return a > b ? a : b; });
}

// The best token of a row, from its tiles.
__device__ __forceinline__ Wide row_best(const SampleTile* tiles, uint32_t n_tiles, Wide* scratch) {
    Wide best = 0;
    for (uint32_t i = threadIdx.x; i < n_tiles; i += blockDim.x)
        best = best > tiles[i].best ? best : tiles[i].best;
    return block_best(best, scratch);
}
