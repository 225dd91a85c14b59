// Bias, norm and RoPE of q that came raw out of a product, in place: one warp per head of a row.
#include "larder.cuh"
#include "finish.cuh"

constexpr uint32_t HEADS_PER_BLOCK = 4;

extern "C" __global__ void __launch_bounds__(32 * HEADS_PER_BLOCK) finish_q(QkvFinish finish) {
    __shared__ float values[HEADS_PER_BLOCK][MAX_HEAD_DIM];
    pdl_wait();
    pdl_trigger();
    const uint32_t warp = threadIdx.x / 32, head = blockIdx.y * HEADS_PER_BLOCK + warp;
    if (head >= finish.n_heads) return;
    const uint32_t dim = finish.kv.head_dim;
    const float* q = finish.q + (size_t(blockIdx.x) * finish.n_heads + head) * dim;
    for (uint32_t i = threadIdx.x % 32; i < dim; i += 32) values[warp][i] = q[i];
    __syncwarp();
    finish_head(finish, blockIdx.x, head, values[warp]);
}
KERNEL_ENTRY(finish_q)
