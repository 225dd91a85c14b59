// The objects behind the stand-in's handles. A world is a machine of its own: devices, contexts, memory, books. A
// thread is in one world, and calls with a current context go to the world of that context; so tests in different
// threads neither see nor disturb each other.
#pragma once

#include "../simt/launch.h"

#include <cuda.h>

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace standin {

struct World;
struct Context;

// What a stream does, when it comes to it, on the thread that waits for it and with that thread's policy. It returns an
// error that is sticky from then on, with a report.
struct Outcome {
    CUresult result = CUDA_SUCCESS;
    std::string report;
};
using Operation = std::function<Outcome(const simt::Policy&)>;

struct Stream {
    explicit Stream(Context* owner) : context(owner) {}
    Context* const context;
    std::recursive_mutex running; // held by the thread that does the stream's work
    std::mutex mutex;             // guards what follows
    struct Entry {
        Operation operation;
        simt::Policy policy;
    };
    std::deque<Entry> queue;
    bool capturing = false;
    bool capture_broken = false;
    CUstreamCaptureMode capture_mode{};
    std::vector<Operation> captured;
};

// Lives on in operations after the event is destroyed.
struct EventState {
    std::atomic<uint64_t> n_recorded{0};
    std::atomic<uint64_t> n_done{0};
    std::atomic<double> seconds{0};
    std::weak_ptr<Stream> stream;
};

struct Graph {
    std::vector<Operation> operations;
    bool executable = false;
};

struct Module {
    std::set<std::string, std::less<>> kernels; // by name
};

struct Function {
    const simt::Kernel* kernel;
    Module* module;
    unsigned allowed_shared_bytes = 48 << 10;
};

struct Context {
    Context(World* its_world, int its_device, bool primary);
    World* const world;
    const int device;
    const bool is_primary;
    std::atomic<int> sticky{CUDA_SUCCESS};
    std::shared_ptr<Stream> default_stream;
};

// What is alive, and what went wrong without an error to show it.
struct Books {
    uint64_t device_bytes, device_blocks, device_bytes_peak;
    uint64_t pinned_bytes, pinned_blocks;
    uint64_t streams, events, modules, graphs, contexts, primary_retains;
    uint64_t allocations; // calls that allocated device or pinned memory, ever
    uint64_t resets;      // of devices
    uint64_t overruns;    // blocks whose surroundings were overwritten, seen when they are freed
};

struct DeviceKind {
    int n_devices = 1;
    int capability_major = 9, capability_minor = 0;
    int driver_version = 13000;
    int n_multiprocessors = 4;
    uint64_t memory_bytes = uint64_t(8) << 30;

    // The most shared memory that a block can have.
    int shared_bytes() const;
};

struct World {
    explicit World(int its_id) : id(its_id) {}
    const int id;
    std::mutex mutex; // guards what follows
    DeviceKind kind;
    std::map<uintptr_t, size_t> device_memory; // address and bytes of the live blocks
    std::map<uintptr_t, size_t> pinned_memory;
    std::map<Stream*, std::shared_ptr<Stream>> streams;
    std::map<int, std::pair<std::unique_ptr<Context>, int>> primaries; // by device, with the number of retains
    std::vector<std::unique_ptr<Context>> others;
    std::map<Module*, std::map<std::string, std::unique_ptr<Function>>> modules;
    Books books{};

    bool is_device_range(CUdeviceptr address, size_t bytes);
    bool is_pinned_range(const void* address, size_t bytes);
};

// Of the calling thread.
struct Thread {
    Thread();
    int world = 0;
    std::vector<Context*> contexts; // the last one is current
    simt::Policy policy;
    bool eager_streams = false;
    bool started = false;        // cuInit
    int64_t calls_to_failure = 0; // 0: none is to fail
    CUresult failure = CUDA_SUCCESS;
    uint64_t n_calls = 0;
    std::string report; // of the last error that has one
};
Thread& thread();

World& world_of(int id);
DeviceKind kind_of(World& world);
// Of the current context, or else the thread's.
World& world();
Context* current();

// Counts a call; the error that it is to fail with, for tests of failures.
CUresult count_call();
// The same, then what has become of the current context (or that there is none).
CUresult enter_call();
CUresult sticky(const Context& context);
void make_sticky(Context& context, const Outcome& outcome);

std::shared_ptr<Stream> find_stream(CUstream handle);
// Queues an operation, or adds it to the graph that is being captured.
CUresult enqueue(CUstream handle, Operation operation);
// Does the work of a stream until it is done, or until `enough`.
CUresult drain(Stream& stream, const std::function<bool()>& enough = {});
CUresult drain_context(Context& context);
// An error when a capture forbids what is about to be done, which breaks the capture.
CUresult refuse_in_capture();
bool is_capturing(CUstream handle);

} // namespace standin

#define STANDIN_API extern "C" __attribute__((visibility("default")))

// Opens a call that needs a context. One that gives something back does so in any case, and then says what was wrong.
#define ENTER_CALL()                                                                               \
    if (const CUresult entered = standin::enter_call(); entered != CUDA_SUCCESS)                   \
    return entered
#define COUNT_CALL()                                                                               \
    if (const CUresult counted = standin::count_call(); counted != CUDA_SUCCESS)                   \
    return counted
