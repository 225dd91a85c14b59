// One block of threads: who runs next, who waits for what.
#pragma once

#include "fiber.h"
#include "launch.h"

#include <string>
#include <vector>

namespace simt {

// Copies that a thread has asked for and not yet waited for.
struct CopyQueue {
    struct Copy {
        void* to;
        const void* from; // null: zeros
        unsigned bytes;
    };
    std::vector<Copy> copies;
    std::vector<size_t> group_ends; // indices in `copies`
    size_t n_copied = 0;
    size_t n_groups_done = 0;

    void clear();
    void wait(size_t groups_left);

  private:
    void clear_done_groups();
};

struct Warp {
    unsigned alive = 0;   // lanes that have not exited
    unsigned waiting = 0; // lanes in a collective
    void* arguments[32];
};

class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 2654435761u + 12345u) {}
    size_t below(size_t count) {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return (state_ >> 33) % count;
    }

  private:
    uint64_t state_;
};

struct Block {
    Stacks stacks;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<CopyQueue> copies;
    std::vector<unsigned> ready; // those before `next_ready` have had their turn
    size_t next_ready = 0;
    std::vector<unsigned char> shared; // dynamic, with room to align it
    unsigned char* statics = nullptr;  // the kernels' static shared memory on this host thread
    size_t statics_bytes = 0;

    const Launch* launch = nullptr;
    Policy policy;
    Random random{1};
    void* host_stack_pointer = nullptr;
    unsigned n_alive = 0;
    unsigned n_at_barrier = 0;
    unsigned votes = 0;
    unsigned counted_votes = 0; // of the last barrier
    std::string report;

    // Runs the block at `index`; false and a report if it failed.
    bool run(uint3 index);

    void wake(unsigned index);
    // Runs another fiber until this one is woken; for a fiber that is Done, for ever.
    void leave(Fiber& fiber);
    // Leaves the block for good.
    [[noreturn]] void stop(std::string why);

    void enter_barrier(Fiber& fiber, const char* name);
    void finish_collective(unsigned warp_index, unsigned mask, Perform perform);
    void exit(Fiber& fiber);

  private:
    void finish_without_exited(unsigned warp_index);
    void start(uint3 index);
    void poison_shared();
    unsigned take_ready();
    std::string deadlock() const;
    std::string at() const;
};

} // namespace simt
