// The table of RoPE of a batch: cos and sin of every row's angles.
#include "larder.cuh"

// table[row][i] = (cos, sin)(positions[row] * frequencies[i]) * magnitude
extern "C" __global__ void rope_table(
    const uint32_t* positions, const float* frequencies, float2* table, uint32_t n_rows,
    uint32_t n_pairs, float magnitude) {
    pdl_wait();
    pdl_trigger();
    const size_t at = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= size_t(n_rows) * n_pairs) return;
    const float position = float(positions[at / n_pairs]);
    float sine, cosine;
    sincosf(position * frequencies[at % n_pairs], &sine, &cosine);
    table[at] = make_float2(cosine * magnitude, sine * magnitude);
}
KERNEL_ENTRY(rope_table)
