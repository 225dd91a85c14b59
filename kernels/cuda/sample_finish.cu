// The last pass, one block a row: log probabilities, and the choice of the token.
#include "sample_rank.cuh"

// ---- The generator Philox4x32-10 ----------------------------------------------------------------

// 53 uniform bits at the top of 64: a function of seed and counter alone.
__device__ __forceinline__ Wide uniform_bits(Wide seed, Wide counter) {
    uint32_t c[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
    uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        const Wide a = Wide(0xd2511f53u) * c[0], b = Wide(0xcd9e8d57u) * c[2];
        c[0] = uint32_t(b >> 32) ^ c[1] ^ key[0];
        c[1] = uint32_t(b);
        c[2] = uint32_t(a >> 32) ^ c[3] ^ key[1];
        c[3] = uint32_t(a);
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
    return (Wide(c[1]) << 32 | c[0]) >> 11 << 11;
}

// The least sum of weights that exceeds uniform · mass.
__device__ __forceinline__ Wide draw_goal(const SampleRow& row, Wide mass) {
    return __umul64hi(uniform_bits(row.seed, row.counter), mass) + 1;
}

struct TopsShared {
    uint2 gathered[MAX_TOPS];  // distance, token
    uint32_t n;
};

// ---- Choices ------------------------------------------------------------------------------------

// A draw from the whole row, in order of ids.
__device__ __forceinline__ uint32_t draw_from_all(
    const Ranking& ranking, const TileWeights* tiles, uint32_t n_tiles, const Goal& goal) {
    const Found tile = find_part(
        n_tiles, Amount{0, 0}, goal, *ranking.shared, [&](uint32_t i) { return Amount{0, tiles[i].mass}; });
    const uint32_t first = tile.part * TILE, n = min(TILE, ranking.vocab - first);
    const Found token = find_part(n, tile.before, goal, *ranking.shared, [&](uint32_t i) {
        const float logit = __ldg(ranking.logits + first + i);
        return Amount{0, fixed_of(weight_of(logit, logit_of(ranking.best_order), ranking.scale))};
    });
    return first + token.part;
}

// What is searched for in descending order, one after the other; the draw is from the rest that the cuts leave.
enum Search { TOP_K, TOP_P, DRAW, TOPS, N_SEARCHES };

// An amount of 0: nothing to search for. `mass` is the weight of what is left so far, `above` of what min-p leaves.
__device__ __forceinline__ Goal goal_of(int search, const SampleRow& row, Wide mass, Wide above) {
    if (search == TOP_K) return {false, row.top_k};
    if (search == TOP_P) {
        if (row.top_p == 0.0f) return {true, 0};
        return {true, max(Wide(ceil(double(row.top_p) * double(mass))), Wide(1))};
    }
    if (search == TOPS) return {false, row.n_top};
    if (row.min_p > 0.0f) mass = min(mass, max(above, WEIGHT_OF_BEST));
    return {true, draw_goal(row, mass)};
}

// The n largest logits, up to `last`, with their log probabilities in descending order.
template <class LogProb>
__device__ __forceinline__ void write_tops(
    const Ranking& ranking, uint32_t n, const Reached& last, TopToken* tops, TopsShared& shared,
    const LogProb& logprob) {
    if (threadIdx.x == 0) shared.n = 0;
    __syncthreads();
    ranking.each(0, last.distance, [&](uint32_t distance, uint32_t token) {
        if (distance < last.distance || token <= last.token)
            shared.gathered[atomicAdd(&shared.n, 1u)] = {distance, token};
    });
    __syncthreads();
    if (threadIdx.x >= n) return;
    const uint2 mine = shared.gathered[threadIdx.x];
    uint32_t place = 0;
    for (uint32_t i = 0; i < n; ++i) {
        const uint2 other = shared.gathered[i];
        place += other.x < mine.x || (other.x == mine.x && other.y < mine.y);
    }
    tops[place] = {mine.y, logprob(ranking.logit_at(mine.x))};
}

extern "C" __global__ void __launch_bounds__(512, 1) sample_finish(
    const float* logits, const SampleRow* rows, const SampleTile* tiles, const TileWeights* weights,
    const Wide* masses, const uint32_t* counts, Choice* choices, TopToken* tops, uint32_t vocab, uint32_t n_tiles,
    uint32_t tops_per_row) {
    __shared__ RankShared shared;
    __shared__ Wide scratch[16];
    __shared__ double sums[16];
    __shared__ TopsShared tops_shared;
    const size_t row = blockIdx.x;
    pdl_wait();
    pdl_trigger();
    const SampleRow settings = rows[row];
    logits += row * vocab;
    tiles += row * n_tiles;
    weights += row * n_tiles;
    const Wide best = row_best(tiles, n_tiles, scratch);
    if (!is_finite_rank(best)) {
        if (threadIdx.x == 0) choices[row] = {{0, 0.0f}, 0, 0};
        return;
    }
    const uint32_t best_order = order_of_rank(best);
    const float best_logit = logit_of(best_order);

    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < n_tiles; i += blockDim.x)
        sum += tiles[i].sum * exp(double(logit_of(order_of_rank(tiles[i].best)) - best_logit));
    const double log_sum = log(block_total(sum, sums));
    const auto logprob = [&](float logit) { return float(double(logit - best_logit) - log_sum); };

    Ranking ranking = {logits,     masses + row * N_BINS, counts + row * N_BINS, vocab,
                       best_order, settings.scale,        &shared};
    uint32_t token = token_of_rank(best);
    Wide mass = 0, above = 0;
    if (settings.draws != 0) {
        for (uint32_t i = threadIdx.x; i < n_tiles; i += blockDim.x) {
            mass += weights[i].mass;
            above += weights[i].above;
        }
        mass = block_total(mass, scratch);
        above = block_total(above, scratch);
        if (settings.cuts == 0)
            token = draw_from_all(ranking, weights, n_tiles, {true, draw_goal(settings, mass)});
    }
    // Each cut leaves the first tokens of the descending order, so together they leave what the strictest does: `mass`
    // is the weight of these. The code of the search is there once, for all that is searched for.
#pragma unroll 1
    for (int search = settings.cuts != 0 ? TOP_K : TOPS; search < N_SEARCHES; ++search) {
        const Goal goal = goal_of(search, settings, mass, above);
        if (goal.amount == 0) continue;
        const Reached reached = ranking.reach(goal, search >= DRAW);
        if (search < DRAW) mass = reached.mass;
        if (search == DRAW) token = reached.token;
        if (search == TOPS)
            write_tops(ranking, settings.n_top, reached, tops + row * tops_per_row, tops_shared, logprob);
    }
    if (threadIdx.x == 0)
        choices[row] = {{token, logprob(logits[token])}, 1, settings.n_top};
}
KERNEL_ENTRY(sample_finish)
