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

// A draw in descending order from what the cuts leave: each leaves the first of that order, so together they leave
// what the strictest does.
__device__ __forceinline__ uint32_t draw_from_cut(Ranking& ranking, const SampleRow& row, Wide mass, Wide above) {
    if (row.top_k > 0) mass = ranking.reach({false, row.top_k}, false).mass;
    if (row.top_p > 0.0f) {
        const Wide enough = Wide(ceil(double(row.top_p) * double(mass)));
        mass = ranking.reach({true, max(enough, 1ull)}, false).mass;
    }
    if (row.min_p > 0.0f) mass = min(mass, max(above, WEIGHT_OF_BEST));
    return ranking.reach({true, draw_goal(row, mass)}, true).token;
}

// The n largest logits with their log probabilities, in descending order.
template <class LogProb>
__device__ __forceinline__ void write_tops(
    Ranking& ranking, uint32_t n, TopToken* tops, uint2* gathered, uint32_t* n_gathered, const LogProb& logprob) {
    const Reached last = ranking.reach({false, n}, true);
    if (threadIdx.x == 0) *n_gathered = 0;
    __syncthreads();
    ranking.each(0, last.distance, [&](uint32_t distance, uint32_t token) {
        if (distance < last.distance || token <= last.token)
            gathered[atomicAdd(n_gathered, 1u)] = {distance, token};
    });
    __syncthreads();
    if (threadIdx.x >= n) return;
    const uint2 mine = gathered[threadIdx.x];
    uint32_t place = 0;
    for (uint32_t i = 0; i < n; ++i) {
        const uint2 other = gathered[i];
        place += other.x < mine.x || (other.x == mine.x && other.y < mine.y);
    }
    tops[place] = {mine.y, logprob(ranking.logit_at(mine.x))};
}

extern "C" __global__ void __launch_bounds__(1024) sample_finish(
    const float* logits, const SampleRow* rows, const SampleTile* tiles, const TileWeights* weights,
    const Wide* masses, const uint32_t* counts, Choice* choices, TopToken* tops, uint32_t vocab, uint32_t n_tiles,
    uint32_t tops_per_row) {
    __shared__ RankShared shared;
    __shared__ Wide scratch[32];
    __shared__ double sums[32];
    __shared__ uint2 gathered[MAX_TOPS];
    __shared__ uint32_t n_gathered;
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
    if (settings.draws != 0) {
        Wide mass = 0, above = 0;
        for (uint32_t i = threadIdx.x; i < n_tiles; i += blockDim.x) {
            mass += weights[i].mass;
            above += weights[i].above;
        }
        mass = block_total(mass, scratch);
        above = block_total(above, scratch);
        if (settings.cuts != 0)
            token = draw_from_cut(ranking, settings, mass, above);
        else
            token = draw_from_all(ranking, weights, n_tiles, {true, draw_goal(settings, mass)});
    }
    if (settings.n_top > 0)
        write_tops(ranking, settings.n_top, tops + row * tops_per_row, gathered, &n_gathered, logprob);
    if (threadIdx.x == 0)
        choices[row] = {{token, logprob(logits[token])}, 1, settings.n_top};
}
KERNEL_ENTRY(sample_finish)
