// Products on tensor cores. A block computes a tile of rows x columns over steps of 32 along n_in: the
// input through a ring of cp.async stages, the weights through a Source (gemm_plain.cuh: the same
// ring; gemm_decoded.cuh: quants decoded into bf16).
#pragma once
#include "gemm.cuh"

constexpr uint32_t TILE_K = 32;
constexpr uint32_t STAGES = 3;

// Warps along rows and columns, the 16-row and 8-column tiles of each, and how many blocks a
// multiprocessor should have room for.
template <uint32_t WARPS_M, uint32_t WARPS_N, uint32_t TILES_M, uint32_t TILES_N, uint32_t BLOCKS_>
struct Shape {
    static constexpr uint32_t BLOCKS = BLOCKS_;
    static constexpr uint32_t THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr uint32_t ROWS = 16 * WARPS_M * TILES_M;
    static constexpr uint32_t COLUMNS = 8 * WARPS_N * TILES_N;
    static constexpr uint32_t N_WARPS_N = WARPS_N;
    static constexpr uint32_t M = TILES_M;
    static constexpr uint32_t N = TILES_N;
};
// What gemm.rs launches: threads, rows and columns are the same there.
using LargeShape = Shape<2, 2, 4, 8, 2>;         // 128 x 128 by 128 threads
using LargeDecodedShape = Shape<2, 4, 4, 4, 1>;  // 128 x 128 by 256 threads, which share the decoding
using SmallShape = Shape<2, 2, 2, 4, 4>;         // 64 x 64 by 128 threads
using SmallDecodedShape = Shape<2, 2, 2, 4, 3>;

// Where 8 elements of a tile lie: rows of 32 elements, their four pieces permuted so that 8 rows of
// one piece, as ldmatrix reads them, fall into different banks.
__device__ __forceinline__ uint32_t tile_at(uint32_t row, uint32_t piece) {
    return row * TILE_K + ((piece ^ (row >> 1)) & 3) * 8;
}

__device__ __forceinline__ void mma(
    float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bf16) {
    mma_bf16(d, a, b);
}
__device__ __forceinline__ void mma(
    float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], f16) {
    mma_f16(d, a, b);
}

// The input's tiles: stages of [ROWS][32].
template <class Shape, class T> struct InputTiles {
    static constexpr uint32_t BYTES = STAGES * Shape::ROWS * TILE_K * sizeof(T);
    static constexpr uint32_t ROW_STEP = Shape::THREADS / 4;
    T* tiles;
    const T* from;  // of this thread: a piece of every ROW_STEP-th row
    uint32_t n_in, first_row, n_rows;

    __device__ __forceinline__ InputTiles(T* tiles, const Gemm& g, const Place& place)
        : tiles(tiles), n_in(g.weights[0].n_in), first_row(threadIdx.x / 4),
          n_rows(g.n_rows - place.row) {
        from = static_cast<const T*>(g.input) + size_t(place.row + first_row) * n_in +
               threadIdx.x % 4 * 8;
    }
    // What does not exist is filled with zeros.
    __device__ __forceinline__ void load(uint32_t step) {
        T* stage = tiles + step % STAGES * (Shape::ROWS * TILE_K);
        const bool inside = step * TILE_K + threadIdx.x % 4 * 8 < n_in;
#pragma unroll
        for (uint32_t j = 0; j < Shape::ROWS / ROW_STEP; ++j) {
            const uint32_t row = first_row + j * ROW_STEP;
            const bool valid = inside && row < n_rows;
            cp_async16(stage + tile_at(row, threadIdx.x % 4),
                       valid ? from + size_t(j * ROW_STEP) * n_in + step * TILE_K : from, valid);
        }
    }
    __device__ __forceinline__ const T* stage(uint32_t step) const {
        return tiles + step % STAGES * (Shape::ROWS * TILE_K);
    }
};

// A warp's part of a tile: its products, and the fragments that they are made of.
template <class Shape, class T> struct WarpTile {
    uint32_t lane, row, column;  // of the tile
    float sums[Shape::M][Shape::N][4];

    __device__ __forceinline__ WarpTile() {
        const uint32_t warp = threadIdx.x / 32;
        lane = threadIdx.x % 32;
        row = warp / Shape::N_WARPS_N * (16 * Shape::M);
        column = warp % Shape::N_WARPS_N * (8 * Shape::N);
    }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (uint32_t i = 0; i < Shape::M; ++i)
#pragma unroll
            for (uint32_t j = 0; j < Shape::N; ++j)
#pragma unroll
                for (uint32_t k = 0; k < 4; ++k) sums[i][j][k] = 0.0f;
    }
    __device__ __forceinline__ void load_input(
        uint32_t (&a)[4], const T* tile, uint32_t i, uint32_t half) const {
        ldmatrix_x4(a, tile + tile_at(row + 16 * i + lane % 16, 2 * half + lane / 16));
    }
    // Two 8-column tiles.
    __device__ __forceinline__ void load_weights(
        uint32_t (&b)[2][2], const T* tile, uint32_t pair, uint32_t half) const {
        uint32_t both[4];
        ldmatrix_x4(both, tile + tile_at(column + 16 * pair + lane % 8 + lane / 16 * 8,
                                         2 * half + lane / 8 % 2));
        b[0][0] = both[0], b[0][1] = both[1], b[1][0] = both[2], b[1][1] = both[3];
    }
    // One step of 32: sums += input * weights.
    __device__ __forceinline__ void add(const T* input, const T* weights) {
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            uint32_t a[Shape::M][4], b[Shape::N / 2][2][2];
#pragma unroll
            for (uint32_t i = 0; i < Shape::M; ++i) load_input(a[i], input, i, half);
#pragma unroll
            for (uint32_t j = 0; j < Shape::N / 2; ++j) load_weights(b[j], weights, j, half);
#pragma unroll
            for (uint32_t i = 0; i < Shape::M; ++i)
#pragma unroll
                for (uint32_t j = 0; j < Shape::N; ++j) mma(sums[i][j], a[i], b[j / 2][j % 2], T());
        }
    }
    // As `add`, with a factor of each column's products of this step.
    __device__ __forceinline__ void add_scaled(
        const T* input, const T* weights, const float* scales) {
        uint32_t b[2][Shape::N / 2][2][2];
        float2 factors[Shape::N];
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half)
#pragma unroll
            for (uint32_t j = 0; j < Shape::N / 2; ++j) load_weights(b[half][j], weights, j, half);
#pragma unroll
        for (uint32_t j = 0; j < Shape::N; ++j) {
            factors[j] = *reinterpret_cast<const float2*>(scales + column + 8 * j + lane % 4 * 2);
        }
#pragma unroll
        for (uint32_t i = 0; i < Shape::M; ++i) {
            uint32_t a[2][4];
            load_input(a[0], input, i, 0);
            load_input(a[1], input, i, 1);
#pragma unroll
            for (uint32_t j = 0; j < Shape::N; ++j) {
                float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                mma(d, a[0], b[0][j / 2][j % 2], T());
                mma(d, a[1], b[1][j / 2][j % 2], T());
                sums[i][j][0] += d[0] * factors[j].x;
                sums[i][j][1] += d[1] * factors[j].y;
                sums[i][j][2] += d[2] * factors[j].x;
                sums[i][j][3] += d[3] * factors[j].y;
            }
        }
    }
    // The products at their columns; y's first row is the warp's own.
    __device__ __forceinline__ void stage(float* y, uint32_t leading) const {
        float* to = y + lane / 4 * leading + column + lane % 4 * 2;
#pragma unroll
        for (uint32_t i = 0; i < Shape::M; ++i)
#pragma unroll
            for (uint32_t half = 0; half < 2; ++half)
#pragma unroll
                for (uint32_t j = 0; j < Shape::N; ++j) {
                    *reinterpret_cast<float2*>(to + (16 * i + 8 * half) * leading + 8 * j) =
                        make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
                }
    }
};

// A Source has: begin() before anything of a former kernel is read, load(step) of a later step into its
// ring, advance(step) while `step` is about to be computed, add(tile, input, step), and finish(tile)
// for what is left to do to the sums.
template <class Shape_, class T, class Source> struct TensorCores {
    using Shape = Shape_;
    using Input = InputTiles<Shape, T>;
    static constexpr uint32_t BYTES = Input::BYTES + Source::BYTES;
    // Rows whose products are staged at once: those of a row of warps.
    static constexpr uint32_t TURN_ROWS = 16 * Shape::M;
    WarpTile<Shape, T> tile;

    // Products of all of n_in, with the columns from `first` of the block's on.
    __device__ __forceinline__ void multiply(
        unsigned char* shared, const Gemm& g, const Place& place, uint32_t first) {
        const uint32_t n_steps = ceil_div(g.weights[0].n_in, TILE_K);
        Input input(reinterpret_cast<T*>(shared), g, place);
        Source source(shared + Input::BYTES, g, place, first);
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
        source.finish(tile);
    }
    // The products of rows first .. first + TURN_ROWS, if they are this thread's.
    __device__ __forceinline__ void stage(float* y, uint32_t leading, uint32_t first) const {
        if (tile.row == first) tile.stage(y, leading);
    }
};
