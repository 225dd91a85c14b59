// The kernels of gemm.cuh put together: `GEMM(name, Shape, T, Source)` defines one.
#pragma once
#include "gemm.cuh"
#include "gemm_finish.cuh"

// sums = input * weights over all of n_in. A Source has: begin() before anything of a former kernel
// is read, load(step) of a later step into its ring, advance(step) while `step` is about to be
// computed, and add(tile, input, step).
template <class Shape, class T, class Source>
__device__ __forceinline__ void multiply(
    WarpTile<Shape, T>& tile, InputTiles<Shape, T>& input, Source& source, uint32_t n_steps) {
    tile.clear();
    source.begin(n_steps);
    pdl_wait();
    pdl_trigger();
#pragma unroll
    for (uint32_t step = 0; step < STAGES - 1; ++step) {
        if (step < n_steps) input.load(step);
        cp_async_commit();
    }
    for (uint32_t step = 0; step < n_steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        const uint32_t later = step + STAGES - 1;
        if (later < n_steps) {
            input.load(later);
            source.load(later);
        }
        cp_async_commit();
        source.advance(step, n_steps);
        source.add(tile, input.stage(step), step);
    }
}

template <class Shape, class T, class Source>
__device__ __forceinline__ void gemm_body(const Gemm& g) {
    DYN_SMEM(unsigned char, shared);
    using Input = InputTiles<Shape, T>;
    constexpr uint32_t TURN_ROWS = 16 * Shape::M;
    const Place place = place_of<Shape>(g);
    const uint32_t n_steps = ceil_div(g.weights[0].n_in, TILE_K);
    const uint32_t n_passes = g.kind == FINISH_QKV ? ceil_div(g.n_columns, Shape::COLUMNS) : 1;
    const uint32_t leading = n_passes * Shape::COLUMNS + STAGED_PAD;
    // A head of several passes waits for its last column beside the operands. Otherwise the rows of
    // warps take turns to put their products over the operands, which are done with.
    const bool turns = n_passes == 1;
    float* staged = reinterpret_cast<float*>(shared + (turns ? 0 : Input::BYTES + Source::BYTES));
    WarpTile<Shape, T> tile;
#pragma unroll 1
    for (uint32_t pass = 0; pass < n_passes; ++pass) {
        Input input(reinterpret_cast<T*>(shared), g, place);
        Source source(shared + Input::BYTES, g, place, pass * Shape::COLUMNS);
        multiply(tile, input, source, n_steps);
        __syncthreads();
        if (!turns) {
            stage_tile(tile, staged + tile.row * leading + pass * Shape::COLUMNS, leading);
            __syncthreads();
        }
    }
#pragma unroll 1
    for (uint32_t first = 0; first < Shape::ROWS; first += TURN_ROWS) {
        const uint32_t row = place.row + first;
        if (row >= g.n_rows) break;
        if (turns) {
            if (tile.row == first) stage_tile(tile, staged, leading);
            __syncthreads();
        }
        finish_staged(g, place, {staged + (turns ? 0 : first * leading), leading, row,
                                 min(TURN_ROWS, g.n_rows - row)});
        if (turns) __syncthreads();
    }
}

#define GEMM(name, Shape, T, Source)                                                       \
    extern "C" __global__ void __launch_bounds__(Shape::THREADS, Shape::BLOCKS)            \
        name(const __grid_constant__ Gemm gemm) {                                          \
        gemm_body<Shape, T, Source>(gemm);                                                 \
    }                                                                                      \
    KERNEL_ENTRY(name);
