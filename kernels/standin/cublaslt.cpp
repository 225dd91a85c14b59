// A stand-in for libcublasLt, for tests without a GPU: the calls that larder uses, with products by plain loops on
// the stand-in libcuda's streams. Stricter than the real library where larder's promises are concerned: addresses
// have to lie in live device memory, and the workspace is overwritten.

#include "cublaslt_matrix.h"
#include "world.h"

#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

namespace {

enum Status { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, INTERNAL_ERROR = 14, NOT_SUPPORTED = 15 };

// The attributes' numbers, as documented.
enum { TRANSPOSE_A = 3, TRANSPOSE_B = 4 };
enum { LAYOUT_COLUMNS = 3 };
enum { MAX_WORKSPACE = 1, REDUCTION_MASK = 3, ALIGNMENT_A = 5, ALIGNMENT_D = 8 };
enum { COMPUTE_F32 = 68, TRANSPOSED = 1, CUDA_R_32F_SCALE = 0 };

constexpr uint64_t VERSION = 130000;
constexpr uint64_t ALGORITHM_MAGIC = 0x6d6c746c616c6172;

struct Operation {
    int transpose_a = 0;
    int transpose_b = 0;
};

struct Preference {
    uint64_t max_workspace = 0;
    uint32_t reductions = 0;
    uint32_t alignment = 256;
};

// Fits the 64 opaque bytes of cublasLtMatmulAlgo_t.
struct Algorithm {
    uint64_t magic;
    uint64_t workspace;
    uint64_t alignment;
    uint64_t rest[5];
};

struct HeuristicResult {
    Algorithm algorithm;
    size_t workspace;
    Status state;
    float waves;
    int reserved[4];
};

static_assert(sizeof(Algorithm) == 64 && sizeof(HeuristicResult) == 96, "as in cublasLt.h");

// What tests set, each for its own thread.
struct Settings {
    uint64_t workspace = 8192;     // what the best algorithm needs
    bool honours_limit = true;     // whether the heuristic looks at the most workspace allowed
    uint64_t refused_columns = 0;  // a row count that no check accepts
    std::map<std::string, uint64_t> calls;
};

Settings& settings() {
    static thread_local Settings mine;
    return mine;
}

// The world that each living object belongs to.
struct Objects {
    std::mutex mutex;
    std::map<const void*, int> worlds;
};

Objects& objects() {
    // Never destroyed: drops at the end of the process still destroy descriptors.
    static auto* all = new Objects;
    return *all;
}

// Notes a call; true when it is the one that a test wants to fail.
bool must_fail(const char* name) {
    settings().calls[name] += 1;
    return standin::count_call() != CUDA_SUCCESS;
}

template <typename T>
Status create(void** place, T* made) {
    std::lock_guard<std::mutex> lock(objects().mutex);
    objects().worlds[made] = standin::world().id;
    *place = made;
    return SUCCESS;
}

// Destroys in any case, and then fails if it is to.
template <typename T>
Status destroy(const char* name, void* object) {
    const bool fails = must_fail(name);
    std::lock_guard<std::mutex> lock(objects().mutex);
    if (objects().worlds.erase(object) == 0) return INVALID_VALUE;
    delete static_cast<T*>(object);
    return fails ? INTERNAL_ERROR : SUCCESS;
}

bool is_live(const void* object) {
    std::lock_guard<std::mutex> lock(objects().mutex);
    return objects().worlds.count(object) != 0;
}

// A product that waits in a stream.
struct Product {
    Matrix a, b, c;
    const void* a_data;
    const void* b_data;
    void* c_data;
    float alpha, beta;
    void* workspace;
    uint64_t workspace_bytes;

    bool memory_is_live(standin::World& world) const {
        auto is_device = [&](const void* address, uint64_t bytes) {
            return world.is_device_range(reinterpret_cast<uintptr_t>(address), bytes);
        };
        return is_device(a_data, a.bytes()) && is_device(b_data, b.bytes()) && is_device(c_data, c.bytes()) &&
               (workspace_bytes == 0 || is_device(workspace, workspace_bytes));
    }

    // c [n_out x rows] = alpha * a [n_in x n_out] transposed * b [n_in x rows] + beta * c
    void run() const {
        memset(workspace, 0xff, workspace_bytes);
        for (uint64_t row = 0; row < c.columns; ++row) {
            for (uint64_t out = 0; out < c.rows; ++out) {
                float sum = 0;
                for (uint64_t i = 0; i < a.rows; ++i) sum += a.load(a_data, i, out) * b.load(b_data, i, row);
                float before = beta == 0 ? 0 : beta * c.load(c_data, out, row);
                c.store(c_data, out, row, alpha * sum + before);
            }
        }
    }
};

// Why a product cannot be done; SUCCESS if it can.
Status verdict(const void* operation, const void* a, const void* b, const void* c, const void* d) {
    for (const void* object : {operation, a, b, c, d}) {
        if (!is_live(object)) return INVALID_VALUE;
    }
    const auto& op = *static_cast<const Operation*>(operation);
    const auto &ma = *static_cast<const Matrix*>(a), &mb = *static_cast<const Matrix*>(b);
    const auto &mc = *static_cast<const Matrix*>(c), &md = *static_cast<const Matrix*>(d);
    if (op.transpose_a != TRANSPOSED || op.transpose_b != 0) return NOT_SUPPORTED;
    if (!ma.is_valid() || !mb.is_valid() || !mc.is_valid() || !md.is_valid()) return INVALID_VALUE;
    if (ma.rows != mb.rows || md.rows != ma.columns || md.columns != mb.columns) return INVALID_VALUE;
    if (mc.rows != md.rows || mc.columns != md.columns || mc.type != md.type) return INVALID_VALUE;
    if (ma.type != mb.type || ma.type == R_32F) return NOT_SUPPORTED;
    if (md.type != R_32F && md.type != ma.type) return NOT_SUPPORTED;
    return SUCCESS;
}

}  // namespace

STANDIN_API size_t cublasLtGetVersion() { return VERSION; }

STANDIN_API const char* cublasLtGetStatusString(Status status) {
    switch (status) {
        case SUCCESS: return "success";
        case INVALID_VALUE: return "an invalid value";
        case EXECUTION_FAILED: return "the execution failed";
        case INTERNAL_ERROR: return "an internal error, as asked for";
        case NOT_SUPPORTED: return "not supported";
    }
    return "unknown";
}

STANDIN_API Status cublasLtCreate(void** handle) {
    if (must_fail(__func__)) return INTERNAL_ERROR;
    return create(handle, new int(0));
}

STANDIN_API Status cublasLtDestroy(void* handle) { return destroy<int>(__func__, handle); }

STANDIN_API Status cublasLtMatmulDescCreate(void** operation, int compute, int scale) {
    if (must_fail(__func__)) return INTERNAL_ERROR;
    if (compute != COMPUTE_F32 || scale != CUDA_R_32F_SCALE) return NOT_SUPPORTED;
    return create(operation, new Operation);
}

STANDIN_API Status cublasLtMatmulDescDestroy(void* operation) { return destroy<Operation>(__func__, operation); }

STANDIN_API Status cublasLtMatmulDescSetAttribute(void* operation, int which, const void* value, size_t bytes) {
    if (must_fail(__func__)) return INTERNAL_ERROR;
    if (!is_live(operation) || bytes != sizeof(int)) return INVALID_VALUE;
    int* place = which == TRANSPOSE_A   ? &static_cast<Operation*>(operation)->transpose_a
                 : which == TRANSPOSE_B ? &static_cast<Operation*>(operation)->transpose_b
                                        : nullptr;
    if (place == nullptr) return NOT_SUPPORTED;
    memcpy(place, value, bytes);
    return SUCCESS;
}

STANDIN_API Status cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    if (must_fail(__func__)) return INTERNAL_ERROR;
    return create(layout, new Matrix{type, rows, columns, ld});
}

STANDIN_API Status cublasLtMatrixLayoutDestroy(void* layout) { return destroy<Matrix>(__func__, layout); }

STANDIN_API Status cublasLtMatrixLayoutSetAttribute(void* layout, int which, const void* value, size_t bytes) {
    if (must_fail(__func__)) return INTERNAL_ERROR;
    if (!is_live(layout) || which != LAYOUT_COLUMNS || bytes != sizeof(uint64_t)) return INVALID_VALUE;
    memcpy(&static_cast<Matrix*>(layout)->columns, value, bytes);
    return SUCCESS;
}

STANDIN_API Status cublasLtMatmulPreferenceCreate(void** preference) {
    if (must_fail(__func__)) return INTERNAL_ERROR;
    return create(preference, new Preference);
}

STANDIN_API Status cublasLtMatmulPreferenceDestroy(void* preference) { return destroy<Preference>(__func__, preference); }

STANDIN_API Status cublasLtMatmulPreferenceSetAttribute(void* preference, int which, const void* value, size_t bytes) {
    if (must_fail(__func__)) return INTERNAL_ERROR;
    if (!is_live(preference)) return INVALID_VALUE;
    auto& it = *static_cast<Preference*>(preference);
    if (which == MAX_WORKSPACE && bytes == sizeof it.max_workspace) {
        memcpy(&it.max_workspace, value, bytes);
    } else if (which == REDUCTION_MASK && bytes == sizeof it.reductions) {
        memcpy(&it.reductions, value, bytes);
    } else if (which >= ALIGNMENT_A && which <= ALIGNMENT_D && bytes == sizeof it.alignment) {
        memcpy(&it.alignment, value, bytes);
    } else {
        return INVALID_VALUE;
    }
    return SUCCESS;
}

// Two algorithms: a fast one with a workspace, and a slower one without.
STANDIN_API Status cublasLtMatmulAlgoGetHeuristic(void* handle, void* operation, void* a, void* b, void* c, void* d,
                                             void* preference, int n_wanted, HeuristicResult* results, int* n_found) {
    if (must_fail(__func__)) return INTERNAL_ERROR;
    *n_found = 0;
    if (!is_live(handle) || !is_live(preference)) return INVALID_VALUE;
    if (Status status = verdict(operation, a, b, c, d)) return status;
    const auto& wishes = *static_cast<const Preference*>(preference);
    for (uint64_t workspace : {settings().workspace, uint64_t(0)}) {
        if (settings().honours_limit && workspace > wishes.max_workspace) continue;
        if (*n_found == n_wanted) break;
        Algorithm algorithm = {ALGORITHM_MAGIC, workspace, wishes.alignment, {}};
        results[(*n_found)++] = {algorithm, workspace, SUCCESS, 1.0f, {}};
    }
    return *n_found == 0 ? NOT_SUPPORTED : SUCCESS;
}

STANDIN_API Status cublasLtMatmulAlgoCheck(void* handle, void* operation, void* a, void* b, void* c, void* d,
                                      const Algorithm* algorithm, HeuristicResult* result) {
    if (must_fail(__func__)) return INTERNAL_ERROR;
    if (!is_live(handle) || algorithm->magic != ALGORITHM_MAGIC) return INVALID_VALUE;
    if (Status status = verdict(operation, a, b, c, d)) return status;
    if (static_cast<const Matrix*>(d)->columns == settings().refused_columns) return NOT_SUPPORTED;
    *result = {*algorithm, algorithm->workspace, SUCCESS, 1.0f, {}};
    return SUCCESS;
}

STANDIN_API Status cublasLtMatmul(void* handle, void* operation, const float* alpha, const void* a_data, void* a,
                             const void* b_data, void* b, const float* beta, const void* c_data, void* c,
                             void* d_data, void* d, const Algorithm* algorithm, void* workspace,
                             size_t workspace_bytes, CUstream stream) {
    if (must_fail(__func__)) return INTERNAL_ERROR;
    if (!is_live(handle) || algorithm->magic != ALGORITHM_MAGIC) return INVALID_VALUE;
    if (Status status = verdict(operation, a, b, c, d)) return status;
    // In place only, with one layout.
    if (c_data != d_data || static_cast<Matrix*>(c)->ld != static_cast<Matrix*>(d)->ld) return NOT_SUPPORTED;
    if (algorithm->workspace > workspace_bytes) return INVALID_VALUE;
    for (const void* address : {a_data, b_data, c_data, static_cast<const void*>(workspace)}) {
        if (reinterpret_cast<uintptr_t>(address) % algorithm->alignment != 0) return INVALID_VALUE;
    }
    const Product product = {*static_cast<Matrix*>(a), *static_cast<Matrix*>(b), *static_cast<Matrix*>(d), a_data, b_data,
                             d_data, *alpha, *beta, workspace, algorithm->workspace};
    standin::World& world = standin::world();
    if (!product.memory_is_live(world)) return EXECUTION_FAILED;
    const CUresult result = standin::enqueue(stream, [product, &world](const simt::Policy&) -> standin::Outcome {
        if (!product.memory_is_live(world)) return {CUDA_ERROR_ILLEGAL_ADDRESS, "a product's memory was freed"};
        product.run();
        return {};
    });
    return result == CUDA_SUCCESS ? SUCCESS : EXECUTION_FAILED;
}

// ---- What tests control. ----

// How often this thread made a call.
STANDIN_API uint64_t larder_standin_cublaslt_calls(const char* name) { return settings().calls[name]; }

// How many handles and descriptors there are in this thread's world.
STANDIN_API uint64_t larder_standin_cublaslt_live() {
    std::lock_guard<std::mutex> lock(objects().mutex);
    const int world = standin::world().id;
    uint64_t n_live = 0;
    for (const auto& [object, its_world] : objects().worlds) n_live += its_world == world;
    return n_live;
}

// What the fast algorithm needs from now on, and whether the heuristic offers it only within the limit it is given.
STANDIN_API void larder_standin_cublaslt_workspace(uint64_t bytes, int honours_limit) {
    settings().workspace = bytes;
    settings().honours_limit = honours_limit != 0;
}

// A row count that no check accepts from now on; 0: none.
STANDIN_API void larder_standin_cublaslt_refuse(uint64_t columns) { settings().refused_columns = columns; }
