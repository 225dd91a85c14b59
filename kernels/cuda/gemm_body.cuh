// The kernels of gemm.cuh put together: an Engine multiplies, gemm_finish.cuh does the rest.
#pragma once
#include "gemm.cuh"
#include "gemm_finish.cuh"

template <class Engine> __device__ __forceinline__ void gemm_body(const Gemm& g) {
    DYN_SMEM(unsigned char, shared);
    constexpr uint32_t ROWS = Engine::Shape::ROWS, COLUMNS = Engine::Shape::COLUMNS;
    const Place place = place_of<ROWS>(g);
    const uint32_t n_passes = g.kind == FINISH_QKV ? ceil_div(g.n_columns, COLUMNS) : 1;
    const uint32_t leading = n_passes * COLUMNS + STAGED_PAD;
    // A head of several passes waits for its last column beside the operands. Otherwise some rows at a
    // time are staged over the operands, which are done with.
    const bool turns = n_passes == 1;
    float* staged = reinterpret_cast<float*>(shared + (turns ? 0 : Engine::BYTES));
    Engine engine;
#pragma unroll 1
    for (uint32_t pass = 0; pass < n_passes; ++pass) {
        engine.multiply(shared, g, place, pass * COLUMNS);
        __syncthreads();
        if (turns) break;
        float* to = staged + pass * COLUMNS;
#pragma unroll
        for (uint32_t first = 0; first < ROWS; first += Engine::TURN_ROWS) {
            engine.stage(to + first * leading, leading, first);
        }
        __syncthreads();
    }
#pragma unroll 1
    for (uint32_t first = 0; first < ROWS; first += Engine::TURN_ROWS) {
        const uint32_t row = place.row + first;
        if (row >= g.n_rows) break;
        if (turns) {
            engine.stage(staged, leading, first);
            __syncthreads();
        }
        finish_staged(g, place, {staged + (turns ? 0 : first * leading), leading, row,
                                 min(Engine::TURN_ROWS, g.n_rows - row)});
        if (turns) __syncthreads();
    }
}

#define GEMM(name, ...)                                                                        \
    using Engine_##name = __VA_ARGS__;                                                         \
    extern "C" __global__ void                                                                 \
    __launch_bounds__(Engine_##name::Shape::THREADS, Engine_##name::Shape::BLOCKS)             \
        name(const __grid_constant__ Gemm gemm) {                                              \
        gemm_body<Engine_##name>(gemm);                                                        \
    }                                                                                          \
    KERNEL_ENTRY(name);
