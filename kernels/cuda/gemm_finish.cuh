// What a block of gemm.cuh does with its tile of products: they go through shared memory, so that
// the epilogues exist once, stores are wide, and a warp has a whole head.
#pragma once
#include "gemm.cuh"

// Two neighbouring values, in one store where they may be.
template <class T>
__device__ __forceinline__ void put_pair(T* to, float first, float second, bool has_second) {
    struct alignas(2 * sizeof(T)) Pair { T first, second; };
    if (has_second && reinterpret_cast<size_t>(to) % sizeof(Pair) == 0) {
        *reinterpret_cast<Pair*>(to) = Pair{to_act<T>(first), to_act<T>(second)};
    } else {
        to[0] = to_act<T>(first);
        if (has_second) to[1] = to_act<T>(second);
    }
}

// Some rows of products in shared memory: `y[row * leading + column]`.
struct Staged {
    float* y;
    uint32_t leading;
    uint32_t first_row;  // of the output
    uint32_t n_rows;     // that exist
};

__device__ __forceinline__ void put_gated(
    const Gemm& g, size_t at, float first, float second, bool has_second) {
    void* out = g.finish.out;
    if (g.act == ACT_BF16) {
        put_pair(static_cast<bf16*>(out) + at, first, second, has_second);
    } else if (g.act == ACT_F16) {
        put_pair(static_cast<f16*>(out) + at, first, second, has_second);
    } else {
        put_pair(static_cast<float*>(out) + at, first, second, has_second);
    }
}

// Store, residual or gated; neighbours in pairs.
__device__ __forceinline__ void finish_values(
    const Gemm& g, const Place& place, const Staged& staged) {
    const Finish& f = g.finish;
    const uint32_t n_pairs = ceil_div(place.n_columns, 2u);
    for (uint32_t i = threadIdx.x; i < staged.n_rows * n_pairs; i += blockDim.x) {
        const uint32_t row = i / n_pairs, in_tile = i % n_pairs * 2;
        const uint32_t column = place.column + in_tile;
        const bool second = in_tile + 1 < place.n_columns;
        const size_t at = size_t(staged.first_row + row) * f.leading + column;
        const float* y = staged.y + row * staged.leading;
        float values[2] = {0.0f, 0.0f};
#pragma unroll
        for (uint32_t e = 0; e < 2; ++e) {
            if (e == 1 && !second) break;
            if (g.kind == FINISH_GATED) {
                // Gate and up take turns every 8 columns.
                const float* gate = y + in_tile / 8 * 16 + in_tile % 8 + e;
                values[e] = gated(f, column + e, gate[0], gate[8]);
            } else {
                values[e] = stored(f, column + e, y[in_tile + e]);
            }
        }
        if (g.kind == FINISH_GATED) {
            put_gated(g, at, values[0], values[1], second);
            continue;
        }
        float* out = static_cast<float*>(f.out) + at;
        if (g.kind == FINISH_RESIDUAL) {
            values[0] += out[0];
            if (second) values[1] += out[1];
        }
        put_pair(out, values[0], values[1], second);
    }
}

// Whole heads, a warp per head of a row.
__device__ __forceinline__ void finish_heads(
    const Gemm& g, const Place& place, const Staged& staged) {
    const uint32_t head_dim = g.qkv.kv.head_dim, n_heads = place.n_columns / head_dim;
    const uint32_t first_head = g.qkv.first_head[place.matrix] + place.column / head_dim;
    for (uint32_t i = threadIdx.x / 32; i < staged.n_rows * n_heads; i += blockDim.x / 32) {
        const uint32_t row = i / n_heads, head = i % n_heads;
        finish_head(g.qkv, staged.first_row + row, first_head + head,
                    staged.y + row * staged.leading + head * head_dim);
    }
}

__device__ __forceinline__ void finish_staged(
    const Gemm& g, const Place& place, const Staged& staged) {
    if (g.kind == FINISH_QKV) {
        finish_heads(g, place, staged);
    } else {
        finish_values(g, place, staged);
    }
}
