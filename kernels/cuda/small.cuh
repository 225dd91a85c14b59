// Products of up to 64 rows of activations with a matrix, on tensor cores and at the speed of memory. The weights are
// the 16-row operand, so that few rows waste little; both operands go from memory to registers in the order in which
// lanes own elements (weights.cuh), with no shuffle in between. Numbers of quantised formats are exact in bf16; their
// scales are applied to the f32 sums of a block.
#pragma once
#include "product.cuh"

constexpr int SMALL_UNIT = 16;  // rows of a unit

// Neighbouring chunks that a warp takes before the next warp's follow. The same for any number of rows, and so is the
// order of the additions: a row gives the same bits in every kernel.
template <class F> constexpr int SMALL_GROUP = F::PIECES == 4 ? 2 : 4;

// Chunks that a warp has under way: a divisor of the group, as many as registers allow.
template <class F, int TILES>
constexpr int SMALL_DEPTH = SMALL_GROUP<F> / (F::PIECES > 1 && TILES >= 4 ? 2 : 1);

template <class F> constexpr bool IS_F16 = false;
template <> constexpr bool IS_F16<ReadF16> = true;

template <bool HALF> struct PairOf {
    using Type = __nv_bfloat162;
};
template <> struct PairOf<true> {
    using Type = __half2;
};

template <class F>
__device__ __forceinline__ void multiply(
    float (&d)[4], const uint32_t (&a)[2][4], const uint32_t (&b)[4], int half) {
    const uint32_t rows[4] = {a[0][2 * half], a[1][2 * half], a[0][2 * half + 1],
                              a[1][2 * half + 1]};
    const uint32_t columns[2] = {b[2 * half], b[2 * half + 1]};
    if (IS_F16<F>)
        mma_f16(d, rows, columns);
    else
        mma_bf16(d, rows, columns);
}

// Eight f32 activations as pairs of the weights' type, and what that rounding leaves: together they have twice the
// bits, so that the sums are nearly those of f32 activations. Memory stays the limit.
template <class F>
__device__ __forceinline__ void split(
    const float4& low, const float4& high, uint32_t (&b)[4], uint32_t (&rest)[4]) {
    using Pair = typename PairOf<IS_F16<F>>::Type;
    const float x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const Pair pair = {to_act<decltype(Pair::x)>(x[2 * i]),
                           to_act<decltype(Pair::x)>(x[2 * i + 1])};
        const Pair left = {to_act<decltype(Pair::x)>(x[2 * i] - from_act(pair.x)),
                           to_act<decltype(Pair::x)>(x[2 * i + 1] - from_act(pair.y))};
        b[i] = reinterpret_cast<const uint32_t&>(pair);
        rest[i] = reinterpret_cast<const uint32_t&>(left);
    }
}

// The eight activations of token `token` that a lane owns in a piece; zeros outside.
template <class F>
__device__ __forceinline__ void load_pairs(
    const Product& p, uint32_t token, uint32_t chunk, int piece, uint32_t t, uint32_t (&b)[4],
    uint32_t (&rest)[4]) {
    const uint32_t n_in = p.weights[0].n_in;
    const float* row = static_cast<const float*>(p.input) + size_t(token) * n_in;
    const uint32_t k[2] = {element_of<F>(chunk, piece, 0, t), element_of<F>(chunk, piece, 1, t)};
    float4 four[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        four[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (token < p.n_rows && k[i] < n_in)
            four[i] = *reinterpret_cast<const float4*>(row + k[i]);
    }
    split<F>(four[0], four[1], b, rest);
}

// sums += one chunk's part; `held` has the lane's row in either run.
template <class F, int TILES>
__device__ __forceinline__ void accumulate(
    const Product& p, const typename F::Held (&held)[2], uint32_t chunk, float (&sums)[TILES][4]) {
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    // With more tiles, the activations of one piece fill the registers.
    constexpr int AT_ONCE = F::PIECES < 4 && TILES == 1 ? F::PIECES : 1;
#pragma unroll AT_ONCE
    for (int piece = 0; piece < F::PIECES; ++piece) {
        uint32_t a[2][4];
        F::pairs(held[0], piece, a[0]);
        F::pairs(held[1], piece, a[1]);
        float scales[2][2], offsets[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            scales[i][0] = F::scale(held[i], chunk, piece, 0);
            scales[i][1] = F::SCALES == 2 ? F::scale(held[i], chunk, piece, 1) : scales[i][0];
            offsets[i] = F::offset(held[i], chunk, piece);
        }
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            uint32_t b[4], rest[4];
            load_pairs<F>(p, 8 * tile + g, chunk, piece, t, b, rest);
            float(&sum)[4] = sums[tile];
            if (F::SCALES == 0) {
                multiply<F>(sum, a, b, 0);
                multiply<F>(sum, a, rest, 0);
                multiply<F>(sum, a, b, 1);
                multiply<F>(sum, a, rest, 1);
                continue;
            }
            float d[4] = {};
            multiply<F>(d, a, b, 0);
            multiply<F>(d, a, rest, 0);
            if (F::SCALES == 2) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    sum[i] += d[i] * scales[i / 2][0];
                    d[i] = 0.0f;
                }
            }
            multiply<F>(d, a, b, 1);
            multiply<F>(d, a, rest, 1);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[i] += d[i] * scales[i / 2][1];
            if (F::OFFSETS) {
                // Ones instead of weights give the sums of the activations.
                const uint32_t ones[2][4] = {{0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u},
                                             {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u}};
                float x_sum[4] = {};
                multiply<F>(x_sum, ones, b, 0);
                multiply<F>(x_sum, ones, rest, 0);
                multiply<F>(x_sum, ones, b, 1);
                multiply<F>(x_sum, ones, rest, 1);
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[i] -= offsets[i / 2] * x_sum[i];
            }
        }
    }
}

// The lane's row of either run of a unit.
template <class F>
__device__ __forceinline__ void open_unit(const Product& p, uint32_t u, Run (&rows)[2]) {
    constexpr uint32_t HALF = SMALL_UNIT / 2;
    const Unit unit = unit_of<SMALL_UNIT>(p, blockIdx.x * p.block_units + u);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint32_t row = unit.first[i] + threadIdx.x % 32 / 4 % HALF;
        rows[i] = run_of<F>(p.weights[unit.matrix[i]], row, 1);
    }
}

// A warp goes through its part of the columns, DEPTH chunks at a time; a quad of lanes has one row of either run.
template <class F, int TILES> __device__ __forceinline__ void small_body(const Product& p) {
    constexpr int DEPTH = SMALL_DEPTH<F, TILES>;
    DYN_SMEM(float, shared);
    const Sums all = sums_of<SMALL_UNIT>(p, shared, 8 * TILES);
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t part = warp % p.k_split, groups = blockDim.x / 32 / p.k_split;
    const uint32_t chunks = ceil_div(p.weights[0].n_in, F::CHUNK);
    const auto chunk_at = [&](uint32_t i) {  // the i-th of the warp
        constexpr uint32_t GROUP = SMALL_GROUP<F>;
        return (i / GROUP * p.k_split + part) * GROUP + i % GROUP;
    };

    Run rows[2];
    typename F::Held held[DEPTH][2];
    const auto load = [&](int d, uint32_t chunk) {
        if (chunk >= chunks) return;
        held[d][0] = F::load(rows[0], 0, chunk, t);
        held[d][1] = F::load(rows[1], 0, chunk, t);
    };
    const auto open = [&](uint32_t u) {
        if (u >= p.block_units) return;
        open_unit<F>(p, u, rows);
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) load(d, chunk_at(0) + d);
    };

    // The weights do not depend on the kernels before this one.
    uint32_t u = warp / p.k_split;
    open(u);
    pdl_trigger();
    pdl_wait();
    while (u < p.block_units) {
        float sums[TILES][4] = {};
        for (uint32_t i = 0, chunk = chunk_at(0); chunk < chunks;) {
            i += DEPTH;
            const uint32_t next = chunk_at(i);
#pragma unroll
            for (int d = 0; d < DEPTH; ++d) {
                if (chunk + d < chunks) accumulate<F, TILES>(p, held[d], chunk + d, sums);
                load(d, next + d);
            }
            chunk = next;
        }
        open(u + groups);
        const uint32_t column = u * SMALL_UNIT + g;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
            for (int i = 0; i < 4; ++i)
                *all.place(part, 8 * tile + 2 * t + i % 2, column + 8 * (i / 2)) = sums[tile][i];
        }
        u += groups;
    }
    __syncthreads();
    finish_block<SMALL_UNIT>(p, all, nullptr);
}

// Blocks that share a multiprocessor: one where registers would not do for two.
template <class F, int TILES>
constexpr int SMALL_BLOCKS = TILES == 8 || (TILES == 4 && F::OFFSETS) ? 1 : 2;

#define SMALL_KERNEL(format, reader, rows)                                                         \
    extern "C" __global__ void __launch_bounds__(256, SMALL_BLOCKS<reader, rows / 8>)              \
        small_##format##_##rows(const __grid_constant__ Product p) {                               \
        small_body<reader, rows / 8>(p);                                                           \
    }                                                                                              \
    KERNEL_ENTRY(small_##format##_##rows)

#define SMALL_KERNELS(format, reader)                                                              \
    SMALL_KERNEL(format, reader, 8)                                                                \
    SMALL_KERNEL(format, reader, 16)                                                               \
    SMALL_KERNEL(format, reader, 32)                                                               \
    SMALL_KERNEL(format, reader, 64)
