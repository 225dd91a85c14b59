// What the stand-in for the driver sees of the emulator.
#pragma once

#include "core.h"

#include <string>

namespace simt {

// In which order threads of a block, and blocks, get their turn.
enum class Order { Forward, Reverse, Random };

// Choices that CUDA leaves open. A race that hides under one of them shows under another.
struct Policy {
    bool eager_copies = false; // cp.async is done at once, not when waited for
    Order order = Order::Forward;
    uint64_t seed = 1;
};

struct Launch {
    const Kernel* kernel;
    uint3 grid;
    uint3 block;
    size_t dynamic_shared_bytes;
    void** arguments;
    bool dependent; // every thread must call pdl_wait
};

// Runs all blocks on this host thread; an empty string, or a report of what went wrong.
std::string run(const Launch& launch, const Policy& policy);

const Kernel* find_kernel(const char* name);
const Kernel* first_kernel();

} // namespace simt
