// Partial results of attention to its output, and zeros for padding rows.
#include "attend.cuh"

// One warp for a vector: partial results weighted by their largest scores, in the tables' order.
__device__ __forceinline__ void merge_vector(
    const AttendParams& p, const AttendPart* parts, uint32_t n_parts, uint32_t v, float* to) {
    constexpr uint32_t PER_LANE = 256 / 32;
    const uint32_t lane = threadIdx.x & 31;
    float largest = -INFINITY;
    for (uint32_t k = 0; k < n_parts; ++k) {
        const AttendPart part = parts[k];
        for (uint32_t i = lane; i < part.n; i += 32) {
            largest = fmaxf(largest, p.stats[size_t(part.first) + size_t(i) * part.stride + v].x);
        }
    }
    largest = attend_base(warp_max(largest));
    float sum = 0.0f, values[PER_LANE] = {};
    for (uint32_t k = 0; k < n_parts; ++k) {
        const AttendPart part = parts[k];
#pragma unroll 2
        for (uint32_t i = 0; i < part.n; ++i) {
            const size_t at = size_t(part.first) + size_t(i) * part.stride + v;
            const float2 stats = p.stats[at];
            const float factor = exp2f(stats.x - largest);
            sum += stats.y * factor;
            const float* from = p.values + at * p.kv.head_dim;
#pragma unroll
            for (uint32_t j = 0; j < PER_LANE; ++j) {
                const uint32_t d = lane + 32 * j;
                if (d < p.kv.head_dim) values[j] += from[d] * factor;
            }
        }
    }
    const float whole = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
    for (uint32_t j = 0; j < PER_LANE; ++j) {
        const uint32_t d = lane + 32 * j;
        if (d < p.kv.head_dim) to[d] = values[j] * whole;
    }
}

extern "C" __global__ void __launch_bounds__(128) attend_merge(const AttendParams p) {
    pdl_wait();
    pdl_trigger();
    const AttendHead& head = attend_head(p);
    const AttendMerge* merges = attend_table<AttendMerge>(p, head.merges);
    const AttendPart* parts = attend_table<AttendPart>(p, head.parts);
    const AttendRow* rows = attend_table<AttendRow>(p, head.rows);
    const uint32_t warp = threadIdx.x / 32;
    for (uint32_t i = blockIdx.x; i < head.n_merges; i += gridDim.x) {
        const AttendMerge merge = merges[i];
        const uint32_t n_vectors = (merge.lane_rows & 0xff) * p.width;
        for (uint32_t v = warp; v < n_vectors; v += blockDim.x / 32) {
            const AttendVector vector = attend_vector(p, rows, merge.row, merge.lane_rows, v);
            if (!vector.is_there) continue;
            merge_vector(p, parts + merge.first_part, merge.n_parts, v, p.q + vector.offset);
        }
    }
    const uint32_t* padding = attend_table<uint32_t>(p, head.padding);
    const uint32_t n = p.n_heads * p.kv.head_dim;
    for (uint32_t i = blockIdx.x; i < head.n_padding; i += gridDim.x) {
        float* row = p.q + size_t(padding[i]) * n;
        for (uint32_t d = threadIdx.x; d < n; d += blockDim.x) row[d] = 0.0f;
    }
}
KERNEL_ENTRY(attend_merge);
