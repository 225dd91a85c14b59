// The KV repo's rows: one per slot and layer, K of all heads, then V of all heads, then the scales
// of 8-bit kinds (f32, of K's heads, then of V's). kv.rs computes the offsets.
#pragma once
#include "larder.cuh"

enum KvKind : uint32_t { KV_F32 = 0, KV_F16 = 1, KV_BF16 = 2, KV_INT8 = 3, KV_FP8 = 4 };

struct KvRows {
    unsigned char* base;  // the row of slot 0
    uint64_t row_bytes;
    uint64_t v_offset;    // of V in a row; K is at 0
    uint64_t k_scales;    // of the scales in a row, where the kind has them
    uint64_t v_scales;
    uint32_t k_kind;      // KvKind
    uint32_t v_kind;
    uint32_t n_kv_heads;
    uint32_t head_dim;    // a multiple of 8; of 16 for 8-bit kinds
};
static_assert(sizeof(KvRows) == 56, "kv.rs has the same struct");

// Largest magnitudes of the 8-bit kinds: a head's largest element becomes this.
constexpr float KV_INT8_MAX = 127.0f;
constexpr float KV_FP8_MAX = 448.0f;

__device__ __forceinline__ uint32_t kv_element_bytes(uint32_t kind) {
    return kind == KV_F32 ? 4 : (kind >= KV_INT8 ? 1 : 2);
}

__device__ __forceinline__ uint32_t kv_kind(const KvRows& kv, bool is_v) {
    return is_v ? kv.v_kind : kv.k_kind;
}

// Offset of a head's first element in a row.
__device__ __forceinline__ size_t kv_head_offset(const KvRows& kv, uint32_t head, bool is_v) {
    const size_t element = size_t(head) * kv.head_dim;
    return (is_v ? kv.v_offset : 0) + element * kv_element_bytes(kv_kind(kv, is_v));
}

__device__ __forceinline__ size_t kv_scale_offset(const KvRows& kv, uint32_t head, bool is_v) {
    return (is_v ? kv.v_scales : kv.k_scales) + size_t(head) * sizeof(float);
}

__device__ __forceinline__ unsigned char* kv_row(const KvRows& kv, uint32_t slot) {
    return kv.base + size_t(slot) * kv.row_bytes;
}

// ---- 8-bit elements to 16 bits, two at a time, exactly ------------------------------------------

// Elements `first` and `first + 1` (first 0 or 2) of four int8.
__device__ __forceinline__ uint32_t int8x2_to_f16x2(uint32_t four, uint32_t first) {
    // 0x6400 + u is 1024 + u in f16, and u = value + 128.
    const uint32_t biased =
        __byte_perm(four ^ 0x80808080u, 0x64646464u, first == 0 ? 0x4140u : 0x4342u);
    const uint32_t bias = 0x64806480u;  // 1152, twice
    const __half2 value = __hsub2(reinterpret_cast<const __half2&>(biased),
                                  reinterpret_cast<const __half2&>(bias));
    return reinterpret_cast<const uint32_t&>(value);
}

__device__ __forceinline__ uint32_t int8x2_to_bf16x2(uint32_t four, uint32_t first) {
    const uint32_t low = (four >> (8 * first)) & 0xff, high = (four >> (8 * first + 8)) & 0xff;
    const float a = float(int8_t(low)), b = float(int8_t(high));
    return __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x7632u);
}

// e4m3 has the same fields as f16, only narrower: shifted into place, the exponents' biases differ
// by a power of two. There is no NaN: kv_store_head puts it into the scale.
__device__ __forceinline__ uint32_t fp8x2_to_f16x2(uint32_t four, uint32_t first) {
    const uint32_t spread = __byte_perm(four, 0, first == 0 ? 0x1404u : 0x3424u);
    const uint32_t bits = (spread & 0x80008000u) | ((spread & 0x7f007f00u) >> 1);
    const uint32_t factor = 0x5c005c00u;  // 2^8, twice
    const __half2 value = __hmul2(reinterpret_cast<const __half2&>(bits),
                                  reinterpret_cast<const __half2&>(factor));
    return reinterpret_cast<const uint32_t&>(value);
}

__device__ __forceinline__ float fp8_to_f32(uint32_t byte) {
    const float magnitude = __uint_as_float((byte & 0x7f) << 20) * 0x1p120f;
    return byte & 0x80 ? -magnitude : magnitude;
}

__device__ __forceinline__ uint32_t fp8x2_to_bf16x2(uint32_t four, uint32_t first) {
    const float a = fp8_to_f32(four >> (8 * first)), b = fp8_to_f32(four >> (8 * first + 8));
    return __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x7632u);
}

// ---- Whole heads --------------------------------------------------------------------------------

// Eight elements at `at`, aligned to eight elements, without their scale.
__device__ __forceinline__ void kv_load8(uint32_t kind, const void* at, float (&values)[8]) {
    if (kind == KV_F32) {
        const float4 a = static_cast<const float4*>(at)[0], b = static_cast<const float4*>(at)[1];
        values[0] = a.x, values[1] = a.y, values[2] = a.z, values[3] = a.w;
        values[4] = b.x, values[5] = b.y, values[6] = b.z, values[7] = b.w;
        return;
    }
    if (kind >= KV_INT8) {
        const uint2 words = *static_cast<const uint2*>(at);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const uint32_t byte = (i < 4 ? words.x : words.y) >> (8 * (i & 3)) & 0xff;
            values[i] = kind == KV_INT8 ? float(int8_t(byte)) : fp8_to_f32(byte);
        }
        return;
    }
    const uint4 words = *static_cast<const uint4*>(at);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 pair = kind == KV_F16
            ? __half22float2(reinterpret_cast<const __half2&>(pairs[i]))
            : __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pairs[i]));
        values[2 * i] = pair.x;
        values[2 * i + 1] = pair.y;
    }
}

// f16 without infinities; a NaN stays one.
__device__ __forceinline__ __half kv_to_f16(float value) {
    return __float2half_rn(fabsf(value) > 65504.0f ? copysignf(65504.0f, value) : value);
}

// One head with a scale of its own: largest magnitude over the kind's largest. Four elements a lane.
__device__ __forceinline__ void kv_store_scaled(
    uint32_t kind, unsigned char* at, float* scale_at, uint32_t head_dim, const float* values) {
    const uint32_t lane = threadIdx.x & 31;
    float largest = 0.0f;
    bool finite = true;
    for (uint32_t i = lane; i < head_dim; i += 32) {
        largest = fmaxf(largest, fabsf(values[i]));
        finite = finite && fabsf(values[i]) <= 3.4028235e38f;
    }
    largest = warp_max(largest);
    finite = __all_sync(FULL_WARP, finite);
    const float top = kind == KV_INT8 ? KV_INT8_MAX : KV_FP8_MAX;
    // A head with a NaN or an infinity is NaN as a whole, so that it is noticed.
    const float scale = finite ? largest / top : NAN;
    const float inverse = finite && largest > 0.0f ? top / largest : 0.0f;
    for (uint32_t i = 4 * lane; i < head_dim; i += 128) {
        uint32_t four = 0;
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            const float value = fminf(fmaxf(values[i + j] * inverse, -top), top);
            const uint32_t byte = kind == KV_INT8
                ? uint32_t(__float2int_rn(value)) & 0xff
                : uint32_t(__nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3));
            four |= byte << (8 * j);
        }
        *reinterpret_cast<uint32_t*>(at + i) = four;
    }
    if (lane == 0) *scale_at = scale;
}

// Stores one head of K or V at a slot, by one warp (all lanes call). `values`: its head_dim elements
// in shared memory, visible to the warp.
__device__ __forceinline__ void kv_store_head(
    const KvRows& kv, uint32_t slot, uint32_t head, bool is_v, const float* values) {
    unsigned char* row = kv_row(kv, slot);
    unsigned char* at = row + kv_head_offset(kv, head, is_v);
    const uint32_t kind = kv_kind(kv, is_v), lane = threadIdx.x & 31;
    if (kind >= KV_INT8) {
        float* scale = reinterpret_cast<float*>(row + kv_scale_offset(kv, head, is_v));
        return kv_store_scaled(kind, at, scale, kv.head_dim, values);
    }
    for (uint32_t i = 2 * lane; i < kv.head_dim; i += 64) {
        const float2 pair = make_float2(values[i], values[i + 1]);
        if (kind == KV_F32) {
            reinterpret_cast<float2*>(at)[i / 2] = pair;
        } else if (kind == KV_F16) {
            reinterpret_cast<__half2*>(at)[i / 2] =
                __halves2half2(kv_to_f16(pair.x), kv_to_f16(pair.y));
        } else {
            reinterpret_cast<__nv_bfloat162*>(at)[i / 2] = __floats2bfloat162_rn(pair.x, pair.y);
        }
    }
}
