// Products of many rows with f32 weights, exact in f32: no tensor cores.
#include "gemm_body.cuh"

// 64 x 64 by 256 threads, 4 x 4 each, over steps of 16 along n_in.
struct FmaUnits {
    struct Shape {
        static constexpr uint32_t ROWS = 64, COLUMNS = 64, THREADS = 256, BLOCKS = 2;
    };
    static constexpr uint32_t TURN_ROWS = Shape::ROWS;
    static constexpr uint32_t STEP = 16, LEADING = 68;
    static constexpr uint32_t TILE = STEP * LEADING;  // [STEP][64], transposed
    static constexpr uint32_t BYTES = 4 * TILE * sizeof(float);

    float sums[4][4];

    static __device__ __forceinline__ void put(float* tile, const float4& values) {
        float* to = tile + threadIdx.x % 4 * 4 * LEADING + threadIdx.x / 4;
        to[0] = values.x, to[LEADING] = values.y, to[2 * LEADING] = values.z;
        to[3 * LEADING] = values.w;
    }
    static __device__ __forceinline__ float4 four(const float* from, uint32_t column, bool valid) {
        return valid ? *reinterpret_cast<const float4*>(from + column) : float4{0, 0, 0, 0};
    }

    __device__ __forceinline__ void multiply(
        unsigned char* shared, const Gemm& g, const Place& place, uint32_t first) {
        float* input_tiles = reinterpret_cast<float*>(shared);  // two in turn, then the weights'
        float* weight_tiles = input_tiles + 2 * TILE;
        const uint32_t n_in = g.weights[0].n_in, own = threadIdx.x / 4;
        const uint32_t rows = threadIdx.x / 16 * 4, columns = threadIdx.x % 16 * 4;
        const bool has_row = place.row + own < g.n_rows;
        const TileRow at = tile_row(g, place, first + own);
        const Weights& weights = g.weights[at.matrix];
        const float* input = static_cast<const float*>(g.input) + size_t(place.row + own) * n_in;
        const float* weight = reinterpret_cast<const float*>(weights.planes[0]) +
                              size_t(at.valid ? at.row : 0) * weights.row_elements;
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i)
#pragma unroll
            for (uint32_t j = 0; j < 4; ++j) sums[i][j] = 0.0f;
        pdl_wait();
        pdl_trigger();
        const uint32_t piece = threadIdx.x % 4 * 4;
        float4 next_input = four(input, piece, has_row && piece < n_in);
        float4 next_weight = four(weight, piece, at.valid && piece < n_in);
        uint32_t turn = 0;
        for (uint32_t k = 0; k < n_in; k += STEP, turn ^= 1) {
            float* a = input_tiles + turn * TILE;
            float* b = weight_tiles + turn * TILE;
            put(a, next_input);
            put(b, next_weight);
            const uint32_t column = k + STEP + piece;
            next_input = four(input, column, has_row && column < n_in);
            next_weight = four(weight, column, at.valid && column < n_in);
            // One barrier: the tiles of two steps ago are done with when all have come here.
            __syncthreads();
#pragma unroll
            for (uint32_t e = 0; e < STEP; ++e) {
                const float4 x = *reinterpret_cast<const float4*>(a + e * LEADING + rows);
                const float4 w = *reinterpret_cast<const float4*>(b + e * LEADING + columns);
                const float xs[4] = {x.x, x.y, x.z, x.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
                for (uint32_t i = 0; i < 4; ++i)
#pragma unroll
                    for (uint32_t j = 0; j < 4; ++j) sums[i][j] += xs[i] * ws[j];
            }
        }
    }
    __device__ __forceinline__ void stage(float* y, uint32_t leading, uint32_t) const {
        float* to = y + threadIdx.x / 16 * 4 * leading + threadIdx.x % 16 * 4;
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            *reinterpret_cast<float4*>(to + i * leading) =
                make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
        }
    }
};

GEMM(gemm_f32, FmaUnits)
