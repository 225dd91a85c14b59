// What is done with the products of a matrix: the epilogues that every product kernel shares.
#pragma once
#include "larder.cuh"
#include "kv.cuh"

// ---- act rows: the type that products read ------------------------------------------------------

// f16 saturates, so that one large value does not become an infinity; a NaN stays one.
template <class T> __device__ __forceinline__ T to_act(float value);
template <> __device__ __forceinline__ float to_act<float>(float value) { return value; }
template <> __device__ __forceinline__ __nv_bfloat16 to_act<__nv_bfloat16>(float value) {
    return __float2bfloat16_rn(value);
}
template <> __device__ __forceinline__ __half to_act<__half>(float value) {
    return __float2half_rn(fabsf(value) > 65504.0f ? copysignf(65504.0f, value) : value);
}

__device__ __forceinline__ float from_act(float value) { return value; }
__device__ __forceinline__ float from_act(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float from_act(__half value) { return __half2float(value); }

// ---- values one by one: store, residual, gated --------------------------------------------------

enum Activation : uint32_t { ACTIVATION_SILU = 0, ACTIVATION_GELU_TANH = 1, ACTIVATION_GELU = 2 };

// Epilogue of store, residual and gated products.
struct Finish {
    void* out;             // [rows][leading]: f32 (store, residual) or act rows (gated)
    const float* bias;     // f32 [n_out], of the gate when gated; null: none
    const float* up_bias;  // f32 [n_out], gated only; null: none
    uint32_t leading;      // elements from one row of `out` to the next
    uint32_t activation;   // Activation, gated only
    float multiplier;
    float cap;  // cap * tanh(value / cap), store only; 0: none
};
static_assert(sizeof(Finish) == 40, "product.rs has the same struct");

__device__ __forceinline__ float activate(uint32_t activation, float x) {
    if (activation == ACTIVATION_SILU) return x / (1.0f + expf(-x));
    if (activation == ACTIVATION_GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}

__device__ __forceinline__ float with_bias(const float* bias, uint32_t column, float y) {
    return bias ? y + bias[column] : y;
}

// (y + bias) * multiplier: what the residual grows by
__device__ __forceinline__ float scaled(const Finish& f, uint32_t column, float y) {
    return with_bias(f.bias, column, y) * f.multiplier;
}

// cap((y + bias) * multiplier)
__device__ __forceinline__ float stored(const Finish& f, uint32_t column, float y) {
    const float value = scaled(f, column, y);
    return f.cap != 0.0f ? f.cap * tanhf(value / f.cap) : value;
}

__device__ __forceinline__ void finish_store(
    const Finish& f, size_t row, uint32_t column, float y) {
    static_cast<float*>(f.out)[row * f.leading + column] = stored(f, column, y);
}

__device__ __forceinline__ void finish_residual(
    const Finish& f, size_t row, uint32_t column, float y) {
    static_cast<float*>(f.out)[row * f.leading + column] += scaled(f, column, y);
}

// activation(gate + bias) * (up + up_bias)
__device__ __forceinline__ float gated(const Finish& f, uint32_t column, float gate, float up) {
    return activate(f.activation, with_bias(f.bias, column, gate)) *
           with_bias(f.up_bias, column, up);
}

template <class Act>
__device__ __forceinline__ void finish_gated(
    const Finish& f, size_t row, uint32_t column, float gate, float up) {
    Act* out = static_cast<Act*>(f.out) + row * f.leading;
    out[column] = to_act<Act>(gated(f, column, gate, up));
}

// ---- whole heads: q, k, v -----------------------------------------------------------------------

enum NormKind : uint32_t { NORM_NONE = 0, NORM_RMS = 1, NORM_LAYER = 2 };

struct Norm {
    const float* weight;  // f32 [n]
    const float* bias;    // f32 [n], layer only; null: none
    uint32_t kind;        // NormKind
    float eps;
};
static_assert(sizeof(Norm) == 24, "norm.rs has the same struct");

enum RopePairs : uint32_t { ROPE_HALVES = 0, ROPE_ADJACENT = 1 };

// Epilogue of the projection of q, k and v. Heads count from 0: n_heads of q, then K's, then V's.
struct QkvFinish {
    float* q;                 // f32 [rows][n_heads * head_dim]
    const uint32_t* slots;    // [rows]: where each row's K and V go
    const float* rope_table;  // f32 [rows][rope_dim / 2][cos, sin]; null: no RoPE
    const float* bias[3];     // of q, k, v: f32 [heads * head_dim]; null: none
    Norm q_norm;              // over each head, before RoPE
    Norm k_norm;
    KvRows kv;                // the layer's rows; has n_kv_heads and head_dim
    uint32_t n_heads;
    uint32_t rope_dim;
    uint32_t rope_pairs;      // RopePairs
    uint32_t first_head[3];   // of each matrix of the launch, which covers n_out / head_dim heads
};
static_assert(sizeof(QkvFinish) == 96 + sizeof(KvRows) + 24, "product.rs has the same struct");

// Element `i` of a head after RoPE.
__device__ __forceinline__ float rotated(
    const float* values, const float* table, uint32_t rope_dim, uint32_t pairs, uint32_t i) {
    if (i >= rope_dim) return values[i];
    const uint32_t half = rope_dim / 2;
    const bool adjacent = pairs == ROPE_ADJACENT;
    const uint32_t pair = adjacent ? i / 2 : (i < half ? i : i - half);
    const bool second = adjacent ? (i & 1) != 0 : i >= half;
    const uint32_t other = adjacent ? i ^ 1 : (second ? i - half : i + half);
    const float2 turn = reinterpret_cast<const float2*>(table)[pair];
    const float sine = second ? turn.y : -turn.y;
    return values[i] * turn.x + values[other] * sine;
}

// Most elements of a head, and how many of them a lane holds.
constexpr uint32_t MAX_HEAD_DIM = 256;
constexpr uint32_t HEAD_PER_LANE = MAX_HEAD_DIM / 32;

// Bias, norm and RoPE of one head of one row, by one warp (all lanes call); then q to its place, K
// or V to the row's slot. `values`: its head_dim products in shared memory, visible to the warp;
// overwritten.
__device__ __forceinline__ void finish_head(
    const QkvFinish& f, size_t row, uint32_t head, float* values) {
    const uint32_t lane = threadIdx.x & 31, dim = f.kv.head_dim, n_kv = f.kv.n_kv_heads;
    const uint32_t kind = head < f.n_heads ? 0 : (head < f.n_heads + n_kv ? 1 : 2);  // q, k, v
    const uint32_t first = kind == 0 ? 0 : (kind == 1 ? f.n_heads : f.n_heads + n_kv);
    const uint32_t own = head - first;
    const float* bias = kind == 0 ? f.bias[0] : (kind == 1 ? f.bias[1] : f.bias[2]);
    const Norm& norm = kind == 0 ? f.q_norm : f.k_norm;
    const bool normed = kind < 2 && norm.kind != NORM_NONE;
    const bool turned = kind < 2 && f.rope_table != nullptr;

    float held[HEAD_PER_LANE];
    if (bias != nullptr || normed) {
        float sum = 0.0f;
#pragma unroll
        for (uint32_t j = 0; j < HEAD_PER_LANE; ++j) {
            const uint32_t i = lane + 32 * j;
            held[j] = i < dim ? values[i] : 0.0f;
            if (i < dim && bias != nullptr) held[j] += bias[size_t(own) * dim + i];
            sum += held[j];
        }
        float mean = 0.0f, factor = 1.0f;
        if (normed) {
            if (norm.kind == NORM_LAYER) mean = warp_sum(sum) / float(dim);
            float squares = 0.0f;
#pragma unroll
            for (uint32_t j = 0; j < HEAD_PER_LANE; ++j) {
                const float apart = lane + 32 * j < dim ? held[j] - mean : 0.0f;
                squares += apart * apart;
            }
            factor = 1.0f / sqrtf(warp_sum(squares) / float(dim) + norm.eps);
        }
#pragma unroll
        for (uint32_t j = 0; j < HEAD_PER_LANE; ++j) {
            const uint32_t i = lane + 32 * j;
            if (i >= dim) continue;
            float value = (held[j] - mean) * factor;
            if (normed) value *= norm.weight[i];
            if (normed && norm.kind == NORM_LAYER && norm.bias != nullptr) value += norm.bias[i];
            values[i] = value;
        }
        __syncwarp();
    }
    if (turned) {
        const float* table = f.rope_table + row * f.rope_dim;
#pragma unroll
        for (uint32_t j = 0; j < HEAD_PER_LANE; ++j) {
            const uint32_t i = lane + 32 * j;
            if (i < dim) held[j] = rotated(values, table, f.rope_dim, f.rope_pairs, i);
        }
        __syncwarp();
#pragma unroll
        for (uint32_t j = 0; j < HEAD_PER_LANE; ++j) {
            if (lane + 32 * j < dim) values[lane + 32 * j] = held[j];
        }
        __syncwarp();
    }
    if (kind == 0) {
        float* q = f.q + (row * f.n_heads + own) * dim;
        for (uint32_t i = lane; i < dim; i += 32) q[i] = values[i];
    } else {
        kv_store_head(f.kv, f.slots[row], own, kind == 2, values);
    }
}
