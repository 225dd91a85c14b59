// The gate of an MLP over act rows that came out of two products.
#include "larder.cuh"
#include "finish.cuh"

// Gate and up, and the row of what becomes of them; out may be gate.
struct GateRows {
    const void* gate;      // act rows [rows][leading]
    const void* up;        // act rows [rows][leading]
    const float* bias;     // of the gate, f32 [n]; null: none
    const float* up_bias;  // null: none
    void* out;             // act rows [rows][out_leading]
    uint32_t leading;
    uint32_t out_leading;
    uint32_t n;
    uint32_t activation;
};
static_assert(sizeof(GateRows) == 56, "norm.rs has the same struct");

// out = activation(gate + bias) * (up + up_bias)
template <class Act>
__device__ __forceinline__ void gate_act_body(const GateRows& rows) {
    constexpr uint32_t WIDE = 16 / sizeof(Act);
    pdl_wait();
    pdl_trigger();
    const size_t row = blockIdx.y;
    const Act* gate = static_cast<const Act*>(rows.gate) + row * rows.leading;
    const Act* up = static_cast<const Act*>(rows.up) + row * rows.leading;
    const Finish finish = {rows.out, rows.bias, rows.up_bias, rows.out_leading, rows.activation,
                           1.0f, 0.0f};
    const uint32_t first = (blockIdx.x * blockDim.x + threadIdx.x) * WIDE;
    if (first >= rows.n) return;
    if ((rows.leading | rows.out_leading | rows.n) % WIDE == 0) {
        union Piece { uint4 words; Act values[WIDE]; __device__ Piece() {} };
        Piece gates, ups;
        gates.words = *reinterpret_cast<const uint4*>(gate + first);
        ups.words = *reinterpret_cast<const uint4*>(up + first);
#pragma unroll
        for (uint32_t j = 0; j < WIDE; ++j) {
            gates.values[j] = to_act<Act>(gated(
                finish, first + j, from_act(gates.values[j]), from_act(ups.values[j])));
        }
        Act* out = static_cast<Act*>(rows.out) + row * rows.out_leading + first;
        *reinterpret_cast<uint4*>(out) = gates.words;
    } else {
        for (uint32_t i = first; i < min(first + WIDE, rows.n); ++i) {
            finish_gated<Act>(finish, row, i, from_act(gate[i]), from_act(up[i]));
        }
    }
}

#define GATE_ACT(name, act)                                                               \
    extern "C" __global__ void __launch_bounds__(256) name(GateRows rows) {               \
        gate_act_body<act>(rows);                                                         \
    }                                                                                     \
    KERNEL_ENTRY(name)
GATE_ACT(gate_act_bf16, __nv_bfloat16)
GATE_ACT(gate_act_f16, __half)
GATE_ACT(gate_act_f32, float)
