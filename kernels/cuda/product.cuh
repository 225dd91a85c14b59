// What gemv and small have in common: their argument, which rows of which matrices a block computes, and what is done
// with the sums.
//
// A block computes some units. A unit is two runs of neighbouring rows of R / 2 each: of one matrix, of gate and up,
// or of one head in such a way that RoPE's pairs are together. `k_split` warps share a unit, each with its part of the
// columns; their sums meet in shared memory and are added in order.
#pragma once
#include "finish.cuh"
#include "weights.cuh"

enum ProductKind : uint32_t {
    PRODUCT_STORE = 0,
    PRODUCT_RESIDUAL = 1,
    PRODUCT_GATED = 2,  // weights 0 is the gate's, 1 up's
    PRODUCT_PAIRS = 3,  // q, k, v: a head may be spread over blocks
    PRODUCT_HEADS = 4,  // q, k, v: a block has one head
};

enum ActType : uint32_t { ACT_F32 = 0, ACT_F16 = 1, ACT_BF16 = 2 };

struct Product {
    Weights weights[3];
    QkvFinish heads;           // of PAIRS and HEADS
    Finish finish;             // of the others
    const void* input;         // [n_rows][n_in]
    const float* norm_weight;  // gemv only: f32 [n_in] of the RMS norm in front; null: none
    float norm_eps;
    uint32_t n_rows;
    uint32_t kind;     // ProductKind
    uint32_t out_act;  // ActType, gated only
    uint32_t k_split;
    uint32_t block_units;
};
static_assert(sizeof(Product) == 144 + sizeof(QkvFinish) + 40 + 40, "product.rs has the same struct");

struct Unit {
    uint32_t matrix[2];  // of each run
    uint32_t first[2];   // the runs' first rows
    uint32_t head;       // of q, k, v together (PAIRS, HEADS)
    uint32_t element[2]; // of the head, where the runs begin
};

// The matrix that head `head` of a launch is in; head becomes its number there.
__device__ __forceinline__ uint32_t matrix_of_head(const Product& p, uint32_t& head) {
    const uint32_t dim = p.heads.kv.head_dim;
    const uint32_t n0 = p.weights[0].n_out / dim, n1 = p.weights[1].n_out / dim;
    if (head < n0) return 0;
    head -= n0;
    if (head < n1) return 1;
    head -= n1;
    return 2;
}

template <int R> __device__ __forceinline__ Unit unit_of(const Product& p, uint32_t index) {
    Unit unit = {};
    if (p.kind == PRODUCT_GATED) {
        unit.matrix[1] = 1;
        unit.first[0] = unit.first[1] = index * (R / 2);
        return unit;
    }
    if (p.kind < PRODUCT_GATED) {
        unit.first[0] = index * R;
        unit.first[1] = index * R + R / 2;
        return unit;
    }
    const uint32_t dim = p.heads.kv.head_dim, per_head = ceil_div(dim, uint32_t(R));
    const uint32_t within = index % per_head, half = p.heads.rope_dim / 2;
    uint32_t head = index / per_head;
    const uint32_t matrix = matrix_of_head(p, head);
    unit.matrix[0] = unit.matrix[1] = matrix;
    unit.element[0] = within * R;
    unit.element[1] = within * R + R / 2;
    const bool halves = p.kind == PRODUCT_PAIRS && p.heads.rope_pairs == ROPE_HALVES;
    if (halves && within * R < p.heads.rope_dim) {
        unit.element[0] = within * (R / 2);
        unit.element[1] = within * (R / 2) + half;
    }
    unit.first[0] = head * dim + unit.element[0];
    unit.first[1] = head * dim + unit.element[1];
    unit.head = p.heads.first_head[matrix] + head;
    return unit;
}

// ---- Sums in shared memory: [k_split][rows][width], of which a unit has R neighbours ----

struct Sums {
    float* at;
    uint32_t rows;
    uint32_t width;
    uint32_t parts;

    __device__ __forceinline__ float* place(uint32_t part, uint32_t row, uint32_t column) const {
        return at + (part * rows + row) * width + column;
    }
    __device__ __forceinline__ float total(uint32_t row, uint32_t column) const {
        float sum = *place(0, row, column);
        for (uint32_t part = 1; part < parts; ++part) sum += *place(part, row, column);
        return sum;
    }
};

template <int R>
__device__ __forceinline__ Sums sums_of(const Product& p, float* shared, uint32_t rows) {
    // The 4 keep the lanes of an MMA tile in different banks.
    return {shared, rows, p.block_units * R + 4, p.k_split};
}

// The factor of a row of weights.
__device__ __forceinline__ float factor_of(const Weights& w, uint32_t row) {
    const bool scaled = w.format == FORMAT_F8E4M3 || w.format == FORMAT_I8;
    return scaled ? reinterpret_cast<const float*>(w.planes[1])[row] : 1.0f;
}

// ---- Endings ----

// What the sums of a row of the input are multiplied by; no factors: 1.
__device__ __forceinline__ float row_factor(const float* factors, uint32_t row) {
    return factors ? factors[row] : 1.0f;
}

__device__ __forceinline__ void store_kv_element(
    const KvRows& kv, uint32_t slot, uint32_t head, bool is_v, uint32_t i, float value) {
    unsigned char* at = kv_row(kv, slot) + kv_head_offset(kv, head, is_v);
    const uint32_t kind = kv_kind(kv, is_v);
    if (kind == KV_F32)
        reinterpret_cast<float*>(at)[i] = value;
    else if (kind == KV_F16)
        reinterpret_cast<__half*>(at)[i] = kv_to_f16(value);
    else
        reinterpret_cast<bf16*>(at)[i] = __float2bfloat16_rn(value);
}

// Bias and RoPE for two elements of a head; then q to its place, K or V to the row's slot.
__device__ __forceinline__ void finish_pair(
    const QkvFinish& f, uint32_t row, uint32_t head, uint32_t i, uint32_t j, float a, float b) {
    const uint32_t dim = f.kv.head_dim, n_kv = f.kv.n_kv_heads;
    const uint32_t kind = head < f.n_heads ? 0 : head < f.n_heads + n_kv ? 1 : 2;
    const uint32_t own = head - (kind == 0 ? 0 : kind == 1 ? f.n_heads : f.n_heads + n_kv);
    const float* bias = kind == 0 ? f.bias[0] : kind == 1 ? f.bias[1] : f.bias[2];
    if (bias) {
        a += bias[own * dim + i];
        b += bias[own * dim + j];
    }
    if (kind < 2 && f.rope_table && i < f.rope_dim) {
        const uint32_t pair = f.rope_pairs == ROPE_ADJACENT ? i / 2 : i;
        const float2* table = reinterpret_cast<const float2*>(f.rope_table);
        const float2 turn = table[size_t(row) * (f.rope_dim / 2) + pair];
        const float turned = a * turn.x - b * turn.y;
        b = b * turn.x + a * turn.y;
        a = turned;
    }
    if (kind == 0) {
        float* q = f.q + (size_t(row) * f.n_heads + own) * dim;
        q[i] = a;
        q[j] = b;
        return;
    }
    store_kv_element(f.kv, f.slots[row], own, kind == 2, i, a);
    store_kv_element(f.kv, f.slots[row], own, kind == 2, j, b);
}

// Two results: of column `column[0]` and `column[1]`, or of gate and up.
__device__ __forceinline__ void finish_two(
    const Product& p, uint32_t row, const uint32_t (&column)[2], float a, float b) {
    const uint32_t n_out = p.weights[0].n_out;
    if (p.kind == PRODUCT_GATED) {
        if (column[0] >= n_out) return;
        if (p.out_act == ACT_F32)
            finish_gated<float>(p.finish, row, column[0], a, b);
        else if (p.out_act == ACT_F16)
            finish_gated<f16>(p.finish, row, column[0], a, b);
        else
            finish_gated<bf16>(p.finish, row, column[0], a, b);
    } else if (p.kind == PRODUCT_STORE) {
        if (column[0] < n_out) finish_store(p.finish, row, column[0], a);
        if (column[1] < n_out) finish_store(p.finish, row, column[1], b);
    } else {
        if (column[0] < n_out) finish_residual(p.finish, row, column[0], a);
        if (column[1] < n_out) finish_residual(p.finish, row, column[1], b);
    }
}

// One head for every row: all of the block's sums.
template <int R>
__device__ __forceinline__ void finish_block_head(
    const Product& p, const Sums& sums, const float* row_factors) {
    const uint32_t dim = p.heads.kv.head_dim;
    const Unit unit = unit_of<R>(p, blockIdx.x * p.block_units);
    const Weights& w = p.weights[unit.matrix[0]];
    for (uint32_t i = threadIdx.x; i < dim * p.n_rows; i += blockDim.x) {
        const uint32_t row = i / dim, column = i % dim;
        const float factor = row_factor(row_factors, row) * factor_of(w, unit.first[0] + column);
        *sums.place(0, row, column) = sums.total(row, column) * factor;
    }
    __syncthreads();
    for (uint32_t row = threadIdx.x / 32; row < p.n_rows; row += blockDim.x / 32)
        finish_head(p.heads, row, unit.head, sums.place(0, row, 0));
}

// Everything behind the sums and the rows' factors, which lie in shared memory and are synchronised.
// Not inlined: one copy serves all kernels of a file.
template <int R>
__device__ __noinline__ void finish_block(
    const Product& p, Sums sums, const float* row_factors) {
    if (p.kind == PRODUCT_HEADS) return finish_block_head<R>(p, sums, row_factors);
    const bool adjacent = p.kind == PRODUCT_PAIRS && p.heads.rope_pairs == ROPE_ADJACENT;
    constexpr uint32_t HALF = R / 2;
    for (uint32_t i = threadIdx.x; i < p.block_units * HALF * p.n_rows; i += blockDim.x) {
        const uint32_t pair = i % HALF, u = i / HALF % p.block_units;
        const uint32_t row = i / HALF / p.block_units;
        const Unit unit = unit_of<R>(p, blockIdx.x * p.block_units + u);
        const Weights &first = p.weights[unit.matrix[0]], &second = p.weights[unit.matrix[1]];
        // Places in the unit, and rows of the matrices, of the two results.
        const uint32_t place[2] = {adjacent ? 2 * pair : pair,
                                   adjacent ? 2 * pair + 1 : pair + HALF};
        const uint32_t column[2] = {unit.first[0] + place[0],
                                    adjacent ? unit.first[0] + place[1] : unit.first[1] + pair};
        if (column[0] >= first.n_out) continue;
        const float factor = row_factor(row_factors, row);
        const float a = sums.total(row, u * R + place[0]) * factor * factor_of(first, column[0]);
        const float b = sums.total(row, u * R + place[1]) * factor *
                        factor_of(second, min(column[1], second.n_out - 1));
        if (p.kind == PRODUCT_PAIRS) {
            const uint32_t j = adjacent ? unit.element[0] + place[1] : unit.element[1] + pair;
            finish_pair(p.heads, row, unit.head, unit.element[0] + place[0], j, a, b);
        } else {
            finish_two(p, row, column, a, b);
        }
    }
}
