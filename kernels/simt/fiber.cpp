#include "fiber.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

// Both push the registers that a call must preserve onto the old stack and pop them from the new one.
#if defined(__x86_64__)
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch,@function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_switch,.-simt_switch
)");
constexpr size_t SAVED_WORDS = 6; // below the return address
#elif defined(__aarch64__)
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch,%function
simt_switch:
    stp x29, x30, [sp, #-160]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #160
    ret
.size simt_switch,.-simt_switch
)");
#else
#error "the SIMT emulator switches stacks on x86-64 and aarch64 only"
#endif

namespace simt {

namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t STACK_BYTES = 256 << 10; // its frames are larger
#else
constexpr size_t STACK_BYTES = 64 << 10;
#endif
constexpr size_t GUARD_BYTES = 4 << 10;
constexpr size_t SLOT_BYTES = STACK_BYTES + GUARD_BYTES;

} // namespace

Stacks::~Stacks() { release(); }

void Stacks::release() {
    if (memory_ != nullptr)
        munmap(memory_, count_ * SLOT_BYTES);
    memory_ = nullptr;
    count_ = 0;
}

void Stacks::reserve(size_t count) {
    if (count <= count_)
        return;
    release();
    void* memory = mmap(nullptr, count * SLOT_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("simt: stacks");
        abort();
    }
    memory_ = static_cast<char*>(memory);
    count_ = count;
    for (size_t i = 0; i < count; ++i)
        mprotect(memory_ + i * SLOT_BYTES, GUARD_BYTES, PROT_NONE);
}

void* Stacks::prepare(size_t index, void (*entry)()) {
    // Tops at different offsets: the same frame of all threads would otherwise share a few lines of the cache.
    char* top = memory_ + (index + 1) * SLOT_BYTES - (index % 61) * 64 - 64;
#if defined(__x86_64__)
    void** frame = reinterpret_cast<void**>(top);
    *--frame = nullptr; // where `entry` would return to; keeps the stack aligned as after a call
    *--frame = reinterpret_cast<void*>(entry);
    for (size_t i = 0; i < SAVED_WORDS; ++i)
        *--frame = nullptr;
    return frame;
#else
    void** frame = reinterpret_cast<void**>(top - 160);
    for (size_t i = 0; i < 20; ++i)
        frame[i] = nullptr;
    frame[1] = reinterpret_cast<void*>(entry);
    return frame;
#endif
}

void Stacks::forget_frames([[maybe_unused]] size_t count) {
#ifdef __SANITIZE_ADDRESS__
    for (size_t i = 0; i < count; ++i)
        __asan_unpoison_memory_region(memory_ + i * SLOT_BYTES + GUARD_BYTES, STACK_BYTES);
#endif
}

} // namespace simt
