// Attention's tables and parameters, as attention/{tables,launch}.rs write them, and the way from
// positions to slots.
#pragma once
#include "kv.cuh"
#include "larder.cuh"

constexpr uint32_t NONE = 0xffffffffu;

// Work of one block: some rows of a lane (the query heads of a KV head, or 16 of them) against some
// positions. Vector v of a tile is row v / width, query head v % width of the lane.
struct AttendItem {
    uint32_t row;        // first row, in the table of rows
    uint32_t lane_rows;  // number of rows in the low 8 bits, the lane above
    uint32_t node;       // a node in which position end - 1 can be found
    uint32_t begin;      // the positions
    uint32_t end;
    uint32_t partial;    // first vector of the partial results; NONE: the output is written
    uint32_t min_position;  // of the rows
    uint32_t max_position;
};

// Positions from first_position on, and their runs in descending order. Earlier ones: the parent.
struct AttendNode {
    uint32_t first_position, first_run, n_runs, parent;
};

struct AttendRun {
    uint32_t first_position, slot;
};

struct AttendRow {
    uint32_t row, position;
};

// Rows of a lane, at most 16 vectors, whose output is merged from partial results.
struct AttendMerge {
    uint32_t row, lane_rows, first_part, n_parts;
};

// Partial results of the same vectors, n times, the first at vector `first`.
struct AttendPart {
    uint32_t first, n, stride;
};

// Byte offsets of a shape's tables in the image.
struct AttendHead {
    uint32_t nodes, runs, rows, padding, n_padding;
    uint32_t narrow_first, narrow_items, wide_first, wide_items;
    uint32_t merges, n_merges, parts;
    uint32_t unused[4];
};
static_assert(sizeof(AttendItem) == 32 && sizeof(AttendMerge) == 16, "tables.rs has the same");
static_assert(sizeof(AttendPart) == 12 && sizeof(AttendHead) == 64, "tables.rs has the same");

struct AttendParams {
    float* q;                     // [rows][n_heads * head_dim], and the output
    const unsigned char* tables;  // the image
    float2* stats;                // partial results by vector: largest score (times log2 e) and sum
    float* values;                // [vector][head_dim]: weighted sum of V
    KvRows kv;
    uint32_t shape_index;
    uint32_t n_heads;
    uint32_t group;               // query heads of a KV head
    uint32_t width;               // query heads of a lane
    uint32_t lanes_per_head;
    uint32_t window;              // 0: none
    uint32_t n_buffers;           // tiles of K or V in shared memory
    float scale;
    float softcap;                // 0: none
    uint32_t unused;
};
static_assert(sizeof(AttendParams) == 128, "launch.rs has the same struct");

template <class T>
__device__ __forceinline__ const T* attend_table(const AttendParams& p, uint32_t offset) {
    return reinterpret_cast<const T*>(p.tables + offset);
}

__device__ __forceinline__ const AttendHead& attend_head(const AttendParams& p) {
    return reinterpret_cast<const AttendHead*>(p.tables)[p.shape_index];
}

// Which query head of which row a vector is. Vectors behind the last row, and in a KV head's last
// lane those behind its last query head, are not there.
struct AttendVector {
    bool is_there;
    uint32_t position;
    size_t offset;  // of its elements in q
};

__device__ __forceinline__ AttendVector attend_vector(
    const AttendParams& p, const AttendRow* rows, uint32_t first_row, uint32_t lane_rows, uint32_t v) {
    const uint32_t lane = lane_rows >> 8, n_rows = lane_rows & 0xff;
    const uint32_t row = v / p.width;
    const uint32_t of_group = lane % p.lanes_per_head * p.width + v % p.width;
    if (row >= n_rows || of_group >= p.group) return {false, 0, 0};
    const AttendRow at = rows[first_row + row];
    const uint32_t head = lane / p.lanes_per_head * p.group + of_group;
    return {true, at.position, (size_t(at.row) * p.n_heads + head) * p.kv.head_dim};
}

// From positions to slots, for one thread that asks for ascending positions of one item: most are
// in the run of the one before.
struct AttendSlots {
    uint32_t limit = 0;  // positions below are in the run
    uint32_t distance;   // from position to slot in the run, modulo 2^32

    __device__ __forceinline__ uint32_t slot(
        const AttendParams& p, const AttendHead& head, const AttendItem& item, uint32_t position) {
        if (position >= limit) find(p, head, item, position);
        return position + distance;
    }

    __device__ __forceinline__ void find(
        const AttendParams& p, const AttendHead& head, const AttendItem& item, uint32_t position) {
        const AttendNode* nodes = attend_table<AttendNode>(p, head.nodes);
        const AttendRun* runs = attend_table<AttendRun>(p, head.runs);
        limit = item.end;
        AttendNode node = nodes[item.node];
        while (position < node.first_position && node.parent != NONE) {
            limit = min(limit, node.first_position);
            node = nodes[node.parent];
        }
        // The first run that does not begin behind the position.
        uint32_t low = 0, high = node.n_runs - 1;
        while (low < high) {
            const uint32_t middle = (low + high) / 2;
            if (runs[node.first_run + middle].first_position <= position) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        if (low > 0) limit = min(limit, runs[node.first_run + low - 1].first_position);
        const AttendRun run = runs[node.first_run + low];
        distance = run.slot - run.first_position;
    }
};

// A score in units of log2, ready for exp2, from q . k.
__device__ __forceinline__ float attend_score(const AttendParams& p, float product) {
    constexpr float LOG2_E = 1.4426950408889634f;
    const float score = product * p.scale;
    if (p.softcap == 0.0f) return score * LOG2_E;
    return p.softcap * LOG2_E * tanhf(score / p.softcap);
}

__device__ __forceinline__ bool attend_sees(
    const AttendParams& p, uint32_t query_position, uint32_t key_position) {
    if (key_position > query_position) return false;
    return p.window == 0 || query_position - key_position < p.window;
}

// What a score is compared with: the largest one, or anything finite when there is none.
__device__ __forceinline__ float attend_base(float largest) {
    return largest == -INFINITY ? 0.0f : largest;
}
