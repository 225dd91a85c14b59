// Masks, biases and penalties, in place: a thread for each logit or edit.
#include "sample.cuh"

constexpr uint32_t FOLLOWS = 0x80000000u;  // mark of an edit that an earlier one of the same token leads to

// Grid (tokens / 256, masked rows). A mask is the number of its row and a bit for each token that stays.
extern "C" __global__ void __launch_bounds__(256) sample_masks(
    float* logits, const uint32_t* masks, uint32_t mask_words, uint32_t vocab) {
    pdl_wait();
    pdl_trigger();
    const uint32_t token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token >= vocab) return;
    masks += size_t(blockIdx.y) * mask_words;
    if ((masks[1 + token / 32] >> (token % 32) & 1) == 0) logits[size_t(masks[0]) * vocab + token] = -INFINITY;
}
KERNEL_ENTRY(sample_masks)

// The biases of one token are a chain; the thread of the first adds them all, in their order.
extern "C" __global__ void __launch_bounds__(256) sample_biases(
    float* logits, const SampleRow* rows, const SampleEdit* edits, uint32_t first, uint32_t n, uint32_t vocab) {
    pdl_wait();
    pdl_trigger();
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    SampleEdit edit = edits[first + i];
    if (edit.row & FOLLOWS) return;
    float* logit = logits + size_t(edit.row) * vocab + edit.token;
    float value = *logit + edit.amount;
    while (edit.link != 0) {
        edit = edits[edit.link - 1];
        value += edit.amount;
    }
    *logit = value;
}
KERNEL_ENTRY(sample_biases)

// The tokens of a row's penalties are distinct.
extern "C" __global__ void __launch_bounds__(256) sample_penalties(
    float* logits, const SampleRow* rows, const SampleEdit* edits, uint32_t first, uint32_t n, uint32_t vocab) {
    pdl_wait();
    pdl_trigger();
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const SampleEdit edit = edits[first + i];
    const float repetition = rows[edit.row].repetition;
    float* logit = logits + size_t(edit.row) * vocab + edit.token;
    // Rounded one by one, as without fused multiply-add.
    const float value = *logit > 0.0f ? *logit / repetition : __fmul_rn(*logit, repetition);
    *logit = __fsub_rn(value, edit.amount);
}
KERNEL_ENTRY(sample_penalties)
