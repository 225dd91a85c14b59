// Device layouts of weight formats and their readers. src/format.rs packs them and says how they are arranged.
//
// A reader of a format F loads what lane t (0 .. 4) owns of one chunk of a row, and decodes it in pieces of eight
// elements: as 16-bit pairs for tensor cores (whole numbers of up to 8 bits are exact in bf16), or as f32. The value
// of an element is `number * scale - offset`, with one scale per piece or per half of one (SCALES), or per row.
// Element j of piece i is, counted from the chunk's first:
//     plain:      8 t + j
//     quantised:  32 i + 16 (j / 4) + 4 t + j % 4
#pragma once
#include "larder.cuh"

enum WeightFormat : uint32_t {
    FORMAT_F32 = 0,
    FORMAT_F16 = 1,
    FORMAT_BF16 = 2,
    FORMAT_F8E4M3 = 3,
    FORMAT_I8 = 4,
    FORMAT_Q8_0 = 5,
    FORMAT_Q4_0 = 6,
    FORMAT_Q4_K = 7,
    FORMAT_Q6_K = 8,
};

struct Weights {
    const uint8_t* planes[4];
    uint32_t n_out;
    uint32_t n_in;
    uint32_t row_elements;  // from one row to the next: n_in of the whole matrix, padded to chunks
    uint32_t format;        // WeightFormat
};
static_assert(sizeof(Weights) == 48, "format.rs has the same struct");

// Some rows of a matrix, from one on. Rows behind `last` are read as that one.
struct Run {
    const uint8_t* planes[4];
    uint32_t last;
    uint32_t row_elements;
};

// ---- Numbers in words ----

// a * b + c for two bf16 each.
__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    const __nv_bfloat162 d = __hfma2(reinterpret_cast<const __nv_bfloat162&>(a),
                                     reinterpret_cast<const __nv_bfloat162&>(b),
                                     reinterpret_cast<const __nv_bfloat162&>(c));
    return reinterpret_cast<const uint32_t&>(d);
}

__device__ __forceinline__ float2 float2_of_bf16x2(uint32_t pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

__device__ __forceinline__ float2 float2_of_f16x2(uint32_t pair) {
    return __half22float2(reinterpret_cast<const __half2&>(pair));
}

__device__ __forceinline__ float float_of_f16(uint32_t bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    return __half2float(reinterpret_cast<const __half&>(half));
}

// The numbers 128 + n, for n of 7 bits in the low bits of each half, less `bias`: exact.
__device__ __forceinline__ uint32_t bf16x2_less(uint32_t numbers, uint32_t bias) {
    return fma_bf16x2(numbers | 0x43004300u, 0x3f803f80u, bias);
}
constexpr uint32_t MINUS_128 = 0xc300c300u, MINUS_136 = 0xc308c308u, MINUS_160 = 0xc320c320u;

// Signed byte `i` of a word.
__device__ __forceinline__ float float_of_i8(uint32_t word, int i) {
    return static_cast<float>(static_cast<int8_t>(word >> 8 * i));
}

__device__ __forceinline__ float float_of_u8(uint32_t word, int i) {
    return static_cast<float>(word >> 8 * i & 0xff);
}

// One of four words by a number that is known after unrolling.
__device__ __forceinline__ uint32_t word_of(const uint4& words, int i) {
    return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

// Eight values from bf16 pairs.
__device__ __forceinline__ void unpack_bf16(const uint32_t (&pairs)[4], float (&values)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 two = float2_of_bf16x2(pairs[i]);
        values[2 * i] = two.x;
        values[2 * i + 1] = two.y;
    }
}

// ---- Addresses ----

// Where a row of a run begins in a plane.
template <class F, int PLANE>
__device__ __forceinline__ const uint8_t* row_in(const Run& run, uint32_t row) {
    return run.planes[PLANE] + min(row, run.last) * F::row_bytes(PLANE, run.row_elements);
}

template <class T> __device__ __forceinline__ T load_cached(const uint8_t* address) {
    return __ldg(reinterpret_cast<const T*>(address));
}

// ---- Readers ----

struct ReadF32 {
    static constexpr uint32_t CHUNK = 32;  // elements
    static constexpr int PIECES = 1;       // of a lane in a chunk
    static constexpr bool PLAIN = true;
    static constexpr int SCALES = 0;       // of a piece
    static constexpr bool OFFSETS = false;
    static constexpr bool ROW_SCALE = false;
    static constexpr int PLANES = 1;
    static __host__ __device__ constexpr uint32_t row_bytes(int plane, uint32_t n) {
        return 4 * n;
    }

    struct Held {
        uint4 low, high;
    };

    static __device__ __forceinline__ Held load(
        const Run& run, uint32_t row, uint32_t chunk, uint32_t t) {
        const uint8_t* at = row_in<ReadF32, 0>(run, row) + size_t(chunk) * 128 + t * 32;
        return {load_streaming(at), load_streaming(at + 16)};
    }
    static __device__ __forceinline__ void values(const Held& held, int, float (&values)[8]) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            values[j] = __uint_as_float(word_of(held.low, j));
            values[j + 4] = __uint_as_float(word_of(held.high, j));
        }
    }
    static __device__ __forceinline__ float scale(const Held&, uint32_t, int, int) { return 1.0f; }
    static __device__ __forceinline__ float offset(const Held&, uint32_t, int) { return 0.0f; }
};

// F16 and BF16.
template <bool HALF> struct Read16 {
    static constexpr uint32_t CHUNK = 32;
    static constexpr int PIECES = 1;
    static constexpr bool PLAIN = true;
    static constexpr int SCALES = 0;
    static constexpr bool OFFSETS = false;
    static constexpr bool ROW_SCALE = false;
    static constexpr int PLANES = 1;
    static __host__ __device__ constexpr uint32_t row_bytes(int plane, uint32_t n) {
        return 2 * n;
    }

    struct Held {
        uint4 words;
    };

    static __device__ __forceinline__ Held load(
        const Run& run, uint32_t row, uint32_t chunk, uint32_t t) {
        return {load_streaming(row_in<Read16, 0>(run, row) + size_t(chunk) * 64 + t * 16)};
    }
    static __device__ __forceinline__ void pairs(const Held& held, int, uint32_t (&pairs)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = word_of(held.words, i);
    }
    static __device__ __forceinline__ void values(const Held& held, int, float (&values)[8]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint32_t pair = word_of(held.words, i);
            const float2 two = HALF ? float2_of_f16x2(pair) : float2_of_bf16x2(pair);
            values[2 * i] = two.x;
            values[2 * i + 1] = two.y;
        }
    }
    static __device__ __forceinline__ float scale(const Held&, uint32_t, int, int) { return 1.0f; }
    static __device__ __forceinline__ float offset(const Held&, uint32_t, int) { return 0.0f; }
};
using ReadF16 = Read16<true>;
using ReadBF16 = Read16<false>;

// Four signed bytes, of which the first two numbers are bytes 0 and 2, the others 1 and 3: as two pairs of bf16. A
// byte is its low seven bits less 128 where the eighth is set; 0x4300 with that bit is 128 or 256.
__device__ __forceinline__ void bf16_of_i8(uint32_t word, uint32_t& first, uint32_t& second) {
    const uint32_t minus = 0xc300c300u;
    first = bf16x2_less(word & 0x007f007fu, minus | (word & 0x00800080u));
    second = bf16x2_less(word >> 8 & 0x007f007fu, minus | (word >> 8 & 0x00800080u));
}

// Four e4m3 numbers in the same order. Moved to bf16's place, their exponent is 120 too small.
__device__ __forceinline__ void bf16_of_e4m3(uint32_t word, uint32_t& first, uint32_t& second) {
    const uint32_t factor = 0x7b807b80u, minus_zero = 0x80008000u;
    const uint32_t even = (word << 8 & 0x80008000u) | (word << 4 & 0x07f007f0u);
    const uint32_t odd = (word & 0x80008000u) | (word >> 4 & 0x07f007f0u);
    first = fma_bf16x2(even, factor, minus_zero);
    second = fma_bf16x2(odd, factor, minus_zero);
}

// F8E4M3 and I8 with a scale per row, Q8_0 with one per 32.
template <bool FLOAT, bool BLOCKS> struct Read8 {
    static constexpr uint32_t CHUNK = 64;
    static constexpr int PIECES = 2;
    static constexpr bool PLAIN = false;
    static constexpr int SCALES = BLOCKS ? 1 : 0;
    static constexpr bool OFFSETS = false;
    static constexpr bool ROW_SCALE = !BLOCKS;
    static constexpr int PLANES = 2;
    static __host__ __device__ constexpr uint32_t row_bytes(int plane, uint32_t n) {
        return plane == 0 ? n : BLOCKS ? n / 16 : 4;
    }

    struct Held {
        uint4 words;
        uint32_t scales;
    };

    static __device__ __forceinline__ Held load(
        const Run& run, uint32_t row, uint32_t chunk, uint32_t t) {
        Held held;
        held.words = load_streaming(row_in<Read8, 0>(run, row) + size_t(chunk) * 64 + t * 16);
        held.scales = 0;
        if (BLOCKS) held.scales = load_cached<uint32_t>(row_in<Read8, 1>(run, row) + size_t(chunk) * 4);
        return held;
    }
    static __device__ __forceinline__ void pairs(const Held& held, int piece, uint32_t (&pairs)[4]) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint32_t word = word_of(held.words, 2 * piece + i);
            if (FLOAT)
                bf16_of_e4m3(word, pairs[2 * i], pairs[2 * i + 1]);
            else
                bf16_of_i8(word, pairs[2 * i], pairs[2 * i + 1]);
        }
    }
    static __device__ __forceinline__ void values(const Held& held, int piece, float (&values)[8]) {
        uint32_t two[4];
        pairs(held, piece, two);
        unpack_bf16(two, values);
    }
    static __device__ __forceinline__ float scale(const Held& held, uint32_t, int piece, int) {
        return BLOCKS ? float_of_f16(held.scales >> 16 * piece) : 1.0f;
    }
    static __device__ __forceinline__ float offset(const Held&, uint32_t, int) { return 0.0f; }
};
using ReadF8E4M3 = Read8<true, false>;
using ReadI8 = Read8<false, false>;
using ReadQ8_0 = Read8<false, true>;

struct ReadQ4_0 {
    static constexpr uint32_t CHUNK = 128;
    static constexpr int PIECES = 4;
    static constexpr bool PLAIN = false;
    static constexpr int SCALES = 1;
    static constexpr bool OFFSETS = false;
    static constexpr bool ROW_SCALE = false;
    static constexpr int PLANES = 2;
    static __host__ __device__ constexpr uint32_t row_bytes(int plane, uint32_t n) {
        return plane == 0 ? n / 2 : n / 16;
    }

    struct Held {
        uint4 words;
        uint2 scales;
    };

    static __device__ __forceinline__ Held load(
        const Run& run, uint32_t row, uint32_t chunk, uint32_t t) {
        return {load_streaming(row_in<ReadQ4_0, 0>(run, row) + size_t(chunk) * 64 + t * 16),
                load_cached<uint2>(row_in<ReadQ4_0, 1>(run, row) + size_t(chunk) * 8)};
    }
    static __device__ __forceinline__ void pairs(const Held& held, int piece, uint32_t (&pairs)[4]) {
        const uint32_t word = word_of(held.words, piece);
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = bf16x2_less(word >> 4 * i & 0x000f000fu, MINUS_136);
    }
    static __device__ __forceinline__ void values(const Held& held, int piece, float (&values)[8]) {
        uint32_t two[4];
        pairs(held, piece, two);
        unpack_bf16(two, values);
    }
    static __device__ __forceinline__ float scale(const Held& held, uint32_t, int piece, int) {
        return float_of_f16((piece < 2 ? held.scales.x : held.scales.y) >> 16 * (piece % 2));
    }
    static __device__ __forceinline__ float offset(const Held&, uint32_t, int) { return 0.0f; }
};

// A chunk is half a block of 256.
struct ReadQ4_K {
    static constexpr uint32_t CHUNK = 128;
    static constexpr int PIECES = 4;
    static constexpr bool PLAIN = false;
    static constexpr int SCALES = 1;
    static constexpr bool OFFSETS = true;
    static constexpr bool ROW_SCALE = false;
    static constexpr int PLANES = 2;
    static __host__ __device__ constexpr uint32_t row_bytes(int plane, uint32_t n) {
        return plane == 0 ? n / 2 : n / 16;
    }

    struct Held {
        uint4 words;
        uint4 head;  // d and dmin, then 8 scales and 8 minima of six bits
    };

    static __device__ __forceinline__ Held load(
        const Run& run, uint32_t row, uint32_t chunk, uint32_t t) {
        return {load_streaming(row_in<ReadQ4_K, 0>(run, row) + size_t(chunk) * 64 + t * 16),
                load_cached<uint4>(row_in<ReadQ4_K, 1>(run, row) + size_t(chunk / 2) * 16)};
    }
    static __device__ __forceinline__ void pairs(const Held& held, int piece, uint32_t (&pairs)[4]) {
        const uint32_t word = word_of(held.words, piece);
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = bf16x2_less(word >> 4 * i & 0x000f000fu, MINUS_128);
    }
    static __device__ __forceinline__ void values(const Held& held, int piece, float (&values)[8]) {
        uint32_t two[4];
        pairs(held, piece, two);
        unpack_bf16(two, values);
    }
    // The first four have their six bits together; the last four have their high bits above those.
    static __device__ __forceinline__ float scale(
        const Held& held, uint32_t chunk, int piece, int) {
        const uint32_t low = held.head.y & 0x3f3f3f3fu;
        const uint32_t high = (held.head.w & 0x0f0f0f0fu) | (held.head.y >> 2 & 0x30303030u);
        return float_of_f16(held.head.x) * float_of_u8(chunk & 1 ? high : low, piece);
    }
    static __device__ __forceinline__ float offset(const Held& held, uint32_t chunk, int piece) {
        const uint32_t low = held.head.z & 0x3f3f3f3fu;
        const uint32_t high = (held.head.w >> 4 & 0x0f0f0f0fu) | (held.head.z >> 2 & 0x30303030u);
        return float_of_f16(held.head.x >> 16) * float_of_u8(chunk & 1 ? high : low, piece);
    }
};

// A chunk is half a block of 256.
struct ReadQ6_K {
    static constexpr uint32_t CHUNK = 128;
    static constexpr int PIECES = 4;
    static constexpr bool PLAIN = false;
    static constexpr int SCALES = 2;
    static constexpr bool OFFSETS = false;
    static constexpr bool ROW_SCALE = false;
    static constexpr int PLANES = 4;
    static __host__ __device__ constexpr uint32_t row_bytes(int plane, uint32_t n) {
        return plane == 0 ? n / 2 : plane == 1 ? n / 4 : plane == 2 ? n / 16 : n / 128;
    }

    struct Held {
        uint4 words;
        uint2 high;
        uint2 scales;
        uint32_t d;
    };

    static __device__ __forceinline__ Held load(
        const Run& run, uint32_t row, uint32_t chunk, uint32_t t) {
        return {load_streaming(row_in<ReadQ6_K, 0>(run, row) + size_t(chunk) * 64 + t * 16),
                load_cached<uint2>(row_in<ReadQ6_K, 1>(run, row) + size_t(chunk) * 32 + t * 8),
                load_cached<uint2>(row_in<ReadQ6_K, 2>(run, row) + size_t(chunk) * 8),
                load_cached<uint16_t>(row_in<ReadQ6_K, 3>(run, row) + size_t(chunk / 2) * 2)};
    }
    // A word of high bits has two pieces; field 4 (piece % 2) + i of each half goes above a nibble.
    static __device__ __forceinline__ void pairs(const Held& held, int piece, uint32_t (&pairs)[4]) {
        const uint32_t low = word_of(held.words, piece);
        const uint32_t high = piece < 2 ? held.high.x : held.high.y;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int bit = 2 * (4 * (piece % 2) + i);
            const uint32_t above = bit < 4 ? high << (4 - bit) : high >> (bit - 4);
            pairs[i] = bf16x2_less((low >> 4 * i & 0x000f000fu) | (above & 0x00300030u), MINUS_160);
        }
    }
    static __device__ __forceinline__ void values(const Held& held, int piece, float (&values)[8]) {
        uint32_t two[4];
        pairs(held, piece, two);
        unpack_bf16(two, values);
    }
    static __device__ __forceinline__ float scale(
        const Held& held, uint32_t, int piece, int half) {
        const uint32_t word = piece < 2 ? held.scales.x : held.scales.y;
        return float_of_f16(held.d) * float_of_i8(word, 2 * (piece % 2) + half);
    }
    static __device__ __forceinline__ float offset(const Held&, uint32_t, int) { return 0.0f; }
};

// ---- Rows of a matrix ----

// Rows first .. first + n of a matrix, as far as it has them.
template <class F>
__device__ __forceinline__ Run run_of(const Weights& w, uint32_t first, uint32_t n) {
    const uint32_t from = min(first, w.n_out - 1);
    Run run;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        run.planes[i] = nullptr;
        if (i < F::PLANES)
            run.planes[i] = w.planes[i] + size_t(from) * F::row_bytes(i, w.row_elements);
    }
    run.last = min(n, w.n_out - from) - 1;
    run.row_elements = w.row_elements;
    return run;
}

// What a row's sum is multiplied by in the end.
template <class F> __device__ __forceinline__ float row_scale(const Weights& w, uint32_t row) {
    return F::ROW_SCALE ? reinterpret_cast<const float*>(w.planes[1])[row] : 1.0f;
}

// First element of a lane's four neighbours `half` (0, 1) of a piece.
template <class F>
__device__ __forceinline__ uint32_t element_of(uint32_t chunk, int piece, int half, uint32_t t) {
    return chunk * F::CHUNK + (F::PLAIN ? 8 * t + 4 * half : 32 * piece + 16 * half + 4 * t);
}
