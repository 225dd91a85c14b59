#include "world.h"

#include <cstdio>
#include <cstdlib>

namespace standin {

namespace {

std::mutex worlds_mutex;
std::deque<World>& worlds() {
    // Never destroyed: drops at the end of the process still call the driver.
    static auto* all = new std::deque<World>();
    if (all->empty())
        all->emplace_back(0);
    return *all;
}

bool is_lost(CUresult result) {
    switch (result) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_LAUNCH_FAILED:
        return true;
    default:
        return false;
    }
}

bool contains(const std::map<uintptr_t, size_t>& blocks, uintptr_t address, size_t bytes) {
    auto after = blocks.upper_bound(address);
    if (after == blocks.begin())
        return false;
    const auto& [start, size] = *--after;
    return address - start <= size && bytes <= size - (address - start);
}

} // namespace

// LARDER_STANDIN_POLICY, "eager order seed": what threads begin with, for tests that set none themselves.
Thread::Thread() {
    const char* text = getenv("LARDER_STANDIN_POLICY");
    int eager = 0, order = 0;
    unsigned long seed = 0;
    if (text != nullptr && sscanf(text, "%d %d %lu", &eager, &order, &seed) == 3)
        policy = {eager != 0, simt::Order(order), seed};
}

Thread& thread() {
    static thread_local Thread mine;
    return mine;
}

World& world_of(int id) {
    const std::lock_guard lock(worlds_mutex);
    return worlds().at(id);
}

Context* current() { return thread().contexts.empty() ? nullptr : thread().contexts.back(); }

World& world() {
    if (Context* context = current())
        return *context->world;
    return world_of(thread().world);
}

Context::Context(World* its_world, int its_device, bool primary)
    : world(its_world), device(its_device), is_primary(primary), default_stream(std::make_shared<Stream>(this)) {}

bool World::is_device_range(CUdeviceptr address, size_t bytes) {
    const std::lock_guard lock(mutex);
    return contains(device_memory, address, bytes);
}

bool World::is_pinned_range(const void* address, size_t bytes) {
    const std::lock_guard lock(mutex);
    return contains(pinned_memory, reinterpret_cast<uintptr_t>(address), bytes);
}

CUresult count_call() {
    Thread& mine = thread();
    ++mine.n_calls;
    if (mine.calls_to_failure == 0 || --mine.calls_to_failure != 0)
        return CUDA_SUCCESS;
    if (Context* context = current(); context && is_lost(mine.failure))
        make_sticky(*context, {mine.failure, "made to fail by a test"});
    return mine.failure;
}

CUresult enter_call() {
    if (const CUresult failure = count_call(); failure != CUDA_SUCCESS)
        return failure;
    if (!thread().started)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (current() == nullptr)
        return CUDA_ERROR_INVALID_CONTEXT;
    return sticky(*current());
}

CUresult sticky(const Context& context) { return CUresult(context.sticky.load()); }

void make_sticky(Context& context, const Outcome& outcome) {
    int none = CUDA_SUCCESS;
    context.sticky.compare_exchange_strong(none, outcome.result);
    thread().report = outcome.report;
}

} // namespace standin

using namespace standin;

// ---- What tests control. Declared for Rust in src/standin.rs. ----

STANDIN_API int larder_standin_world_new() {
    const std::lock_guard lock(worlds_mutex);
    const int id = int(worlds().size());
    worlds().emplace_back(id);
    return id;
}

// Returns the world that the thread was in.
STANDIN_API int larder_standin_world_enter(int id) {
    const int former = thread().world;
    thread().world = id;
    return former;
}

STANDIN_API int larder_standin_world() { return world().id; }

STANDIN_API void larder_standin_books(int id, Books* books) {
    World& world = world_of(id);
    const std::lock_guard lock(world.mutex);
    *books = world.books;
}

STANDIN_API void larder_standin_device_kind(int id, const DeviceKind* kind) {
    World& world = world_of(id);
    const std::lock_guard lock(world.mutex);
    world.kind = *kind;
}

STANDIN_API void larder_standin_policy(int eager_copies, int order, uint64_t seed) {
    thread().policy = {eager_copies != 0, simt::Order(order), seed};
}

STANDIN_API void larder_standin_eager_streams(int eager) { thread().eager_streams = eager != 0; }

// The `nth` call of this thread from now on fails with `code`; 0 for none.
STANDIN_API void larder_standin_fail_call(int64_t nth, int code) {
    thread().calls_to_failure = nth;
    thread().failure = CUresult(code);
}

STANDIN_API uint64_t larder_standin_calls() { return thread().n_calls; }

// The report of the last error on this thread, empty if there is none; good until the next error.
STANDIN_API const char* larder_standin_report() { return thread().report.c_str(); }

// Calls `visit` with the name of every kernel on the emulator.
STANDIN_API void larder_standin_kernels(void (*visit)(const char* name, void* data), void* data) {
    for (const simt::Kernel* kernel = simt::first_kernel(); kernel != nullptr; kernel = kernel->next)
        visit(kernel->name, data);
}
