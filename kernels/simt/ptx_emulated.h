// The names of cuda/ptx.cuh in plain C++. Included by it.
#pragma once

#include "core.h"

#include <cstdint>
#include <cstring>

namespace simt {

inline float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

struct Bf16Bits {
    static float value(uint16_t bits) { return from_bits(uint32_t(bits) << 16); }
};

struct F16Bits {
    static float value(uint16_t bits) {
        const uint32_t magnitude = bits & 0x7fffu;
        // The exponent moves by 127 - 15, which the multiplication does for subnormal values, too.
        uint32_t result;
        const float scaled = from_bits(magnitude << 13) * 0x1p112f;
        memcpy(&result, &scaled, sizeof result);
        if (magnitude >= 0x7c00u)
            result |= 0x7f800000u;
        return from_bits(result | uint32_t(bits & 0x8000u) << 16);
    }
};

struct Mma {
    float* d;
    const uint32_t* a;
    const uint32_t* b;
};

// d[16][8] += a[16][k] * b[k][8], k ascending.
template <int depth> void multiply(float (&d)[16][8], const float (&a)[16][depth], const float (&b)[depth][8]) {
    for (int row = 0; row < 16; ++row)
        for (int k = 0; k < depth; ++k)
            for (int column = 0; column < 8; ++column)
                d[row][column] += a[row][k] * b[k][column];
}

inline void gather_d(float (&d)[16][8], void* const* lanes) {
    for (int lane = 0; lane < 32; ++lane) {
        const float* mine = static_cast<Mma*>(lanes[lane])->d;
        const int g = lane / 4, t = lane % 4 * 2;
        d[g][t] = mine[0], d[g][t + 1] = mine[1], d[g + 8][t] = mine[2], d[g + 8][t + 1] = mine[3];
    }
}

inline void scatter_d(const float (&d)[16][8], void* const* lanes) {
    for (int lane = 0; lane < 32; ++lane) {
        float* mine = static_cast<Mma*>(lanes[lane])->d;
        const int g = lane / 4, t = lane % 4 * 2;
        mine[0] = d[g][t], mine[1] = d[g][t + 1], mine[2] = d[g + 8][t], mine[3] = d[g + 8][t + 1];
    }
}

template <class Element> void perform_mma_k16(void* const* lanes, unsigned) {
    float a[16][16], b[16][8], d[16][8];
    gather_d(d, lanes);
    for (int lane = 0; lane < 32; ++lane) {
        const Mma& mine = *static_cast<Mma*>(lanes[lane]);
        const int g = lane / 4, t = lane % 4 * 2;
        for (int half = 0; half < 2; ++half) {
            const auto value = [&](uint32_t pair) { return Element::value(uint16_t(pair >> 16 * half)); };
            a[g][t + half] = value(mine.a[0]);
            a[g + 8][t + half] = value(mine.a[1]);
            a[g][t + 8 + half] = value(mine.a[2]);
            a[g + 8][t + 8 + half] = value(mine.a[3]);
            b[t + half][g] = value(mine.b[0]);
            b[t + 8 + half][g] = value(mine.b[1]);
        }
    }
    multiply(d, a, b);
    scatter_d(d, lanes);
}

inline void perform_mma_tf32(void* const* lanes, unsigned) {
    const auto value = [](uint32_t bits) { return from_bits(bits & 0xffffe000u); };
    float a[16][8], b[8][8], d[16][8];
    gather_d(d, lanes);
    for (int lane = 0; lane < 32; ++lane) {
        const Mma& mine = *static_cast<Mma*>(lanes[lane]);
        const int g = lane / 4, t = lane % 4;
        a[g][t] = value(mine.a[0]);
        a[g + 8][t] = value(mine.a[1]);
        a[g][t + 4] = value(mine.a[2]);
        a[g + 8][t + 4] = value(mine.a[3]);
        b[t][g] = value(mine.b[0]);
        b[t + 4][g] = value(mine.b[1]);
    }
    multiply(d, a, b);
    scatter_d(d, lanes);
}

struct MatrixLoad {
    uint32_t* registers;
    const uint16_t* row;
};

template <int matrices, bool transposed> void perform_ldmatrix(void* const* lanes, unsigned) {
    const auto row = [&](int lane) { return static_cast<MatrixLoad*>(lanes[lane])->row; };
    for (int matrix = 0; matrix < matrices; ++matrix) {
        for (int lane = 0; lane < 32; ++lane) {
            const int g = lane / 4, t = lane % 4 * 2;
            const uint16_t low = transposed ? row(matrix * 8 + t)[g] : row(matrix * 8 + g)[t];
            const uint16_t high = transposed ? row(matrix * 8 + t + 1)[g] : row(matrix * 8 + g)[t + 1];
            static_cast<MatrixLoad*>(lanes[lane])->registers[matrix] = low | uint32_t(high) << 16;
        }
    }
}

template <int matrices, bool transposed> void ldmatrix(uint32_t* registers, const void* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
        fail("ldmatrix: the address of a row is not aligned to 16 bytes");
    if (!is_shared(row, 16))
        fail("ldmatrix: a row is not in shared memory");
    MatrixLoad mine{registers, static_cast<const uint16_t*>(row)};
    whole_warp(perform_ldmatrix<matrices, transposed>, &mine, "ldmatrix");
}

} // namespace simt

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    simt::Mma mine{d, a, b};
    simt::whole_warp(simt::perform_mma_k16<simt::Bf16Bits>, &mine, "mma_bf16");
}

inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    simt::Mma mine{d, a, b};
    simt::whole_warp(simt::perform_mma_k16<simt::F16Bits>, &mine, "mma_f16");
}

inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    simt::Mma mine{d, a, b};
    simt::whole_warp(simt::perform_mma_tf32, &mine, "mma_tf32");
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { simt::ldmatrix<4, false>(r, row); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { simt::ldmatrix<4, true>(r, row); }
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row) { simt::ldmatrix<2, false>(r, row); }
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) { simt::ldmatrix<2, true>(r, row); }

inline void cp_async16(void* shared, const void* global, bool valid = true) {
    simt::copy_async(shared, global, 16, valid);
}
inline void cp_async4(void* shared, const void* global, bool valid = true) {
    simt::copy_async(shared, global, 4, valid);
}
inline void cp_async_commit() { simt::copy_async_commit(); }
template <int N> inline void cp_async_wait() { simt::copy_async_wait(N); }

inline void pdl_wait() { simt::wait_for_grids(); }
inline void pdl_trigger() {}

inline uint4 load_streaming(const void* global) {
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0)
        simt::fail("load_streaming: %p is not aligned to 16 bytes", global);
    return *static_cast<const uint4*>(global);
}
inline void prefetch_l2(const void*) {}
