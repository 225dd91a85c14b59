// Rows of the embedding table, decoded: one block per row of the batch, four lanes per chunk.
#include "larder.cuh"
#include "weights.cuh"

template <class F>
__device__ __forceinline__ void embed_body(
    const Weights& table, const uint32_t* ids, float scale, float* x) {
    pdl_wait();
    pdl_trigger();
    const uint32_t id = ids[blockIdx.x], t = threadIdx.x % 4, n_in = table.n_in;
    const Run run = run_of<F>(table, id, 1);
    const float factor = scale * row_scale<F>(table, id);
    float* to = x + size_t(blockIdx.x) * n_in;
    const uint32_t n_chunks = ceil_div(n_in, F::CHUNK);
    for (uint32_t chunk = threadIdx.x / 4; chunk < n_chunks; chunk += blockDim.x / 4) {
        const typename F::Held held = F::load(run, 0, chunk, t);
#pragma unroll
        for (int piece = 0; piece < F::PIECES; ++piece) {
            float numbers[8];
            F::values(held, piece, numbers);
            const float offset = F::offset(held, chunk, piece);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const uint32_t k = element_of<F>(chunk, piece, j / 4, t) + j % 4;
                const float block = F::SCALES == 0 ? 1.0f : F::scale(held, chunk, piece, j / 4);
                if (k < n_in) to[k] = (numbers[j] * block - offset) * factor;
            }
        }
    }
}

#define EMBED_KERNEL(format, reader)                                                               \
    extern "C" __global__ void __launch_bounds__(128) embed_##format(                              \
        const __grid_constant__ Weights table, const uint32_t* ids, float scale, float* x) {       \
        embed_body<reader>(table, ids, scale, x);                                                  \
    }                                                                                              \
    KERNEL_ENTRY(embed_##format)

EMBED_KERNEL(f32, ReadF32)
EMBED_KERNEL(f16, ReadF16)
EMBED_KERNEL(bf16, ReadBF16)
EMBED_KERNEL(f8e4m3, ReadF8E4M3)
EMBED_KERNEL(i8, ReadI8)
EMBED_KERNEL(q8_0, ReadQ8_0)
EMBED_KERNEL(q4_0, ReadQ4_0)
EMBED_KERNEL(q4_k, ReadQ4_K)
EMBED_KERNEL(q6_k, ReadQ6_K)
