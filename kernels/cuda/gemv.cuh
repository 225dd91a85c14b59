// Products of one to four rows of f32 with a matrix, at the speed of memory: every weight is read once, 16 bytes at a
// time, a thread having R loads under way. An RMS norm in front is fused: its factor goes to the results, its weight
// to the activations as they are read.
#pragma once
#include "product.cuh"

// Rows of a unit.
constexpr int GEMV_UNIT = 4;

// Eight activations of each row that meet a piece of weights, zeros behind the end.
template <class F, int ROWS>
__device__ __forceinline__ void load_activations(
    const Product& p, uint32_t chunk, int piece, uint32_t t, float (&x)[ROWS][8]) {
    const uint32_t n_in = p.weights[0].n_in;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const uint32_t k = element_of<F>(chunk, piece, half, t);
        float4 weight = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
        if (p.norm_weight && k < n_in)
            weight = __ldg(reinterpret_cast<const float4*>(p.norm_weight + k));
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (k < n_in && row < p.n_rows) {
                const float* from = static_cast<const float*>(p.input) + size_t(row) * n_in + k;
                four = *reinterpret_cast<const float4*>(from);
            }
            x[row][4 * half] = four.x * weight.x;
            x[row][4 * half + 1] = four.y * weight.y;
            x[row][4 * half + 2] = four.z * weight.z;
            x[row][4 * half + 3] = four.w * weight.w;
        }
    }
}

// sums += weights * activations, for R rows of weights and one chunk.
template <class F, int R, int ROWS>
__device__ __forceinline__ void accumulate(
    const Product& p, const typename F::Held (&held)[R], uint32_t chunk, uint32_t t,
    float (&sums)[R * ROWS]) {
#pragma unroll 1
    for (int piece = 0; piece < F::PIECES; ++piece) {
        float x[ROWS][8], x_sum[ROWS];
        load_activations<F>(p, chunk, piece, t, x);
        if (F::OFFSETS) {
#pragma unroll
            for (int row = 0; row < ROWS; ++row) {
                x_sum[row] = 0.0f;
#pragma unroll
                for (int j = 0; j < 8; ++j) x_sum[row] += x[row][j];
            }
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
            float w[8];
            F::values(held[r], piece, w);
            const float scale = F::scale(held[r], chunk, piece, 0);
            const float scale_high = F::SCALES == 2 ? F::scale(held[r], chunk, piece, 1) : scale;
            const float offset = F::offset(held[r], chunk, piece);
#pragma unroll
            for (int row = 0; row < ROWS; ++row) {
                float& sum = sums[r * ROWS + row];
                float low = F::SCALES == 0 ? sum : 0.0f, high = 0.0f;
#pragma unroll
                for (int j = 0; j < 4; ++j) low += w[j] * x[row][j];
                if (F::SCALES < 2) {
#pragma unroll
                    for (int j = 4; j < 8; ++j) low += w[j] * x[row][j];
                } else {
#pragma unroll
                    for (int j = 4; j < 8; ++j) high += w[j] * x[row][j];
                }
                sum = F::SCALES == 0 ? low : sum + low * scale;
                if (F::SCALES == 2) sum += high * scale_high;
                if (F::OFFSETS) sum -= offset * x_sum[row];
            }
        }
    }
}

// Sums of N values over the warp; lane l gets that of value l / (32 / N). Lanes that differ in one bit exchange halves,
// until each has one value.
template <int N, int DISTANCE = 16>
__device__ __forceinline__ float warp_sums(const float (&values)[N]) {
    if constexpr (DISTANCE == 0) {
        return values[0];
    } else if constexpr (N == 1) {
        const float sum[1] = {values[0] + __shfl_xor_sync(FULL_WARP, values[0], DISTANCE)};
        return warp_sums<1, DISTANCE / 2>(sum);
    } else {
        const bool upper = threadIdx.x & DISTANCE;
        float half[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; ++i) {
            const float low = values[i], high = values[i + N / 2];
            const float sent = upper ? low : high, kept = upper ? high : low;
            half[i] = kept + __shfl_xor_sync(FULL_WARP, sent, DISTANCE);
        }
        return warp_sums<N / 2, DISTANCE / 2>(half);
    }
}

// 1 / sqrt(mean of squares + eps) of every row, or 1.
__device__ __forceinline__ void norm_factors(const Product& p, float* factors) {
    __shared__ float scratch[32];
    const uint32_t n_in = p.weights[0].n_in;
    for (uint32_t row = 0; row < p.n_rows; ++row) {
        float factor = 1.0f;
        if (p.norm_weight) {
            const float* x = static_cast<const float*>(p.input) + size_t(row) * n_in;
            float squares = 0.0f;
            for (uint32_t k = 4 * threadIdx.x; k < n_in; k += 4 * blockDim.x) {
                const float4 four = *reinterpret_cast<const float4*>(x + k);
                squares += four.x * four.x + four.y * four.y + four.z * four.z + four.w * four.w;
            }
            factor = 1.0f / sqrtf(block_sum(squares, scratch) / float(n_in) + p.norm_eps);
        }
        if (threadIdx.x == 0) factors[row] = factor;
    }
}

template <class F, int R>
__device__ __forceinline__ void load_unit(
    const Product& p, uint32_t u, uint32_t chunk, uint32_t t, typename F::Held (&held)[R]) {
    const Unit unit = unit_of<R>(p, blockIdx.x * p.block_units + u);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const Run run = run_of<F>(p.weights[unit.matrix[i]], unit.first[i], R / 2);
#pragma unroll
        for (int r = 0; r < R / 2; ++r) held[i * (R / 2) + r] = F::load(run, r, chunk, t);
    }
}

// A warp goes through its part of the columns eight chunks at a time, four lanes a chunk.
template <class F, int ROWS> __device__ __forceinline__ void gemv_body(const Product& p) {
    constexpr int R = GEMV_UNIT;
    DYN_SMEM(float, shared);
    const Sums all = sums_of<R>(p, shared, ROWS);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4;
    const uint32_t part = warp % p.k_split, step = 8 * p.k_split;
    const uint32_t first = part * 8 + lane / 4, chunks = ceil_div(p.weights[0].n_in, F::CHUNK);
    const uint32_t groups = blockDim.x / 32 / p.k_split;
    uint32_t u = warp / p.k_split;

    // The weights do not depend on the kernels before this one.
    typename F::Held held[R];
    if (u < p.block_units && first < chunks) load_unit<F, R>(p, u, first, t, held);
    pdl_trigger();
    pdl_wait();
    __shared__ float factors[ROWS];
    norm_factors(p, factors);

    while (u < p.block_units) {
        float sums[R * ROWS] = {};
        for (uint32_t chunk = first; chunk < chunks;) {
            accumulate<F, R, ROWS>(p, held, chunk, t, sums);
            chunk += step;
            if (chunk < chunks) load_unit<F, R>(p, u, chunk, t, held);
        }
        const uint32_t next = u + groups;
        if (next < p.block_units && first < chunks) load_unit<F, R>(p, next, first, t, held);
        constexpr uint32_t SAME = 32 / (R * ROWS);  // lanes with the same sum
        const float sum = warp_sums(sums);
        if (lane % SAME == 0) {
            const uint32_t i = lane / SAME;
            *all.place(part, i % ROWS, u * R + i / ROWS) = sum;
        }
        u = next;
    }
    __syncthreads();
    finish_block<R>(p, all, factors);
}

#define GEMV_KERNEL(format, reader, rows)                                                          \
    extern "C" __global__ void __launch_bounds__(256, 2)                                           \
        gemv_##format##_##rows(const __grid_constant__ Product p) {                                \
        gemv_body<reader, rows>(p);                                                                \
    }                                                                                              \
    KERNEL_ENTRY(gemv_##format##_##rows)

#define GEMV_KERNELS(format, reader)                                                               \
    GEMV_KERNEL(format, reader, 1)                                                                 \
    GEMV_KERNEL(format, reader, 2)                                                                 \
    GEMV_KERNEL(format, reader, 4)
