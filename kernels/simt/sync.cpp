// The meetings of threads, and what they wait for: collectives, barriers, asynchronous copies.
#include "block.h"

#include <cstring>

namespace simt {

void collective(unsigned mask, Perform perform, void* argument, const char* name) {
    Block& block = *here.block;
    Fiber& fiber = *here.fiber;
    Warp& warp = block.warps[fiber.warp];
    if (!(mask >> fiber.lane & 1))
        fail("%s: the mask %08x lacks the calling lane %u", name, mask, fiber.lane);
    const unsigned present = mask & warp.alive;
    warp.arguments[fiber.lane] = argument;
    warp.waiting |= 1u << fiber.lane;
    fiber.mask = mask;
    fiber.waits_in = name;
    fiber.perform = perform;
    if ((warp.waiting & present) != present) {
        fiber.state = State::InCollective;
        block.leave(fiber);
        return;
    }
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(present >> lane & 1))
            continue;
        const Fiber& other = block.fibers[fiber.warp * 32 + lane];
        if (other.mask != mask || strcmp(other.waits_in, name) != 0)
            fail("lanes of a warp meet in different collectives: lane %u in %s, mask %08x, and lane %u in %s, mask %08x",
                 fiber.lane, name, mask, lane, other.waits_in, other.mask);
    }
    block.finish_collective(fiber.warp, present, perform);
    fiber.waits_in = nullptr;
}

void whole_warp(Perform perform, void* argument, const char* name) {
    const Block& block = *here.block;
    if (block.warps[here.fiber->warp].alive != 0xffffffffu)
        fail("%s: needs all lanes of the warp, alive are %08x", name, block.warps[here.fiber->warp].alive);
    collective(0xffffffffu, perform, argument, name);
}

unsigned active_mask() { return here.block->warps[here.fiber->warp].alive; }

void barrier() { here.block->enter_barrier(*here.fiber, "__syncthreads"); }

int barrier_vote(int predicate, Vote vote) {
    Block& block = *here.block;
    block.votes += predicate != 0;
    block.enter_barrier(*here.fiber, "__syncthreads with a vote");
    // Stays until the next barrier is complete, which needs this thread.
    const unsigned votes = block.counted_votes;
    switch (vote) {
    case Vote::Any:
        return votes > 0;
    case Vote::All:
        return votes == block.fibers.size();
    default:
        return int(votes);
    }
}

void wait_for_grids() { here.fiber->waited_for_grids = true; }

bool is_shared(const void* pointer, size_t bytes) {
    const Block& block = *here.block;
    const auto inside = [=](const unsigned char* start, size_t size) {
        const auto* first = static_cast<const unsigned char*>(pointer);
        return first >= start && first + bytes <= start + size;
    };
    return inside(here.dynamic_shared, block.launch->dynamic_shared_bytes) ||
           inside(block.statics, block.statics_bytes);
}

void CopyQueue::clear() {
    copies.clear();
    group_ends.clear();
    n_copied = n_groups_done = 0;
}

static void perform_copy(const CopyQueue::Copy& copy) {
    if (copy.from != nullptr)
        memcpy(copy.to, copy.from, copy.bytes);
    else
        memset(copy.to, 0, copy.bytes);
}

void CopyQueue::wait(size_t groups_left) {
    while (group_ends.size() - n_groups_done > groups_left) {
        for (const size_t end = group_ends[n_groups_done++]; n_copied < end; ++n_copied)
            perform_copy(copies[n_copied]);
    }
    if (n_copied == copies.size())
        clear_done_groups();
}

// Only when nothing is pending, so that the vectors keep their memory and do not grow.
void CopyQueue::clear_done_groups() {
    group_ends.erase(group_ends.begin(), group_ends.begin() + n_groups_done);
    const size_t n_empty_groups = group_ends.size();
    copies.clear();
    group_ends.assign(n_empty_groups, 0);
    n_copied = n_groups_done = 0;
}

void copy_async(void* shared, const void* global, unsigned bytes, bool valid) {
    if (reinterpret_cast<uintptr_t>(shared) % bytes != 0 ||
        (valid && reinterpret_cast<uintptr_t>(global) % bytes != 0))
        fail("cp.async: %p to %p is not aligned to %u bytes", global, shared, bytes);
    if (!is_shared(shared, bytes))
        fail("cp.async: the destination %p is not in shared memory", shared);
    const CopyQueue::Copy copy{shared, valid ? global : nullptr, bytes};
    Block& block = *here.block;
    if (block.policy.eager_copies)
        perform_copy(copy);
    else
        block.copies[here.fiber->index].copies.push_back(copy);
}

void copy_async_commit() {
    CopyQueue& queue = here.block->copies[here.fiber->index];
    queue.group_ends.push_back(queue.copies.size());
}

void copy_async_wait(unsigned groups_left) { here.block->copies[here.fiber->index].wait(groups_left); }

} // namespace simt
