// What a kernel sees of the emulator: where it is, how it meets the other threads, and how it is registered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <vector_types.h>

namespace simt {

enum class State { Ready, InCollective, AtBarrier, Done };

// Runs once for all lanes of a collective: `arguments` has what each lane of `mask` gave.
using Perform = void (*)(void* const* arguments, unsigned mask);

// One CUDA thread.
struct Fiber {
    void* stack_pointer;
    uint3 thread;
    unsigned index; // in the block
    unsigned lane;
    unsigned warp;
    State state;
    unsigned mask;         // of the collective that it waits in
    const char* waits_in;  // its name
    Perform perform;
    bool waited_for_grids; // pdl_wait was called
};

struct Block;

struct Place {
    Fiber* fiber;
    Block* block;
    uint3 block_index;
    uint3 block_dim;
    uint3 grid_dim;
    unsigned char* dynamic_shared;
};
extern __thread Place here __attribute__((tls_model("initial-exec")));

// Blocks until every living lane of `mask` is there; the last one runs `perform` for all. A lane that is in `mask` but
// has exited is not in the mask that `perform` gets.
void collective(unsigned mask, Perform perform, void* argument, const char* name);
// The same for instructions that need the whole warp.
void whole_warp(Perform perform, void* argument, const char* name);

enum class Vote { Any, All, Count };
void barrier();
int barrier_vote(int predicate, Vote vote);

unsigned active_mask();

// Copies of 4 or 16 bytes, or zeros where `valid` is false; made at the call or when waited for, by policy.
void copy_async(void* shared, const void* global, unsigned bytes, bool valid);
void copy_async_commit();
void copy_async_wait(unsigned groups_left);

void wait_for_grids();

bool is_shared(const void* pointer, size_t bytes);

// Ends the launch with a report.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// A kernel by its name in C, and how to call it with an array of pointers to its arguments.
struct Kernel {
    const char* name;
    void (*call)(void** arguments);
    const unsigned* argument_bytes;
    unsigned n_arguments;
    // This host thread's address of a variable in the thread-local storage of the kernel's library.
    const void* (*thread_local_anchor)();
    Kernel* next;
};
void register_kernel(Kernel* kernel);

template <class F> struct Caller;
template <class... Arguments> struct Caller<void (*)(Arguments...)> {
    static_assert((std::is_trivially_copyable_v<std::remove_cv_t<Arguments>> && ...),
                  "a kernel's arguments are copied byte by byte");

    template <void (*function)(Arguments...)> static void call(void** arguments) {
        spread<function>(arguments, std::index_sequence_for<Arguments...>{});
    }
    template <void (*function)(Arguments...), size_t... i>
    static void spread([[maybe_unused]] void** arguments, std::index_sequence<i...>) {
        function(*static_cast<std::remove_reference_t<Arguments>*>(arguments[i])...);
    }

    // One more, since an array is not empty.
    static inline const unsigned bytes[sizeof...(Arguments) + 1] = {sizeof(Arguments)..., 0};
    static constexpr unsigned count = sizeof...(Arguments);
};

struct Registration {
    explicit Registration(Kernel description) : kernel(description) { register_kernel(&kernel); }
    Kernel kernel;
};

inline const void* thread_local_anchor() {
    static thread_local char anchor;
    return &anchor;
}

} // namespace simt

#define KERNEL_ENTRY(name)                                                                         \
    static simt::Registration simt_registration_of_##name(                                         \
        {#name, &simt::Caller<decltype(&name)>::call<&name>, simt::Caller<decltype(&name)>::bytes, \
         simt::Caller<decltype(&name)>::count, &simt::thread_local_anchor, nullptr});

#define DYN_SMEM(type, name) type* name = reinterpret_cast<type*>(simt::here.dynamic_shared)

#define threadIdx (simt::here.fiber->thread)
#define blockIdx (simt::here.block_index)
#define blockDim (simt::here.block_dim)
#define gridDim (simt::here.grid_dim)
#define warpSize 32

inline void __syncthreads() { simt::barrier(); }
inline int __syncthreads_or(int predicate) { return simt::barrier_vote(predicate, simt::Vote::Any); }
inline int __syncthreads_and(int predicate) { return simt::barrier_vote(predicate, simt::Vote::All); }
inline int __syncthreads_count(int predicate) { return simt::barrier_vote(predicate, simt::Vote::Count); }
