// A stand-in for libcublasLt, for tests without a GPU: the calls that larder uses, with products by plain loops on
// the stand-in libcuda's streams. Stricter than the real library where larder's promises are concerned: addresses
// have to lie in live device memory, and the workspace is overwritten.

#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

#include <map>
#include <mutex>
#include <set>
#include <string>

#include "cublaslt_matrix.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

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

// What tests look at and set.
struct Books {
    std::mutex mutex;
    std::map<std::string, uint64_t> calls;
    std::set<const void*> live;
    uint64_t fail_in = 0;          // the call that fails, counted from now; 0: none
    uint64_t workspace = 8192;     // what the best algorithm needs
    uint64_t refused_columns = 0;  // a row count that no check accepts
    bool honours_limit = true;     // whether the heuristic looks at the most workspace allowed
};

Books& books() {
    static Books* it = new Books;
    return *it;
}

// Notes a call; true when it is the one that has to fail. Destroying never fails: there would be no other try.
bool enters(const char* name) {
    std::lock_guard<std::mutex> lock(books().mutex);
    books().calls[name] += 1;
    return books().fail_in != 0 && --books().fail_in == 0;
}

template <typename T>
Status create(void** place, T* made) {
    std::lock_guard<std::mutex> lock(books().mutex);
    books().live.insert(made);
    *place = made;
    return SUCCESS;
}

template <typename T>
Status destroy(const char* name, void* object) {
    std::lock_guard<std::mutex> lock(books().mutex);
    books().calls[name] += 1;
    if (books().live.erase(object) == 0) return INVALID_VALUE;
    delete static_cast<T*>(object);
    return SUCCESS;
}

bool is_live(const void* object) {
    std::lock_guard<std::mutex> lock(books().mutex);
    return books().live.count(object) != 0;
}

// The functions of the stand-in libcuda, which is loaded before any of this is called.
typedef int (*Enqueue)(void* stream, int (*run)(void*), void* argument, void (*destroy)(void*));
typedef int (*IsDevice)(unsigned long long address, unsigned long long bytes);

template <typename F>
F driver_function(const char* name) {
    for (const char* library : {"libcuda.so", "libcuda.so.1"}) {
        void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
        if (handle == nullptr) continue;
        void* found = dlsym(handle, name);
        dlclose(handle);
        if (found != nullptr) return reinterpret_cast<F>(found);
    }
    return nullptr;
}

bool is_device(const void* address, uint64_t bytes) {
    static IsDevice function = driver_function<IsDevice>("larder_standin_is_device");
    return function != nullptr && function(reinterpret_cast<uintptr_t>(address), bytes) != 0;
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

    bool memory_is_live() const {
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

EXPORT size_t cublasLtGetVersion() { return VERSION; }

EXPORT const char* cublasLtGetStatusString(Status status) {
    switch (status) {
        case SUCCESS: return "success";
        case INVALID_VALUE: return "an invalid value";
        case EXECUTION_FAILED: return "the execution failed";
        case INTERNAL_ERROR: return "an internal error, as asked for";
        case NOT_SUPPORTED: return "not supported";
    }
    return "unknown";
}

EXPORT Status cublasLtCreate(void** handle) {
    if (enters(__func__)) return INTERNAL_ERROR;
    return create(handle, new int(0));
}

EXPORT Status cublasLtDestroy(void* handle) { return destroy<int>(__func__, handle); }

EXPORT Status cublasLtMatmulDescCreate(void** operation, int compute, int scale) {
    if (enters(__func__)) return INTERNAL_ERROR;
    if (compute != COMPUTE_F32 || scale != CUDA_R_32F_SCALE) return NOT_SUPPORTED;
    return create(operation, new Operation);
}

EXPORT Status cublasLtMatmulDescDestroy(void* operation) { return destroy<Operation>(__func__, operation); }

EXPORT Status cublasLtMatmulDescSetAttribute(void* operation, int which, const void* value, size_t bytes) {
    if (enters(__func__)) return INTERNAL_ERROR;
    if (!is_live(operation) || bytes != sizeof(int)) return INVALID_VALUE;
    int* place = which == TRANSPOSE_A   ? &static_cast<Operation*>(operation)->transpose_a
                 : which == TRANSPOSE_B ? &static_cast<Operation*>(operation)->transpose_b
                                        : nullptr;
    if (place == nullptr) return NOT_SUPPORTED;
    memcpy(place, value, bytes);
    return SUCCESS;
}

EXPORT Status cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    if (enters(__func__)) return INTERNAL_ERROR;
    return create(layout, new Matrix{type, rows, columns, ld});
}

EXPORT Status cublasLtMatrixLayoutDestroy(void* layout) { return destroy<Matrix>(__func__, layout); }

EXPORT Status cublasLtMatrixLayoutSetAttribute(void* layout, int which, const void* value, size_t bytes) {
    if (enters(__func__)) return INTERNAL_ERROR;
    if (!is_live(layout) || which != LAYOUT_COLUMNS || bytes != sizeof(uint64_t)) return INVALID_VALUE;
    memcpy(&static_cast<Matrix*>(layout)->columns, value, bytes);
    return SUCCESS;
}

EXPORT Status cublasLtMatmulPreferenceCreate(void** preference) {
    if (enters(__func__)) return INTERNAL_ERROR;
    return create(preference, new Preference);
}

EXPORT Status cublasLtMatmulPreferenceDestroy(void* preference) { return destroy<Preference>(__func__, preference); }

EXPORT Status cublasLtMatmulPreferenceSetAttribute(void* preference, int which, const void* value, size_t bytes) {
    if (enters(__func__)) return INTERNAL_ERROR;
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
EXPORT Status cublasLtMatmulAlgoGetHeuristic(void* handle, void* operation, void* a, void* b, void* c, void* d,
                                             void* preference, int n_wanted, HeuristicResult* results, int* n_found) {
    if (enters(__func__)) return INTERNAL_ERROR;
    *n_found = 0;
    if (!is_live(handle) || !is_live(preference)) return INVALID_VALUE;
    if (Status status = verdict(operation, a, b, c, d)) return status;
    const auto& wishes = *static_cast<const Preference*>(preference);
    for (uint64_t workspace : {books().workspace, uint64_t(0)}) {
        if (books().honours_limit && workspace > wishes.max_workspace) continue;
        if (*n_found == n_wanted) break;
        Algorithm algorithm = {ALGORITHM_MAGIC, workspace, wishes.alignment, {}};
        results[(*n_found)++] = {algorithm, workspace, SUCCESS, 1.0f, {}};
    }
    return *n_found == 0 ? NOT_SUPPORTED : SUCCESS;
}

EXPORT Status cublasLtMatmulAlgoCheck(void* handle, void* operation, void* a, void* b, void* c, void* d,
                                      const Algorithm* algorithm, HeuristicResult* result) {
    if (enters(__func__)) return INTERNAL_ERROR;
    if (!is_live(handle) || algorithm->magic != ALGORITHM_MAGIC) return INVALID_VALUE;
    if (Status status = verdict(operation, a, b, c, d)) return status;
    if (static_cast<const Matrix*>(d)->columns == books().refused_columns) return NOT_SUPPORTED;
    *result = {*algorithm, algorithm->workspace, SUCCESS, 1.0f, {}};
    return SUCCESS;
}

EXPORT Status cublasLtMatmul(void* handle, void* operation, const float* alpha, const void* a_data, void* a,
                             const void* b_data, void* b, const float* beta, const void* c_data, void* c,
                             void* d_data, void* d, const Algorithm* algorithm, void* workspace,
                             size_t workspace_bytes, void* stream) {
    if (enters(__func__)) return INTERNAL_ERROR;
    if (!is_live(handle) || algorithm->magic != ALGORITHM_MAGIC) return INVALID_VALUE;
    if (Status status = verdict(operation, a, b, c, d)) return status;
    // In place only, with one layout.
    if (c_data != d_data || static_cast<Matrix*>(c)->ld != static_cast<Matrix*>(d)->ld) return NOT_SUPPORTED;
    if (algorithm->workspace > workspace_bytes) return INVALID_VALUE;
    for (const void* address : {a_data, b_data, c_data, static_cast<const void*>(workspace)}) {
        if (reinterpret_cast<uintptr_t>(address) % algorithm->alignment != 0) return INVALID_VALUE;
    }
    auto* product = new Product{*static_cast<Matrix*>(a), *static_cast<Matrix*>(b), *static_cast<Matrix*>(d),
                                a_data, b_data, d_data, *alpha, *beta, workspace, algorithm->workspace};
    static Enqueue enqueue = driver_function<Enqueue>("larder_standin_enqueue");
    if (enqueue == nullptr || !product->memory_is_live()) {
        delete product;
        return EXECUTION_FAILED;
    }
    constexpr int ILLEGAL_ADDRESS = 700;
    auto run = [](void* it) {
        auto* product = static_cast<Product*>(it);
        if (!product->memory_is_live()) return ILLEGAL_ADDRESS;
        product->run();
        return 0;
    };
    int result = enqueue(stream, run, product, [](void* it) { delete static_cast<Product*>(it); });
    return result == 0 ? SUCCESS : EXECUTION_FAILED;
}

// The call that fails, counted from now on; 0: none.
EXPORT void larder_standin_cublaslt_fail_in(uint64_t n_calls) { books().fail_in = n_calls; }

// How often a call was made.
EXPORT uint64_t larder_standin_cublaslt_calls(const char* name) {
    std::lock_guard<std::mutex> lock(books().mutex);
    return books().calls[name];
}

// How many handles and descriptors there are.
EXPORT uint64_t larder_standin_cublaslt_live() {
    std::lock_guard<std::mutex> lock(books().mutex);
    return books().live.size();
}

// What the fast algorithm needs from now on, and whether the heuristic offers it beyond the limit it was given.
EXPORT void larder_standin_cublaslt_workspace(uint64_t bytes, int honours_limit) {
    books().workspace = bytes;
    books().honours_limit = honours_limit != 0;
}

// A row count that no check accepts from now on; 0: none.
EXPORT void larder_standin_cublaslt_refuse(uint64_t columns) { books().refused_columns = columns; }
