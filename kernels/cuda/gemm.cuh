// Products of many rows on tensor cores: out[rows][n_out] = input[rows][n_in] * weights^T, with any
// epilogue of finish.cuh. A block computes a tile of rows x columns over steps of 32 along n_in: the
// input through a ring of cp.async stages, the weights through a Source (gemm_plain.cuh: the same
// ring; gemm_decoded.cuh: quants decoded into bf16).
#pragma once
#include "larder.cuh"
#include "finish.cuh"
#include "weights.cuh"

constexpr uint32_t TILE_K = 32;
constexpr uint32_t STAGES = 3;
// Values between staged rows, so that a warp's stores fall into different banks.
constexpr uint32_t STAGED_PAD = 8;

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

enum FinishKind : uint32_t {
    FINISH_STORE = 0,
    FINISH_RESIDUAL = 1,
    FINISH_GATED = 2,
    FINISH_QKV = 3
};

// As Act of product.rs.
enum ActType : uint32_t { ACT_F32 = 0, ACT_F16 = 1, ACT_BF16 = 2 };

struct Gemm {
    Weights weights[3];  // one; gate and up; or some of q, k, v
    const void* input;   // act rows [n_rows][n_in]
    Finish finish;       // of all kinds but qkv
    QkvFinish qkv;
    uint32_t kind;       // FinishKind
    uint32_t act;        // ActType of what a gated product writes
    uint32_t n_rows;
    uint32_t n_columns;  // of a block: whole heads with qkv, of each of gate and up when gated
};
static_assert(sizeof(Gemm) == 3 * sizeof(Weights) + 64 + sizeof(QkvFinish),
              "gemm.rs has the same struct");

// Where a block works.
struct Place {
    uint32_t row;        // first row
    uint32_t matrix;     // of `weights`
    uint32_t column;     // first row of that matrix (of both when gated)
    uint32_t n_columns;  // how many of them exist
};

// Blocks that run at the same time share weights: groups of 16 row tiles, column by column.
template <class Shape> __device__ __forceinline__ Place place_of(const Gemm& g) {
    constexpr uint32_t GROUP = 16;
    const uint32_t n_row_tiles = ceil_div(g.n_rows, Shape::ROWS);
    const uint32_t n_column_tiles = gridDim.x / n_row_tiles;
    const uint32_t group = blockIdx.x / (GROUP * n_column_tiles);
    const uint32_t in_group = blockIdx.x % (GROUP * n_column_tiles);
    const uint32_t n_in_group = min(GROUP, n_row_tiles - group * GROUP);
    Place place;
    place.row = (group * GROUP + in_group % n_in_group) * Shape::ROWS;
    uint32_t tile = in_group / n_in_group;
    place.matrix = 0;
    if (g.kind == FINISH_QKV) {
        uint32_t n_tiles = ceil_div(g.weights[0].n_out, g.n_columns);
        while (tile >= n_tiles) {
            tile -= n_tiles;
            place.matrix += 1;
            n_tiles = ceil_div(g.weights[place.matrix].n_out, g.n_columns);
        }
    }
    place.column = tile * g.n_columns;
    place.n_columns = min(g.n_columns, g.weights[place.matrix].n_out - place.column);
    return place;
}

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
};
