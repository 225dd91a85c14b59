// Products of many rows: out[rows][n_out] = input[rows][n_in] * weights^T, with any epilogue of
// finish.cuh. Here: the parameter, which block computes what, and how tiles lie in shared memory.
#pragma once
#include "larder.cuh"
#include "finish.cuh"
#include "weights.cuh"

// Values between staged rows, so that a warp's stores fall into different banks.
constexpr uint32_t STAGED_PAD = 8;

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
template <uint32_t TILE_ROWS> __device__ __forceinline__ Place place_of(const Gemm& g) {
    constexpr uint32_t GROUP = 16;
    const uint32_t n_row_tiles = ceil_div(g.n_rows, TILE_ROWS);
    const uint32_t n_column_tiles = gridDim.x / n_row_tiles;
    const uint32_t group = blockIdx.x / (GROUP * n_column_tiles);
    const uint32_t in_group = blockIdx.x % (GROUP * n_column_tiles);
    const uint32_t n_in_group = min(GROUP, n_row_tiles - group * GROUP);
    Place place;
    place.row = (group * GROUP + in_group % n_in_group) * TILE_ROWS;
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

// Row of the weights' tile -> row of a matrix. When gated, 8 rows of gate and 8 of up take turns, so
// that a thread has both products of a column.
struct TileRow {
    uint32_t matrix, row;
    bool valid;
};

__device__ __forceinline__ TileRow tile_row(const Gemm& g, const Place& place, uint32_t row) {
    TileRow at = {place.matrix, row, false};
    if (g.kind == FINISH_GATED) {
        at.matrix = row / 8 % 2;
        at.row = row / 16 * 8 + row % 8;
    }
    at.valid = at.row < place.n_columns;
    at.row += place.column;
    return at;
}
