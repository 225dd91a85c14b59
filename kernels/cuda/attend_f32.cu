// Attention in f32, for K or V of 32 bits: any kinds, any head. Not made for speed.
#include "attend.cuh"

namespace {
constexpr uint32_t TOKENS = 32;   // of a tile
constexpr uint32_t VECTORS = 8;  // at a time
constexpr uint32_t THREADS = 128;
constexpr uint32_t PER_THREAD = VECTORS * 256 / THREADS;
constexpr uint32_t WEIGHTS = TOKENS + 4;  // of a row in shared memory

struct Shared {
    float* q;        // [VECTORS][head_dim]
    float* tile;     // [TOKENS][head_dim + 4]
    float* weights;  // [VECTORS][WEIGHTS]
    uint32_t* slots; // [TOKENS]
};

// A tile of K or V, scales applied.
__device__ __forceinline__ void load_tile(
    const AttendParams& p, const Shared& shared, uint32_t kv_head, bool is_v, uint32_t n_tokens) {
    const uint32_t chunks = p.kv.head_dim / 8, kind = kv_kind(p.kv, is_v);
    for (uint32_t i = threadIdx.x; i < n_tokens * chunks; i += THREADS) {
        const uint32_t token = i / chunks, chunk = i % chunks;
        const unsigned char* row = kv_row(p.kv, shared.slots[token]);
        float values[8];
        kv_load8(kind, row + kv_head_offset(p.kv, kv_head, is_v) + chunk * 8 * kv_element_bytes(kind), values);
        float scale = 1.0f;
        if (kind >= KV_INT8) {
            scale = *reinterpret_cast<const float*>(row + kv_scale_offset(p.kv, kv_head, is_v));
        }
        float* to = shared.tile + token * (p.kv.head_dim + 4) + chunk * 8;
#pragma unroll
        for (uint32_t j = 0; j < 8; ++j) to[j] = values[j] * scale;
    }
}

// Weights of the tile's tokens in place of their scores: one warp for every fourth vector, one lane
// for a token. Leaves the factor of what was summed so far in column TOKENS.
struct Softmax {
    float largest[VECTORS / 4];
    float sum[VECTORS / 4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (uint32_t j = 0; j < VECTORS / 4; ++j) largest[j] = -INFINITY, sum[j] = 0.0f;
    }

    __device__ __forceinline__ void update(float* weights, uint32_t n_vectors) {
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x & 31;
#pragma unroll
        for (uint32_t j = 0; j < VECTORS / 4; ++j) {
            const uint32_t v = warp + 4 * j;
            if (v >= n_vectors) continue;
            const float score = weights[v * WEIGHTS + lane];
            const float now = fmaxf(largest[j], warp_max(score)), base = attend_base(now);
            const float weight = exp2f(score - base), keep = exp2f(largest[j] - base);
            sum[j] = sum[j] * keep + warp_sum(weight);
            largest[j] = now;
            weights[v * WEIGHTS + lane] = weight;
            if (lane == 0) weights[v * WEIGHTS + TOKENS] = keep;
        }
    }
};

__device__ __forceinline__ void run(
    const AttendParams& p, const AttendHead& head, const AttendItem& item, uint32_t first_vector,
    uint32_t n_vectors, const Shared& shared) {
    const uint32_t dim = p.kv.head_dim, kv_head = (item.lane_rows >> 8) / p.lanes_per_head;
    const AttendRow* rows = attend_table<AttendRow>(p, head.rows);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n_vectors * dim; i += THREADS) {
        const AttendVector vector =
            attend_vector(p, rows, item.row, item.lane_rows, first_vector + i / dim);
        shared.q[i] = vector.is_there ? p.q[vector.offset + i % dim] : 0.0f;
    }
    AttendSlots walker;
    Softmax softmax;
    softmax.clear();
    float o[PER_THREAD];
#pragma unroll
    for (uint32_t j = 0; j < PER_THREAD; ++j) o[j] = 0.0f;

    for (uint32_t begin = item.begin; begin < item.end; begin += TOKENS) {
        const uint32_t n_tokens = min(TOKENS, item.end - begin);
        __syncthreads();
        if (threadIdx.x < n_tokens) shared.slots[threadIdx.x] = walker.slot(p, head, item, begin + threadIdx.x);
        __syncthreads();
        load_tile(p, shared, kv_head, false, n_tokens);
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < n_vectors * TOKENS; i += THREADS) {
            const uint32_t v = i / TOKENS, token = i % TOKENS;
            const uint32_t query =
                attend_vector(p, rows, item.row, item.lane_rows, first_vector + v).position;
            float score = -INFINITY;
            if (token < n_tokens && attend_sees(p, query, begin + token)) {
                const float *q = shared.q + v * dim, *k = shared.tile + token * (dim + 4);
                float product = 0.0f;
                for (uint32_t d = 0; d < dim; ++d) product = fmaf(q[d], k[d], product);
                score = attend_score(p, product);
            }
            shared.weights[v * WEIGHTS + token] = score;
        }
        __syncthreads();
        softmax.update(shared.weights, n_vectors);
        load_tile(p, shared, kv_head, true, n_tokens);
        __syncthreads();
#pragma unroll
        for (uint32_t j = 0; j < PER_THREAD; ++j) {
            const uint32_t i = threadIdx.x + j * THREADS, v = i / dim, d = i % dim;
            if (i >= n_vectors * dim) break;
            const float* weights = shared.weights + v * WEIGHTS;
            float value = o[j] * weights[TOKENS];
            for (uint32_t token = 0; token < n_tokens; ++token) {
                value = fmaf(weights[token], shared.tile[token * (dim + 4) + d], value);
            }
            o[j] = value;
        }
    }
    // Largest scores and sums to where all threads see them.
    __syncthreads();
    const uint32_t warp = threadIdx.x / 32;
#pragma unroll
    for (uint32_t j = 0; j < VECTORS / 4; ++j) {
        const uint32_t v = warp + 4 * j;
        if ((threadIdx.x & 31) != 0 || v >= n_vectors) continue;
        shared.weights[v * WEIGHTS] = softmax.sum[j];
        if (item.partial != NONE) {
            p.stats[size_t(item.partial) + first_vector + v] =
                make_float2(softmax.largest[j], softmax.sum[j]);
        }
    }
    __syncthreads();
#pragma unroll
    for (uint32_t j = 0; j < PER_THREAD; ++j) {
        const uint32_t i = threadIdx.x + j * THREADS, v = i / dim, d = i % dim;
        if (i >= n_vectors * dim) break;
        const AttendVector vector =
            attend_vector(p, rows, item.row, item.lane_rows, first_vector + v);
        if (!vector.is_there) continue;
        if (item.partial != NONE) {
            p.values[(size_t(item.partial) + first_vector + v) * dim + d] = o[j];
        } else {
            const float sum = shared.weights[v * WEIGHTS];
            p.q[vector.offset + d] = sum == 0.0f ? 0.0f : o[j] / sum;
        }
    }
}

__device__ __forceinline__ void run_items(
    const AttendParams& p, const AttendHead& head, uint32_t first, uint32_t items, const Shared& shared) {
    const uint32_t* of_block = attend_table<uint32_t>(p, first) + blockIdx.x;
    for (uint32_t i = of_block[0]; i < of_block[1]; ++i) {
        const AttendItem item = attend_table<AttendItem>(p, items)[i];
        const uint32_t n_vectors = (item.lane_rows & 0xff) * p.width;
        for (uint32_t v = 0; v < n_vectors; v += VECTORS) {
            run(p, head, item, v, min(VECTORS, n_vectors - v), shared);
        }
    }
}
}  // namespace

extern "C" __global__ void __launch_bounds__(128) attend_f32(const AttendParams p) {
    DYN_SMEM(float, memory);
    pdl_wait();
    pdl_trigger();
    Shared shared;
    shared.q = memory;
    shared.tile = shared.q + VECTORS * p.kv.head_dim;
    shared.weights = shared.tile + TOKENS * (p.kv.head_dim + 4);
    shared.slots = reinterpret_cast<uint32_t*>(shared.weights + VECTORS * WEIGHTS);
    const AttendHead& head = attend_head(p);
    run_items(p, head, head.wide_first, head.wide_items, shared);
    run_items(p, head, head.narrow_first, head.narrow_items, shared);
}
KERNEL_ENTRY(attend_f32);
