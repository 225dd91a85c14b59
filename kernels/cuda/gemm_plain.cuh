// Weights that tensor cores take as they are.
#pragma once
#include "gemm_mma.cuh"

// Stages of [COLUMNS][32], beside the input's.
template <class Shape, class T> struct PlainSource {
    static constexpr uint32_t BYTES = STAGES * Shape::COLUMNS * TILE_K * sizeof(T);
    static constexpr uint32_t ROW_STEP = Shape::THREADS / 4;
    static constexpr uint32_t PIECES = Shape::COLUMNS / ROW_STEP;
    T* tiles;
    const T* from[PIECES];
    uint32_t n_in, valid;

    __device__ __forceinline__ PlainSource(
        void* shared, const Gemm& g, const Place& place, uint32_t first)
        : tiles(static_cast<T*>(shared)), n_in(g.weights[0].n_in), valid(0) {
#pragma unroll
        for (uint32_t j = 0; j < PIECES; ++j) {
            const TileRow at = tile_row(g, place, first + threadIdx.x / 4 + j * ROW_STEP);
            const Weights& weights = g.weights[at.matrix];
            from[j] = reinterpret_cast<const T*>(weights.planes[0]) +
                      size_t(at.valid ? at.row : 0) * weights.row_elements + threadIdx.x % 4 * 8;
            valid |= uint32_t(at.valid) << j;
        }
    }
    __device__ __forceinline__ void load(uint32_t step) {
        T* stage = tiles + step % STAGES * (Shape::COLUMNS * TILE_K);
        const uint32_t column = step * TILE_K + threadIdx.x % 4 * 8;
#pragma unroll
        for (uint32_t j = 0; j < PIECES; ++j) {
            const bool inside = column < n_in && (valid >> j & 1);
            cp_async16(stage + tile_at(threadIdx.x / 4 + j * ROW_STEP, threadIdx.x % 4),
                       inside ? from[j] + step * TILE_K : from[j], inside);
        }
    }
    __device__ __forceinline__ void begin(uint32_t n_steps) {
#pragma unroll
        for (uint32_t step = 0; step < STAGES - 1; ++step) {
            if (step < n_steps) load(step);
        }
    }
    __device__ __forceinline__ void advance(uint32_t, uint32_t) {}
    __device__ __forceinline__ void add(
        WarpTile<Shape, T>& tile, const T* input, uint32_t step) const {
        tile.add(input, tiles + step % STAGES * (Shape::COLUMNS * TILE_K));
    }
    __device__ __forceinline__ void finish(WarpTile<Shape, T>&) const {}
};
