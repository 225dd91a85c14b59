// Finding the token of a row at which the number of tokens, or their weight, reaches a goal in descending order:
// by the row's histogram, then by radix digits of the tokens in one of its bins. Nothing is sorted.
#pragma once
#include "sample.cuh"

constexpr uint32_t DIGIT_BITS = 10, N_DIGITS = 1 << DIGIT_BITS;
constexpr uint32_t LIST_TOKENS = 2048;  // that fit into the list

// Tokens, and their weight.
struct Amount {
    uint32_t count;
    Wide mass;
};

__device__ __forceinline__ Amount operator+(const Amount& a, const Amount& b) {
    return {a.count + b.count, a.mass + b.mass};
}

// What is to be reached.
struct Goal {
    bool by_mass;
    Wide amount;

    __device__ __forceinline__ bool is_reached(const Amount& a) const {
        return (by_mass ? a.mass : Wide(a.count)) >= amount;
    }
};

// The part in which a goal is reached.
struct Found {
    uint32_t part;
    Amount before, inside;
};

// The token at which a goal is reached, and the weight up to it.
struct Reached {
    uint32_t distance, token;
    Wide mass;
};

struct RankShared {
    uint2 list[LIST_TOKENS];  // distance, token
    Wide masses[N_DIGITS];
    uint32_t counts[N_DIGITS];
    Amount warps[16];
    Found found;
    uint2 single;
    uint32_t n_listed;
};

// The first of n parts with which `before` and the contents so far reach the goal. Called by the whole block; the
// goal is reached in some part.
template <class Content>
__device__ __forceinline__ Found find_part(
    uint32_t n, Amount before, const Goal& goal, RankShared& shared, const Content& content) {
    const uint32_t each = ceil_div(n, blockDim.x), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t begin = min(threadIdx.x * each, n), end = min(begin + each, n);
    Amount mine = {0, 0};
    for (uint32_t i = begin; i < end; ++i) mine = mine + content(i);
    Amount upto = mine;
#pragma unroll
    for (uint32_t lanes = 1; lanes < 32; lanes *= 2) {
        const uint32_t count = __shfl_up_sync(FULL_WARP, upto.count, lanes);
        const Wide mass = __shfl_up_sync(FULL_WARP, upto.mass, lanes);
        if (lane >= lanes) upto = upto + Amount{count, mass};
    }
    if (lane == 31) shared.warps[warp] = upto;
    __syncthreads();
    for (uint32_t i = 0; i < warp; ++i) before = before + shared.warps[i];
    upto = before + upto;
    before = {upto.count - mine.count, upto.mass - mine.mass};
    if (goal.is_reached(upto) && !goal.is_reached(before)) {
        for (uint32_t i = begin; i < end; ++i) {
            const Amount inside = content(i);
            if (goal.is_reached(before + inside)) {
                shared.found = {i, before, inside};
                break;
            }
            before = before + inside;
        }
    }
    __syncthreads();
    const Found found = shared.found;
    __syncthreads();
    return found;
}

// A row's tokens in descending order: ascending distance to the best one's order, and equal ones by their ids. All of
// it is the same in every thread.
struct Ranking {
    const float* logits;
    const Wide* masses;      // [N_BINS]
    const uint32_t* counts;  // [N_BINS]
    uint32_t vocab, best_order;
    float scale;
    RankShared* shared;
    // The tokens with these distances are in the list.
    uint32_t listed_begin = 1, listed_last = 0;

    __device__ __forceinline__ float logit_at(uint32_t distance) const {
        return logit_of(best_order - distance);
    }

    __device__ __forceinline__ Wide weight_at(uint32_t distance) const {
        return fixed_of(weight_of(logit_at(distance), logit_of(best_order), scale));
    }

    // Gives every token with a distance from `begin` to `last`, in any order.
    template <class Give>
    __device__ __forceinline__ void each(uint32_t begin, uint32_t last, const Give& give) const {
        if (listed_begin <= begin && last <= listed_last) {
            for (uint32_t i = threadIdx.x; i < shared->n_listed; i += blockDim.x) {
                const uint2 entry = shared->list[i];
                if (begin <= entry.x && entry.x <= last) give(entry.x, entry.y);
            }
            return;
        }
        constexpr uint32_t AT_ONCE = 16;
        for (uint32_t first = threadIdx.x; first < vocab; first += AT_ONCE * blockDim.x) {
            uint32_t distances[AT_ONCE];
#pragma unroll
            for (uint32_t j = 0; j < AT_ONCE; ++j) {
                const uint32_t token = first + j * blockDim.x;
                distances[j] = token < vocab ? best_order - order_of(__ldg(logits + token)) : 0;
            }
#pragma unroll
            for (uint32_t j = 0; j < AT_ONCE; ++j) {
                const uint32_t token = first + j * blockDim.x;
                if (token < vocab && begin <= distances[j] && distances[j] <= last)
                    give(distances[j], token);
            }
        }
    }

    // Makes a list of the tokens with distances from `begin` to `last`, or from 0 where all of those fit, so that the
    // next ones are found in it too. Without room for either, the row itself is read each time.
    __device__ __forceinline__ void list(uint32_t begin, uint32_t last, const Found& found) {
        if (listed_begin <= begin && last <= listed_last) return;
        listed_begin = 1;
        listed_last = 0;
        if (found.inside.count > LIST_TOKENS) return;
        if (found.before.count + found.inside.count <= LIST_TOKENS) begin = 0;
        __syncthreads();
        if (threadIdx.x == 0) shared->n_listed = 0;
        __syncthreads();
        each(begin, last, [&](uint32_t distance, uint32_t token) {
            shared->list[atomicAdd(&shared->n_listed, 1u)] = {distance, token};
        });
        __syncthreads();
        listed_begin = begin;
        listed_last = last;
    }

    // The digit, of `bits` bits above `shift` of value(distance, token), in which the goal is reached among the tokens
    // with distances from `begin` to `last`.
    template <bool WEIGHS, class Value>
    __device__ __forceinline__ Found find_digit(
        uint32_t begin, uint32_t last, uint32_t shift, uint32_t bits, const Amount& before, const Goal& goal,
        const Value& value) const {
        for (uint32_t i = threadIdx.x; i < 1u << bits; i += blockDim.x) {
            shared->masses[i] = 0;
            shared->counts[i] = 0;
        }
        __syncthreads();
        each(begin, last, [&](uint32_t distance, uint32_t token) {
            const uint32_t digit = value(distance, token) >> shift;
            if (digit >> bits) return;
            atomicAdd(&shared->counts[digit], 1u);
            if (WEIGHS) atomicAdd(&shared->masses[digit], weight_at(distance));
        });
        __syncthreads();
        return find_part(1u << bits, before, goal, *shared, [&](uint32_t i) {
            return Amount{shared->counts[i], shared->masses[i]};
        });
    }

    // The only token with a distance from `begin` to `last`.
    __device__ __forceinline__ uint2 single(uint32_t begin, uint32_t last) const {
        each(begin, last, [&](uint32_t distance, uint32_t token) { shared->single = {distance, token}; });
        __syncthreads();
        const uint2 found = shared->single;
        __syncthreads();
        return found;
    }

    // The n-th token, from 1, with that distance.
    __device__ __forceinline__ uint32_t nth_equal(uint32_t distance, Wide n) const {
        const Goal goal = {false, n};
        Amount before = {0, 0};
        uint32_t token = 0;
        for (uint32_t bits = 32 - __clz(int(vocab - 1)); bits > 0;) {
            const uint32_t digit_bits = min(bits, DIGIT_BITS);
            bits -= digit_bits;
            // A lower token wraps around, to beyond the digits.
            const Found found = find_digit<false>(
                distance, distance, bits, digit_bits, before, goal,
                [&](uint32_t, uint32_t other) { return other - token; });
            before = found.before;
            token += found.part << bits;
        }
        return token;
    }

    // Where the goal is reached. Called by the whole block.
    __device__ __forceinline__ Reached reach(const Goal& goal, bool wants_token) {
        Found found = find_part(N_BINS, Amount{0, 0}, goal, *shared, [&](uint32_t i) {
            return Amount{counts[i], masses[i]};
        });
        uint32_t begin = bin_begin(found.part), bits = bin_bits(found.part);
        if (bits > 0 || wants_token) list(begin, begin + ((1u << bits) - 1), found);
        while (bits > 0 && found.inside.count > 1) {
            const uint32_t last = begin + ((1u << bits) - 1), digit_bits = min(bits, DIGIT_BITS);
            bits -= digit_bits;
            found = find_digit<true>(
                begin, last, bits, digit_bits, found.before, goal,
                [&](uint32_t distance, uint32_t) { return distance - begin; });
            begin += found.part << bits;
        }
        Reached reached = {begin, 0, 0};
        if (found.inside.count == 1) {
            if (bits > 0 || wants_token) {
                const uint2 only = single(begin, begin + ((1u << bits) - 1));
                reached = {only.x, only.y, 0};
            }
            reached.mass = found.before.mass + found.inside.mass;
            return reached;
        }
        // Equal ones, of which the lowest ids come first.
        const Wide weight = weight_at(begin);
        const Wide n = goal.by_mass ? ceil_div(goal.amount - found.before.mass, weight)
                                    : goal.amount - found.before.count;
        reached.mass = found.before.mass + n * weight;
        if (wants_token) reached.token = nth_equal(begin, n);
        return reached;
    }
};
