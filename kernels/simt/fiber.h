// Stacks, and the switch from one to another.
#pragma once

#include <cstddef>

namespace simt {

// Stacks for the threads of one block, each above a page that may not be touched.
class Stacks {
  public:
    Stacks() = default;
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;
    ~Stacks();

    void reserve(size_t count);
    // Of a fiber that enters `entry` at its first switch; `entry` must not return.
    void* prepare(size_t index, void (*entry)());
    // What the frames of fibers that never returned have left behind in AddressSanitizer's view of the stacks.
    void forget_frames(size_t count);

  private:
    void release();
    char* memory_ = nullptr;
    size_t count_ = 0;
};

} // namespace simt

// Stores the present stack's pointer and goes on where `to` was stored.
extern "C" void simt_switch(void** from, void* to);
