// Attention on tensor cores, for K and V of 16 or 8 bits: online softmax over tiles of 64 tokens
// (Dao, FlashAttention-2). Blocks of 4 warps work through the items that the planner gave them.
//
// Wide items: each warp has 16 of up to 64 vectors and all tokens. Narrow items: each warp has all
// (up to 16) vectors and 16 tokens of each tile, and the warps' results are merged at the end.
//
// K and V come through a ring of buffers, one tile of K or V each, in the order K0 V0 K1 V1 ...;
// step h works on tile h of that order while those up to h + n_buffers - 1 are being copied.
#pragma once
#include "attend_elements.cuh"

template <uint32_t D> struct Attention {
    static constexpr uint32_t TILE_BYTES = TILE * D * 2;

    const AttendParams& p;
    const AttendHead& head;
    uint32_t* slots;  // [SLOT_TILES][TILE]
    unsigned char* q_tile;
    unsigned char* buffers;
    AttendSlots walker;

    __device__ __forceinline__ Attention(const AttendParams& p, unsigned char* shared)
        : p(p), head(attend_head(p)) {
        slots = reinterpret_cast<uint32_t*>(shared);
        q_tile = shared + SLOT_TILES * TILE * 4;
        buffers = q_tile + TILE_BYTES;
    }

    // [SLOT_TILES][TILE] of K, then of V, where one of them has scales.
    __device__ __forceinline__ float* scales(bool is_v) const {
        float* of_k = reinterpret_cast<float*>(buffers + p.n_buffers * TILE_BYTES);
        return is_v ? of_k + SLOT_TILES * TILE : of_k;
    }

    __device__ __forceinline__ bool is_8bit(bool is_v) const {
        return kv_kind(p.kv, is_v) >= KV_INT8;
    }

    // ---- copies ---------------------------------------------------------------------------------

    // q's vectors as the kind that K's products take; those that are not there are zero. In narrow
    // items the rows 16 to 31 hold what rounding took from the rows 0 to 15.
    template <class T, bool WIDE_ITEM> __device__ __forceinline__ void load_q(const AttendItem& item) {
        constexpr uint32_t N = WIDE_ITEM ? TILE : 16;
        const AttendRow* rows = attend_table<AttendRow>(p, head.rows);
        for (uint32_t i = threadIdx.x; i < N * (D / 8); i += THREADS) {
            const uint32_t v = i / (D / 8), chunk = i % (D / 8);
            uint4 high = {0, 0, 0, 0}, low = {0, 0, 0, 0};
            const AttendVector vector = attend_vector(p, rows, item.row, item.lane_rows, v);
            if (vector.is_there && chunk * 8 < p.kv.head_dim) {
                const float4* from = reinterpret_cast<const float4*>(p.q + vector.offset + chunk * 8);
                const float4 a = from[0], b = from[1];
                high = {Pair<T>::pack(a.x, a.y), Pair<T>::pack(a.z, a.w),
                        Pair<T>::pack(b.x, b.y), Pair<T>::pack(b.z, b.w)};
                if (!WIDE_ITEM) {
                    low = {rest<T>(a.x, a.y, high.x), rest<T>(a.z, a.w, high.y),
                           rest<T>(b.x, b.y, high.z), rest<T>(b.z, b.w, high.w)};
                }
            }
            *reinterpret_cast<uint4*>(at_chunk<D>(q_tile, v, chunk)) = high;
            if (!WIDE_ITEM) *reinterpret_cast<uint4*>(at_chunk<D>(q_tile, v + 16, chunk)) = low;
        }
    }

    template <class T>
    static __device__ __forceinline__ uint32_t rest(float a, float b, uint32_t rounded) {
        const float2 r = Pair<T>::unpack(rounded);
        return Pair<T>::pack(a - r.x, b - r.y);
    }

    // Slots of a tile, and the copies of its scales. One thread for each token.
    __device__ __forceinline__ void find_slots(const AttendItem& item, uint32_t lane, uint32_t tile) {
        if (threadIdx.x >= TILE) return;
        const uint32_t position = item.begin + tile * TILE + threadIdx.x;
        const bool is_there = position < item.end;
        const uint32_t slot = is_there ? walker.slot(p, head, item, position) : 0;
        const uint32_t at = tile % SLOT_TILES * TILE + threadIdx.x;
        slots[at] = slot;
        const uint32_t kv_head = lane / p.lanes_per_head;
        const unsigned char* row = kv_row(p.kv, slot);
        if (is_8bit(false)) cp_async4(scales(false) + at, row + kv_scale_offset(p.kv, kv_head, false), is_there);
        if (is_8bit(true)) cp_async4(scales(true) + at, row + kv_scale_offset(p.kv, kv_head, true), is_there);
    }

    // Begins the copy of tile `half` in the order K0 V0 K1 ... Elements of 8 bits come to the upper
    // half of the buffer, to be widened in place. What is not there is zero.
    __device__ __forceinline__ void copy(const AttendItem& item, uint32_t lane, uint32_t half) {
        const uint32_t tile = half / 2;
        const bool is_v = half % 2 != 0;
        const size_t offset = kv_head_offset(p.kv, lane / p.lanes_per_head, is_v);
        const uint32_t n_tokens = item.end - item.begin - tile * TILE;
        const uint32_t* tile_slots = slots + tile % SLOT_TILES * TILE;
        unsigned char* buffer = buffers + (half % p.n_buffers) * TILE_BYTES;
        if (is_8bit(is_v)) {
#pragma unroll 4
            for (uint32_t i = threadIdx.x; i < TILE * (D / 16); i += THREADS) {
                const uint32_t token = i / (D / 16), chunk = i % (D / 16);
                const bool is_there = token < n_tokens && chunk * 16 < p.kv.head_dim;
                const unsigned char* from =
                    kv_row(p.kv, tile_slots[token]) + offset + (is_there ? chunk * 16 : 0);
                cp_async16(buffer + TILE_BYTES / 2 + i * 16, from, is_there);
            }
        } else {
#pragma unroll 4
            for (uint32_t i = threadIdx.x; i < TILE * (D / 8); i += THREADS) {
                const uint32_t token = i / (D / 8), chunk = i % (D / 8);
                const bool is_there = token < n_tokens && chunk * 8 < p.kv.head_dim;
                const unsigned char* from =
                    kv_row(p.kv, tile_slots[token]) + offset + (is_there ? chunk * 16 : 0);
                cp_async16(at_chunk<D>(buffer, token, chunk), from, is_there);
            }
        }
    }

    // Widens a buffer's elements of 8 bits: K's to f16, V's to bf16 (its scales make the weights
    // small, and bf16 has room for that).
    __device__ __forceinline__ void widen(unsigned char* buffer, bool is_v) {
        constexpr uint32_t N = TILE * (D / 16) / THREADS;
        uint4 held[N];
#pragma unroll
        for (uint32_t j = 0; j < N; ++j) {
            const uint32_t i = threadIdx.x + j * THREADS;
            held[j] = *reinterpret_cast<const uint4*>(buffer + TILE_BYTES / 2 + i * 16);
        }
        __syncthreads();
        const bool is_int8 = kv_kind(p.kv, is_v) == KV_INT8;
#pragma unroll
        for (uint32_t j = 0; j < N; ++j) {
            const uint32_t i = threadIdx.x + j * THREADS;
            const uint32_t token = i / (D / 16), chunk = i % (D / 16) * 2;
            *reinterpret_cast<uint4*>(at_chunk<D>(buffer, token, chunk)) =
                widened(held[j].x, held[j].y, is_int8, is_v);
            *reinterpret_cast<uint4*>(at_chunk<D>(buffer, token, chunk + 1)) =
                widened(held[j].z, held[j].w, is_int8, is_v);
        }
        __syncthreads();
    }

    static __device__ __forceinline__ uint4 widened(uint32_t a, uint32_t b, bool is_int8, bool is_v) {
        if (is_v) {
            if (is_int8) return {int8x2_to_bf16x2(a, 0), int8x2_to_bf16x2(a, 2), int8x2_to_bf16x2(b, 0), int8x2_to_bf16x2(b, 2)};
            return {fp8x2_to_bf16x2(a, 0), fp8x2_to_bf16x2(a, 2), fp8x2_to_bf16x2(b, 0), fp8x2_to_bf16x2(b, 2)};
        }
        if (is_int8) return {int8x2_to_f16x2(a, 0), int8x2_to_f16x2(a, 2), int8x2_to_f16x2(b, 0), int8x2_to_f16x2(b, 2)};
        return {fp8x2_to_f16x2(a, 0), fp8x2_to_f16x2(a, 2), fp8x2_to_f16x2(b, 0), fp8x2_to_f16x2(b, 2)};
    }

    __device__ __forceinline__ void wait() {
        // All copies but the last n_buffers - 2.
        if (p.n_buffers >= 6) {
            cp_async_wait<4>();
        } else if (p.n_buffers >= 4) {
            cp_async_wait<2>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
    }

    // ---- products -------------------------------------------------------------------------------

    // s += q . k for the warp's 16 vectors and N tokens.
    template <class T, uint32_t N, bool WITH_REST>
    __device__ __forceinline__ void scores(
        float (&s)[N / 8][4], uint32_t first_vector, unsigned char* k_tile, uint32_t first_token) {
        const uint32_t lane = threadIdx.x & 31;
#pragma unroll
        for (uint32_t k = 0; k < D / 16; ++k) {
            if (k * 16 >= p.kv.head_dim) break;
            uint32_t a[4], low[4];
            const uint32_t row = first_vector + (lane & 15);
            ldmatrix_x4(a, at_chunk<D>(q_tile, row, 2 * k + (lane >> 4)));
            if (WITH_REST) ldmatrix_x4(low, at_chunk<D>(q_tile, row + 16, 2 * k + (lane >> 4)));
#pragma unroll
            for (uint32_t j = 0; j < N / 16; ++j) {
                uint32_t b[4];
                const uint32_t token = first_token + 16 * j + (lane & 7) + (lane >> 4) * 8;
                ldmatrix_x4(b, at_chunk<D>(k_tile, token, 2 * k + ((lane >> 3) & 1)));
                const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
                Pair<T>::mma(s[2 * j], a, b0);
                Pair<T>::mma(s[2 * j + 1], a, b1);
                if (WITH_REST) {
                    Pair<T>::mma(s[2 * j], low, b0);
                    Pair<T>::mma(s[2 * j + 1], low, b1);
                }
            }
        }
    }

    // o += weights . v for the warp's 16 vectors and N tokens.
    template <class T, uint32_t N>
    __device__ __forceinline__ void add_values(
        float (&o)[D / 8][4], const uint32_t (&weights)[N / 16][4], unsigned char* v_tile,
        uint32_t first_token) {
        const uint32_t lane = threadIdx.x & 31;
#pragma unroll
        for (uint32_t k = 0; k < N / 16; ++k) {
#pragma unroll
            for (uint32_t j = 0; j < D / 16; ++j) {
                if (j * 16 >= p.kv.head_dim) break;
                uint32_t b[4];
                const uint32_t token = first_token + 16 * k + (lane & 15);
                ldmatrix_x4_trans(b, at_chunk<D>(v_tile, token, 2 * j + (lane >> 4)));
                const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
                Pair<T>::mma(o[2 * j], weights[k], b0);
                Pair<T>::mma(o[2 * j + 1], weights[k], b1);
            }
        }
    }

    // ---- one item -------------------------------------------------------------------------------

    // A softmax under way, for the two vectors (lane / 4 and 8 more) of which a thread has columns.
    struct State {
        float largest[2];
        float sum[2];  // of the thread's own columns
        uint32_t position[2];
    };

    // Scores to weights: scales, cap, mask, online softmax. Returns the factors of what was summed
    // so far.
    template <uint32_t N>
    __device__ __forceinline__ void softmax(
        const AttendItem& item, uint32_t tile, uint32_t first_token, float (&s)[N / 8][4], State& state,
        float (&keep)[2]) {
        const uint32_t t = (threadIdx.x & 3) * 2;
        const uint32_t begin = item.begin + tile * TILE;
        const bool is_masked = begin + TILE > item.end || begin + TILE - 1 > item.min_position ||
                               (p.window != 0 && begin + p.window <= item.max_position);
        const float* k_scales = scales(false) + tile % SLOT_TILES * TILE;
        float largest[2] = {state.largest[0], state.largest[1]};
#pragma unroll
        for (uint32_t j = 0; j < N / 8; ++j) {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
                const uint32_t token = first_token + 8 * j + t + (i & 1), half = i / 2;
                float product = s[j][i];
                if (is_8bit(false)) product *= k_scales[token];
                float score = attend_score(p, product);
                if (is_masked) {
                    const uint32_t position = begin + token;
                    const bool is_seen =
                        position < item.end && attend_sees(p, state.position[half], position);
                    if (!is_seen) score = -INFINITY;
                }
                s[j][i] = score;
                largest[half] = fmaxf(largest[half], score);
            }
        }
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            largest[half] = fmaxf(largest[half], __shfl_xor_sync(FULL_WARP, largest[half], 1));
            largest[half] = fmaxf(largest[half], __shfl_xor_sync(FULL_WARP, largest[half], 2));
            keep[half] = exp2f(state.largest[half] - attend_base(largest[half]));
            state.largest[half] = largest[half];
            state.sum[half] *= keep[half];
        }
        const float base[2] = {attend_base(largest[0]), attend_base(largest[1])};
#pragma unroll
        for (uint32_t j = 0; j < N / 8; ++j) {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
                const float weight = exp2f(s[j][i] - base[i / 2]);
                state.sum[i / 2] += weight;
                s[j][i] = weight;
            }
        }
    }

    // Weights as the left operand of the product with V, times V's scales where it has them.
    template <class T, uint32_t N>
    __device__ __forceinline__ void pack_weights(
        uint32_t tile, uint32_t first_token, const float (&s)[N / 8][4], uint32_t (&weights)[N / 16][4]) {
        const uint32_t t = (threadIdx.x & 3) * 2;
        const float* v_scales = scales(true) + tile % SLOT_TILES * TILE + first_token + t;
#pragma unroll
        for (uint32_t j = 0; j < N / 8; ++j) {
            float2 scale = make_float2(1.0f, 1.0f);
            if (is_8bit(true)) scale = make_float2(v_scales[8 * j], v_scales[8 * j + 1]);
            uint32_t* to = &weights[j / 2][j % 2 * 2];
            to[0] = Pair<T>::pack(s[j][0] * scale.x, s[j][1] * scale.y);
            to[1] = Pair<T>::pack(s[j][2] * scale.x, s[j][3] * scale.y);
        }
    }

    template <bool WIDE_ITEM> __device__ __forceinline__ void run(const AttendItem& item) {
        constexpr uint32_t N = WIDE_ITEM ? TILE : 16;
        const uint32_t warp = threadIdx.x / 32, g = (threadIdx.x & 31) / 4;
        const uint32_t first_vector = WIDE_ITEM ? warp * 16 : 0, first_token = WIDE_ITEM ? 0 : warp * 16;
        const uint32_t lane = item.lane_rows >> 8;
        const uint32_t n_tiles = ceil_div(item.end - item.begin, TILE), n_halves = 2 * n_tiles;
        const uint32_t ahead = p.n_buffers - 1;
        const bool k_is_bf16 = p.kv.k_kind == KV_BF16, v_is_f16 = p.kv.v_kind == KV_F16;

        __syncthreads();  // the former item's reads of shared memory are done
        walker.limit = 0;
        for (uint32_t tile = 0; tile < min(p.n_buffers / 2, n_tiles); ++tile) find_slots(item, lane, tile);
        if (k_is_bf16) {
            load_q<__nv_bfloat16, WIDE_ITEM>(item);
        } else {
            load_q<__half, WIDE_ITEM>(item);
        }
        __syncthreads();
        for (uint32_t half = 0; half < ahead; ++half) {
            if (half < n_halves) copy(item, lane, half);
            cp_async_commit();
        }

        State state;
        const AttendRow* rows = attend_table<AttendRow>(p, head.rows);
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            const uint32_t v = first_vector + g + 8 * half;
            state.position[half] = attend_vector(p, rows, item.row, item.lane_rows, v).position;
            state.largest[half] = -INFINITY;
            state.sum[half] = 0.0f;
        }
        float o[D / 8][4];
#pragma unroll
        for (uint32_t j = 0; j < D / 8; ++j) o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.0f;

        for (uint32_t tile = 0; tile < n_tiles; ++tile) {
            unsigned char* k_tile = buffers + (2 * tile % p.n_buffers) * TILE_BYTES;
            unsigned char* v_tile = buffers + ((2 * tile + 1) % p.n_buffers) * TILE_BYTES;

            wait();
            if (tile + p.n_buffers / 2 < n_tiles) find_slots(item, lane, tile + p.n_buffers / 2);
            if (2 * tile + ahead < n_halves) copy(item, lane, 2 * tile + ahead);
            cp_async_commit();
            if (is_8bit(false)) widen(k_tile, false);
            float s[N / 8][4];
#pragma unroll
            for (uint32_t j = 0; j < N / 8; ++j) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
            if (k_is_bf16) {
                scores<__nv_bfloat16, N, !WIDE_ITEM>(s, first_vector, k_tile, first_token);
            } else {
                scores<__half, N, !WIDE_ITEM>(s, first_vector, k_tile, first_token);
            }
            float keep[2];
            softmax<N>(item, tile, first_token, s, state, keep);
            uint32_t weights[N / 16][4];
            if (v_is_f16) {
                pack_weights<__half, N>(tile, first_token, s, weights);
            } else {
                pack_weights<__nv_bfloat16, N>(tile, first_token, s, weights);
            }
#pragma unroll
            for (uint32_t j = 0; j < D / 8; ++j) {
                o[j][0] *= keep[0], o[j][1] *= keep[0], o[j][2] *= keep[1], o[j][3] *= keep[1];
            }

            wait();
            if (2 * tile + 1 + ahead < n_halves) copy(item, lane, 2 * tile + 1 + ahead);
            cp_async_commit();
            if (is_8bit(true)) widen(v_tile, true);
            if (v_is_f16) {
                add_values<__half, N>(o, weights, v_tile, first_token);
            } else {
                add_values<__nv_bfloat16, N>(o, weights, v_tile, first_token);
            }
        }
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            state.sum[half] += __shfl_xor_sync(FULL_WARP, state.sum[half], 1);
            state.sum[half] += __shfl_xor_sync(FULL_WARP, state.sum[half], 2);
        }
        if (WIDE_ITEM) {
            store_wide(item, o, state, first_vector);
        } else {
            store_narrow(item, o, state);
        }
    }

    // ---- results --------------------------------------------------------------------------------

    __device__ __forceinline__ void store_wide(
        const AttendItem& item, const float (&o)[D / 8][4], const State& state, uint32_t first_vector) {
        const uint32_t g = (threadIdx.x & 31) / 4, t = (threadIdx.x & 3) * 2;
        const AttendRow* rows = attend_table<AttendRow>(p, head.rows);
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            const uint32_t v = first_vector + g + 8 * half;
            const AttendVector vector = attend_vector(p, rows, item.row, item.lane_rows, v);
            if (!vector.is_there) continue;
            float* to = p.q + vector.offset;
            float factor = state.sum[half] == 0.0f ? 0.0f : 1.0f / state.sum[half];
            if (item.partial != NONE) {
                const size_t at = size_t(item.partial) + v;
                to = p.values + at * p.kv.head_dim;
                if (t == 0) p.stats[at] = make_float2(state.largest[half], state.sum[half]);
                factor = 1.0f;
            }
#pragma unroll
            for (uint32_t j = 0; j < D / 8; ++j) {
                if (8 * j >= p.kv.head_dim) break;
                *reinterpret_cast<float2*>(to + 8 * j + t) =
                    make_float2(o[j][2 * half] * factor, o[j][2 * half + 1] * factor);
            }
        }
    }

    // The four warps' results, merged through the buffers, which are free now.
    __device__ __forceinline__ void store_narrow(
        const AttendItem& item, const float (&o)[D / 8][4], const State& state) {
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, t = (lane & 3) * 2;
        float* values = reinterpret_cast<float*>(buffers);     // [warp][vector][D]
        float2* stats = reinterpret_cast<float2*>(slots);      // [warp][vector]
        const uint32_t n_vectors = (item.lane_rows & 0xff) * p.width;
        __syncthreads();
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            const uint32_t v = g + 8 * half;
            if (v >= n_vectors) continue;
            if (t == 0) stats[warp * 16 + v] = make_float2(state.largest[half], state.sum[half]);
            float* to = values + (warp * 16 + v) * D;
#pragma unroll
            for (uint32_t j = 0; j < D / 8; ++j) {
                *reinterpret_cast<float2*>(to + 8 * j + t) = make_float2(o[j][2 * half], o[j][2 * half + 1]);
            }
        }
        __syncthreads();
        const AttendRow* rows = attend_table<AttendRow>(p, head.rows);
        for (uint32_t v = warp; v < n_vectors; v += 4) {
            const AttendVector vector = attend_vector(p, rows, item.row, item.lane_rows, v);
            if (!vector.is_there) continue;
            float largest = -INFINITY, sum = 0.0f, factor[4];
#pragma unroll
            for (uint32_t w = 0; w < 4; ++w) largest = fmaxf(largest, stats[w * 16 + v].x);
#pragma unroll
            for (uint32_t w = 0; w < 4; ++w) {
                const float2 of_warp = stats[w * 16 + v];
                factor[w] = exp2f(of_warp.x - attend_base(largest));
                sum += of_warp.y * factor[w];
            }
            float* to = p.q + vector.offset;
            float whole = sum == 0.0f ? 0.0f : 1.0f / sum;
            if (item.partial != NONE) {
                const size_t at = size_t(item.partial) + v;
                to = p.values + at * p.kv.head_dim;
                if (lane == 0) p.stats[at] = make_float2(largest, sum);
                whole = 1.0f;
            }
            for (uint32_t d = lane; d < p.kv.head_dim; d += 32) {
                float value = 0.0f;
#pragma unroll
                for (uint32_t w = 0; w < 4; ++w) value += values[(w * 16 + v) * D + d] * factor[w];
                to[d] = value * whole;
            }
        }
    }
};

// Not inlined, so that registers are given to the two ways apart.
template <uint32_t D, bool WIDE_ITEM>
__device__ __noinline__ void attend_item(
    const AttendParams& p, const AttendItem& item) {
    DYN_SMEM(unsigned char, shared);
    Attention<D>(p, shared).template run<WIDE_ITEM>(item);
}

template <uint32_t D> __device__ __forceinline__ void attend_body(const AttendParams& p) {
    pdl_wait();
    pdl_trigger();
    const AttendHead& head = attend_head(p);
    const uint32_t* wide = attend_table<uint32_t>(p, head.wide_first) + blockIdx.x;
    const AttendItem* wide_items = attend_table<AttendItem>(p, head.wide_items);
    for (uint32_t i = wide[0]; i < wide[1]; ++i) attend_item<D, true>(p, wide_items[i]);
    const uint32_t* narrow = attend_table<uint32_t>(p, head.narrow_first) + blockIdx.x;
    const AttendItem* narrow_items = attend_table<AttendItem>(p, head.narrow_items);
    for (uint32_t i = narrow[0]; i < narrow[1]; ++i) attend_item<D, false>(p, narrow_items[i]);
}

#define ATTEND_KERNEL(name, D)                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)       \
        name(const __grid_constant__ AttendParams p) {             \
        attend_body<D>(p);                                         \
    }                                                              \
    KERNEL_ENTRY(name)
