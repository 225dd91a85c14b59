// Norms over rows of f32, one block per row: to act rows, in place, and added to the residual.
#include "larder.cuh"
#include "finish.cuh"

// Calls `give(i, value)` with every element of norm(x): in place is safe, since the thread that reads
// an element last is the one that gives it.
template <class Give>
__device__ __forceinline__ void norm_row(
    const float* x, const Norm& norm, uint32_t n, const Give& give) {
    __shared__ float scratch[32];
    float mean = 0.0f, factor = 1.0f;
    if (norm.kind == NORM_LAYER) {
        float sum = 0.0f;
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
        mean = block_sum(sum, scratch) / float(n);
    }
    if (norm.kind != NORM_NONE) {
        float squares = 0.0f;
        for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
            const float apart = x[i] - mean;
            squares += apart * apart;
        }
        factor = 1.0f / sqrtf(block_sum(squares, scratch) / float(n) + norm.eps);
    }
    const float* bias = norm.kind == NORM_LAYER ? norm.bias : nullptr;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        float value = x[i];
        if (norm.kind != NORM_NONE) value = (value - mean) * factor * norm.weight[i];
        if (bias != nullptr) value += bias[i];
        give(i, value);
    }
}

// out[r] = norm(x[rows[r]]); `rows` null: row r itself. x and out may be the same without `rows`.
template <class Act>
__device__ __forceinline__ void norm_rows_body(
    const float* x, const uint32_t* rows, Norm norm, Act* out, uint32_t n) {
    pdl_wait();
    pdl_trigger();
    const size_t from = rows != nullptr ? rows[blockIdx.x] : blockIdx.x;
    Act* to = out + size_t(blockIdx.x) * n;
    norm_row(x + from * n, norm, n, [&](uint32_t i, float value) { to[i] = to_act<Act>(value); });
}

#define NORM_ROWS(name, act)                                                       \
    extern "C" __global__ void __launch_bounds__(1024) name(                       \
        const float* x, const uint32_t* rows, Norm norm, act* out, uint32_t n) {   \
        norm_rows_body<act>(x, rows, norm, out, n);                                \
    }                                                                              \
    KERNEL_ENTRY(name)
NORM_ROWS(norm_rows_bf16, __nv_bfloat16)
NORM_ROWS(norm_rows_f16, __half)
NORM_ROWS(norm_rows_f32, float)

// x[r] += norm(y[r]) * multiplier
extern "C" __global__ void __launch_bounds__(1024) norm_residual(
    const float* y, Norm norm, float multiplier, float* x, uint32_t n) {
    pdl_wait();
    pdl_trigger();
    float* to = x + size_t(blockIdx.x) * n;
    norm_row(y + size_t(blockIdx.x) * n, norm, n,
             [&](uint32_t i, float value) { to[i] += value * multiplier; });
}
KERNEL_ENTRY(norm_residual)

// x[r] = x[rows[r]] in place; `rows` ascend. A thread moves one column from the front to the back, so
// no element is overwritten before it was read: rows[r] >= r, and the reads of a group come before its
// writes.
extern "C" __global__ void gather_rows(
    float* x, const uint32_t* rows, uint32_t n_rows, uint32_t n) {
    constexpr uint32_t GROUP = 8;
    pdl_wait();
    pdl_trigger();
    const uint32_t column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= n) return;
    for (uint32_t first = 0; first < n_rows; first += GROUP) {
        float held[GROUP];
#pragma unroll
        for (uint32_t j = 0; j < GROUP; ++j) {
            if (first + j < n_rows) held[j] = x[size_t(rows[first + j]) * n + column];
        }
#pragma unroll
        for (uint32_t j = 0; j < GROUP; ++j) {
            if (first + j < n_rows && rows[first + j] != first + j) {
                x[size_t(first + j) * n + column] = held[j];
            }
        }
    }
}
KERNEL_ENTRY(gather_rows)
