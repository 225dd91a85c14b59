#include "block.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace simt {

__thread Place here;

namespace {

constexpr size_t SHARED_ALIGNMENT = 1024;
constexpr const char* BARRIER = "__syncthreads";

const char* name_of(const Fiber& fiber) { return fiber.waits_in ? fiber.waits_in : "nothing"; }

// Where every fiber begins.
void fiber_main() {
    Block& block = *here.block;
    block.launch->kernel->call(block.launch->arguments);
    block.exit(*here.fiber);
    __builtin_trap();
}

} // namespace

bool Block::run(uint3 index) {
    start(index);
    Fiber& first = fibers[take_ready()];
    here.fiber = &first;
    simt_switch(&host_stack_pointer, first.stack_pointer);
    here.fiber = nullptr;
    if (report.empty() && n_alive > 0)
        report = deadlock();
    return report.empty();
}

void Block::start(uint3 index) {
    const uint3 dim = launch->block;
    const unsigned n_threads = dim.x * dim.y * dim.z;
    stacks.reserve(n_threads);
    stacks.forget_frames(n_threads);
    poison_shared();
    here = {nullptr, this, index, dim, launch->grid, here.dynamic_shared};

    fibers.resize(n_threads);
    warps.assign((n_threads + 31) / 32, Warp());
    if (copies.size() < n_threads)
        copies.resize(n_threads);
    ready.clear();
    next_ready = 0;
    n_alive = n_threads;
    n_at_barrier = votes = counted_votes = 0;
    report.clear();
    for (unsigned i = 0; i < n_threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber = Fiber();
        fiber.thread = {i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)};
        fiber.index = i;
        fiber.lane = i % 32;
        fiber.warp = i / 32;
        fiber.stack_pointer = stacks.prepare(i, &fiber_main);
        warps[fiber.warp].alive |= 1u << fiber.lane;
        copies[i].clear();
        wake(i);
    }
}

// Shared memory starts as 0xff, which is NaN in f32, f16 and bf16: a kernel that reads before it writes shows it.
void Block::poison_shared() {
    const size_t bytes = launch->dynamic_shared_bytes;
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(shared.data(), shared.size());  // the last block's end; growing reads all
#endif
    if (shared.size() < bytes + SHARED_ALIGNMENT)
        shared.resize(bytes + SHARED_ALIGNMENT);
    const size_t address = reinterpret_cast<size_t>(shared.data());
    const size_t offset = (address + SHARED_ALIGNMENT - 1) / SHARED_ALIGNMENT * SHARED_ALIGNMENT - address;
    here.dynamic_shared = shared.data() + offset;
    memset(here.dynamic_shared, 0xff, bytes);
    if (statics != nullptr)
        memset(statics, 0xff, statics_bytes);
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(here.dynamic_shared + bytes, shared.size() - offset - bytes);
#endif
}

void Block::wake(unsigned index) {
    fibers[index].state = State::Ready;
    fibers[index].waits_in = nullptr;
    ready.push_back(index);
}

unsigned Block::take_ready() {
    if (policy.order == Order::Random)
        std::swap(ready[next_ready], ready[next_ready + random.below(ready.size() - next_ready)]);
    else if (policy.order == Order::Reverse)
        std::swap(ready[next_ready], ready.back());
    const unsigned index = ready[next_ready++];
    if (next_ready > 4096) {
        ready.erase(ready.begin(), ready.begin() + next_ready);
        next_ready = 0;
    }
    return index;
}

void Block::leave(Fiber& fiber) {
    if (next_ready == ready.size()) {
        simt_switch(&fiber.stack_pointer, host_stack_pointer);
        return;
    }
    Fiber& next = fibers[take_ready()];
    if (&next == &fiber)
        return;
    here.fiber = &next;
    simt_switch(&fiber.stack_pointer, next.stack_pointer);
}

void Block::stop(std::string why) {
    report = std::move(why);
    Fiber& fiber = *here.fiber;
    simt_switch(&fiber.stack_pointer, host_stack_pointer);
    __builtin_trap();
}

void Block::exit(Fiber& fiber) {
    if (launch->dependent && !fiber.waited_for_grids)
        fail("a dependent launch, and a thread ends without pdl_wait");
    fiber.state = State::Done;
    --n_alive;
    Warp& warp = warps[fiber.warp];
    warp.alive &= ~(1u << fiber.lane);
    if (n_at_barrier > 0)
        fail("%u threads wait in %s, and a thread ends", n_at_barrier, BARRIER);
    finish_without_exited(fiber.warp);
    leave(fiber);
}

void Block::enter_barrier(Fiber& fiber, const char* name) {
    if (n_alive < fibers.size())
        fail("%s after %zu threads have ended", name, fibers.size() - n_alive);
    if (++n_at_barrier < n_alive) {
        fiber.state = State::AtBarrier;
        fiber.waits_in = name;
        leave(fiber);
        return;
    }
    counted_votes = votes;
    n_at_barrier = votes = 0;
    for (Fiber& other : fibers)
        if (other.state == State::AtBarrier)
            wake(other.index);
    // The last one waits for its turn, too: others may be first after a barrier.
    wake(fiber.index);
    leave(fiber);
}

void Block::finish_collective(unsigned warp_index, unsigned mask, Perform perform) {
    Warp& warp = warps[warp_index];
    warp.waiting &= ~mask;
    perform(warp.arguments, mask);
    for (unsigned lane = 0; lane < 32; ++lane) {
        const unsigned index = warp_index * 32 + lane;
        if (mask >> lane & 1 && index != here.fiber->index)
            wake(index);
    }
}

// The lanes that wait for a mask with the exited lane in it may now be complete.
void Block::finish_without_exited(unsigned warp_index) {
    Warp& warp = warps[warp_index];
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(warp.waiting >> lane & 1))
            continue;
        const Fiber& waiting = fibers[warp_index * 32 + lane];
        const unsigned present = waiting.mask & warp.alive;
        if ((warp.waiting & present) == present)
            finish_collective(warp_index, present, waiting.perform);
    }
}

std::string Block::at() const {
    char text[256];
    snprintf(text, sizeof text, " in %s, block (%u, %u, %u)", launch->kernel->name, here.block_index.x,
             here.block_index.y, here.block_index.z);
    return text;
}

std::string Block::deadlock() const {
    char text[256];
    snprintf(text, sizeof text, ": %u of %zu threads are alive", n_alive, fibers.size());
    std::string message = "deadlock" + at() + text;
    const Fiber* before = nullptr;
    for (const Fiber& fiber : fibers) {
        const bool news = !before || before->state != fiber.state || strcmp(name_of(*before), name_of(fiber)) != 0;
        if (fiber.state != State::Done && news && message.size() < 500) {
            snprintf(text, sizeof text, "; thread %u waits in %s", fiber.index, name_of(fiber));
            message += text;
        }
        before = &fiber;
    }
    return message;
}

void fail(const char* format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const Fiber& fiber = *here.fiber;
    const Block& block = *here.block;
    char place[256];
    snprintf(place, sizeof place, "%s, block (%u, %u, %u), thread %u: ", block.launch->kernel->name,
             here.block_index.x, here.block_index.y, here.block_index.z, fiber.index);
    here.block->stop(std::string(place) + text);
}

} // namespace simt
