// Quantised weights, decoded into tiles of bf16. Whole numbers of up to 8 bits and e4m3 are exact there: a
// scale per row is applied to the sums, one per 32 elements to the products of each step. Q4_K and
// Q6_K, with more than a scale, are rounded to bf16 like the input.
#pragma once
#include "gemm_mma.cuh"

// Two tiles of [COLUMNS][32] in turn, and the scales of their columns. A thread decodes the same rows
// in every step, from chunks of which it loads the next one well before it needs it.
template <class Shape, class F> struct DecodedSource {
    static constexpr uint32_t TILE = Shape::COLUMNS * TILE_K;
    static constexpr uint32_t BYTES = 2 * (TILE * sizeof(bf16) + Shape::COLUMNS * sizeof(float));
    static constexpr uint32_t ROW_STEP = Shape::THREADS / 4;
    static constexpr uint32_t UNITS = Shape::COLUMNS / ROW_STEP;
    static constexpr bool STEP_SCALE = F::SCALES == 1 && !F::OFFSETS;
    static constexpr bool FOLDED = F::SCALES == 2 || F::OFFSETS;

    const Gemm& gemm;
    const Place& place;
    uint32_t first;  // column of the block's that is the tile's first
    bf16* tiles;     // [2][COLUMNS][32]
    float* scales;   // [2][COLUMNS]
    Run run;
    uint32_t lane, tile_rows[UNITS], rows[UNITS], n_chunks;
    typename F::Held now[UNITS], next[UNITS];

    __device__ __forceinline__ DecodedSource(
        void* shared, const Gemm& g, const Place& place, uint32_t first)
        : gemm(g), place(place), first(first), tiles(static_cast<bf16*>(shared)),
          scales(reinterpret_cast<float*>(tiles + 2 * TILE)), lane(threadIdx.x % 4),
          n_chunks(ceil_div(g.weights[0].n_in, F::CHUNK)) {
        uint32_t matrix = 0;
#pragma unroll
        for (uint32_t u = 0; u < UNITS; ++u) {
            // Bits 1 and 2 exchanged, so that half a warp's stores fall into different banks.
            const uint32_t i = threadIdx.x / 4 + u * ROW_STEP;
            tile_rows[u] = (i & ~6u) | (i & 2) << 1 | (i & 4) >> 1;
            const TileRow at = tile_row(g, place, first + tile_rows[u]);
            rows[u] = at.row;
            matrix = at.matrix;  // the same for all: ROW_STEP is a multiple of 16
        }
        run = run_of<F>(g.weights[matrix], 0, g.weights[matrix].n_out);
    }
    __device__ __forceinline__ void fetch(typename F::Held (&to)[UNITS], uint32_t chunk) {
        if (chunk >= n_chunks) return;
#pragma unroll
        for (uint32_t u = 0; u < UNITS; ++u) to[u] = F::load(run, rows[u], chunk, lane);
    }
    __device__ __forceinline__ void decode(uint32_t step) {
        const uint32_t chunk = step / F::PIECES;
        const int piece = step % F::PIECES;
        if (piece == 0 && step > 0) {
#pragma unroll
            for (uint32_t u = 0; u < UNITS; ++u) now[u] = next[u];
            fetch(next, chunk + 1);
        }
#pragma unroll
        for (uint32_t u = 0; u < UNITS; ++u) {
            uint32_t pairs[4];
            F::pairs(now[u], piece, pairs);
            if (FOLDED) {
                const float offset = F::offset(now[u], chunk, piece);
                fold(pairs[0], pairs[1], F::scale(now[u], chunk, piece, 0), offset);
                fold(pairs[2], pairs[3], F::scale(now[u], chunk, piece, F::SCALES - 1), offset);
            }
            bf16* tile = tiles + step % 2 * TILE + lane % 2 * 4;
            *reinterpret_cast<uint2*>(tile + tile_at(tile_rows[u], lane / 2)) =
                make_uint2(pairs[0], pairs[1]);
            *reinterpret_cast<uint2*>(tile + tile_at(tile_rows[u], lane / 2 + 2)) =
                make_uint2(pairs[2], pairs[3]);
            if (STEP_SCALE && lane == 0) {
                scales[step % 2 * Shape::COLUMNS + tile_rows[u]] =
                    F::scale(now[u], chunk, piece, 0);
            }
        }
    }
    static __device__ __forceinline__ void fold(
        uint32_t& first, uint32_t& second, float scale, float offset) {
        first = folded(first, scale, offset);
        second = folded(second, scale, offset);
    }
    static __device__ __forceinline__ uint32_t folded(uint32_t pair, float scale, float offset) {
        const float2 numbers = float2_of_bf16x2(pair);
        const __nv_bfloat162 values = __floats2bfloat162_rn(
            fmaf(numbers.x, scale, -offset), fmaf(numbers.y, scale, -offset));
        return reinterpret_cast<const uint32_t&>(values);
    }

    __device__ __forceinline__ void begin(uint32_t) {
        fetch(now, 0);
        fetch(next, 1);
        decode(0);
    }
    __device__ __forceinline__ void load(uint32_t) {}
    __device__ __forceinline__ void advance(uint32_t step, uint32_t n_steps) {
        if (step + 1 < n_steps) decode(step + 1);
    }
    __device__ __forceinline__ void add(
        WarpTile<Shape, bf16>& tile, const bf16* input, uint32_t step) const {
        const bf16* weights = tiles + step % 2 * TILE;
        if constexpr (STEP_SCALE) {
            tile.add_scaled(input, weights, scales + step % 2 * Shape::COLUMNS);
        } else {
            tile.add(input, weights);
        }
    }
    __device__ __forceinline__ void finish(WarpTile<Shape, bf16>& tile) const {
        if constexpr (F::ROW_SCALE) {
#pragma unroll
            for (uint32_t j = 0; j < Shape::N; ++j)
#pragma unroll
                for (uint32_t e = 0; e < 2; ++e) {
                    const uint32_t column = first + tile.column + 8 * j + tile.lane % 4 * 2 + e;
                    const TileRow at = tile_row(gemm, place, column);
                    const float scale = row_scale<F>(
                        gemm.weights[at.matrix], at.valid ? at.row : place.column);
#pragma unroll
                    for (uint32_t i = 0; i < Shape::M; ++i) {
                        tile.sums[i][j][e] *= scale;
                        tile.sums[i][j][e + 2] *= scale;
                    }
                }
        }
    }
};

#define GEMM_DECODED(name, Reader)                                                               \
    GEMM(gemm_large_##name, TensorCores<LargeDecodedShape, bf16,                                 \
                                        DecodedSource<LargeDecodedShape, Reader>>)               \
    GEMM(gemm_small_##name, TensorCores<SmallDecodedShape, bf16,                                 \
                                        DecodedSource<SmallDecodedShape, Reader>>)
