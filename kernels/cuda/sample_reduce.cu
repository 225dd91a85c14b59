// The passes of many blocks a row: grid (tiles, rows), TILE_THREADS threads.
#include "sample.cuh"

// The best token and the sum of exponentials of each tile; clears the row's histogram for sample_weigh.
extern "C" __global__ void __launch_bounds__(TILE_THREADS) sample_reduce(
    const float* logits, const SampleRow* rows, SampleTile* tiles, Wide* masses, uint32_t* counts, uint32_t vocab) {
    __shared__ Wide ranks[TILE_THREADS / 32];
    __shared__ double sums[TILE_THREADS / 32];
    const uint32_t first = blockIdx.x * TILE, row = blockIdx.y;
    pdl_wait();
    pdl_trigger();
    logits += size_t(row) * vocab;
    float values[PER_THREAD];
#pragma unroll
    for (uint32_t j = 0; j < PER_THREAD; ++j) {
        const uint32_t token = first + j * TILE_THREADS + threadIdx.x;
        values[j] = token < vocab ? logits[token] : -INFINITY;
    }
    Wide best = 0;
#pragma unroll
    for (uint32_t j = 0; j < PER_THREAD; ++j) {
        const uint32_t token = first + j * TILE_THREADS + threadIdx.x;
        const Wide rank = token < vocab ? rank_of(values[j], token) : 0;
        best = best > rank ? best : rank;
    }
    best = block_best(best, ranks);
    float sum = 0.0f;
    if (is_finite_rank(best)) {
        const float largest = logit_of(order_of_rank(best));
#pragma unroll
        for (uint32_t j = 0; j < PER_THREAD; ++j) sum += weight_of(values[j], largest, 1.0f);
    }
    const double total = block_total(double(sum), sums);
    if (threadIdx.x == 0) tiles[size_t(row) * gridDim.x + blockIdx.x] = {best, total};
    if (rows[row].cuts == 0 && rows[row].n_top == 0) return;
    const size_t bins = size_t(row) * N_BINS;
    for (uint32_t i = blockIdx.x * TILE_THREADS + threadIdx.x; i < N_BINS; i += gridDim.x * TILE_THREADS) {
        masses[bins + i] = 0;
        counts[bins + i] = 0;
    }
}
KERNEL_ENTRY(sample_reduce)

// Weights of each tile, and the row's histogram where there are ranks to find. A tile's bins are summed in shared
// memory first.
extern "C" __global__ void __launch_bounds__(TILE_THREADS) sample_weigh(
    const float* logits, const SampleRow* rows, const SampleTile* tiles, TileWeights* weights, Wide* masses,
    uint32_t* counts, uint32_t vocab) {
    __shared__ Wide scratch[TILE_THREADS / 32];
    __shared__ Wide bin_masses[N_BINS];
    __shared__ uint32_t bin_counts[N_BINS];
    const uint32_t first = blockIdx.x * TILE, row = blockIdx.y;
    pdl_wait();
    pdl_trigger();
    const SampleRow settings = rows[row];
    const bool has_ranks = settings.cuts != 0 || settings.n_top > 0;
    if (settings.draws == 0 && !has_ranks) return;
    const Wide best = row_best(tiles + size_t(row) * gridDim.x, gridDim.x, scratch);
    if (!is_finite_rank(best)) return;
    const uint32_t best_order = order_of_rank(best);
    const float best_logit = logit_of(best_order);
    if (has_ranks) {
        for (uint32_t i = threadIdx.x; i < N_BINS; i += TILE_THREADS) {
            bin_masses[i] = 0;
            bin_counts[i] = 0;
        }
        __syncthreads();
    }
    logits += size_t(row) * vocab;
    Wide mass = 0, above = 0;
#pragma unroll
    for (uint32_t j = 0; j < PER_THREAD; ++j) {
        const uint32_t token = first + j * TILE_THREADS + threadIdx.x;
        if (token >= vocab) break;
        const float logit = logits[token], weight = weight_of(logit, best_logit, settings.scale);
        const Wide fixed = fixed_of(weight);
        mass += fixed;
        if (weight >= settings.min_p) above += fixed;
        if (has_ranks) {
            const uint32_t bin = bin_of(best_order - order_of(logit));
            atomicAdd(&bin_counts[bin], 1u);
            if (fixed > 0) atomicAdd(&bin_masses[bin], fixed);
        }
    }
    mass = block_total(mass, scratch);
    above = block_total(above, scratch);
    if (threadIdx.x == 0) weights[size_t(row) * gridDim.x + blockIdx.x] = {mass, above};
    if (!has_ranks) return;
    // The totals have waited for all threads' bins.
    for (uint32_t i = threadIdx.x; i < N_BINS; i += TILE_THREADS) {
        if (bin_counts[i] == 0) continue;
        atomicAdd(&counts[size_t(row) * N_BINS + i], bin_counts[i]);
        atomicAdd(&masses[size_t(row) * N_BINS + i], bin_masses[i]);
    }
}
KERNEL_ENTRY(sample_weigh)
