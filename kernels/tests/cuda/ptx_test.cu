// One small kernel for each name of ptx.cuh: tests/ptx.rs compares what they give with plain arithmetic, on the
// emulator and on a GPU.
#include "larder.cuh"

// a [16][16] and b [8][16] (k is the inner dimension of both) of 16-bit elements; d [16][8] is read and written.
template <class Multiply>
__device__ void mma_k16_body(const uint32_t* a, const uint32_t* b, float* d, Multiply multiply) {
    pdl_wait();
    const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    const uint32_t a_fragment[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
    const uint32_t b_fragment[2] = {b[g * 8 + t], b[g * 8 + t + 4]};
    float sums[4] = {d[g * 8 + t * 2], d[g * 8 + t * 2 + 1], d[(g + 8) * 8 + t * 2], d[(g + 8) * 8 + t * 2 + 1]};
    multiply(sums, a_fragment, b_fragment);
    d[g * 8 + t * 2] = sums[0];
    d[g * 8 + t * 2 + 1] = sums[1];
    d[(g + 8) * 8 + t * 2] = sums[2];
    d[(g + 8) * 8 + t * 2 + 1] = sums[3];
}

struct MultiplyBf16 {
    __device__ void operator()(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_bf16(d, a, b); }
};
struct MultiplyF16 {
    __device__ void operator()(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_f16(d, a, b); }
};

extern "C" __global__ void test_mma_bf16(const uint32_t* a, const uint32_t* b, float* d) {
    mma_k16_body(a, b, d, MultiplyBf16());
}
KERNEL_ENTRY(test_mma_bf16)

extern "C" __global__ void test_mma_f16(const uint32_t* a, const uint32_t* b, float* d) {
    mma_k16_body(a, b, d, MultiplyF16());
}
KERNEL_ENTRY(test_mma_f16)

// a [16][8] and b [8][8], both with k as the inner dimension.
extern "C" __global__ void test_mma_tf32(const uint32_t* a, const uint32_t* b, float* d) {
    pdl_wait();
    const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    const uint32_t a_fragment[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
    const uint32_t b_fragment[2] = {b[g * 8 + t], b[g * 8 + t + 4]};
    float sums[4] = {d[g * 8 + t * 2], d[g * 8 + t * 2 + 1], d[(g + 8) * 8 + t * 2], d[(g + 8) * 8 + t * 2 + 1]};
    mma_tf32(sums, a_fragment, b_fragment);
    d[g * 8 + t * 2] = sums[0];
    d[g * 8 + t * 2 + 1] = sums[1];
    d[(g + 8) * 8 + t * 2] = sums[2];
    d[(g + 8) * 8 + t * 2 + 1] = sums[3];
}
KERNEL_ENTRY(test_mma_tf32)

// Four matrices of 8 x 8 16-bit elements, [32][8]; for each of x4, x4 trans, x2, x2 trans the registers of every lane:
// [32][12].
extern "C" __global__ void test_ldmatrix(const uint4* rows, uint32_t* registers) {
    __shared__ uint4 staged[32];
    pdl_wait();
    const int lane = threadIdx.x;
    staged[lane] = rows[lane];
    __syncwarp();
    uint32_t plain[4], transposed[4], plain_2[2], transposed_2[2];
    ldmatrix_x4(plain, &staged[lane]);
    ldmatrix_x4_trans(transposed, &staged[lane]);
    ldmatrix_x2(plain_2, &staged[lane % 16]);
    ldmatrix_x2_trans(transposed_2, &staged[lane % 16]);
    uint32_t* mine = registers + lane * 12;
    for (int i = 0; i < 4; ++i) {
        mine[i] = plain[i];
        mine[4 + i] = transposed[i];
    }
    for (int i = 0; i < 2; ++i) {
        mine[8 + i] = plain_2[i];
        mine[10 + i] = transposed_2[i];
    }
}
KERNEL_ENTRY(test_ldmatrix)

// Copies blockDim.x pieces of 16 bytes, then as many of 4, in two groups; those from `n_valid` on come out as zeros.
extern "C" __global__ void test_cp_async(const uint4* from, const uint32_t* from_words, uint4* to, uint32_t* to_words,
                                         uint32_t n_valid) {
    DYN_SMEM(uint4, pieces);
    uint32_t* words = reinterpret_cast<uint32_t*>(pieces + blockDim.x);
    pdl_wait();
    const uint32_t i = threadIdx.x, other = blockDim.x - 1 - i;
    const bool valid = i < n_valid;
    cp_async16(pieces + i, from + (valid ? i : 0), valid);
    cp_async_commit();
    cp_async4(words + i, from_words + (valid ? i : 0), valid);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    to[other] = pieces[other];
    cp_async_wait<0>();
    __syncthreads();
    to_words[other] = words[other];
}
KERNEL_ENTRY(test_cp_async)

extern "C" __global__ void test_load_streaming(const uint4* from, uint4* to) {
    prefetch_l2(from + threadIdx.x);
    pdl_wait();
    pdl_trigger();
    to[threadIdx.x] = load_streaming(from + threadIdx.x);
}
KERNEL_ENTRY(test_load_streaming)

// The sum and the maximum of each block's values, by every thread.
extern "C" __global__ void test_block_reductions(const float* values, float* sums, float* maxima) {
    __shared__ float scratch[32];
    pdl_wait();
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    sums[i] = block_sum(values[i], scratch);
    maxima[i] = block_max(values[i], scratch);
}
KERNEL_ENTRY(test_block_reductions)
