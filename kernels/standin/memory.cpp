// Device memory (host memory with an address that says nothing else), pinned memory, copies.
#include "world.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#undef cuMemAlloc
#undef cuMemFree
#undef cuMemGetInfo
#undef cuMemcpyHtoD
#undef cuMemcpyDtoH
#undef cuMemcpyHtoDAsync
#undef cuMemcpyDtoHAsync
#undef cuMemcpyDtoDAsync

using namespace standin;

namespace {

constexpr size_t ALIGNMENT = 256;
constexpr int FRESH = 0xff; // NaN in f32, f16 and bf16
constexpr int FREED = 0xfe;
// Behind each block; checked when it is freed.
constexpr size_t MARGIN_BYTES = 256;
constexpr int MARGIN = 0xa5;

CUresult allocate(void** address, size_t bytes, size_t alignment) {
#ifdef __SANITIZE_ADDRESS__
    const size_t margin = 0; // AddressSanitizer has its own, right behind the block
#else
    const size_t margin = MARGIN_BYTES;
#endif
    if (posix_memalign(address, alignment, bytes + margin) != 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(*address, FRESH, bytes);
    memset(static_cast<char*>(*address) + bytes, MARGIN, margin);
    return CUDA_SUCCESS;
}

// False when something was written behind the block.
bool deallocate(void* address, size_t bytes) {
    bool intact = true;
#ifndef __SANITIZE_ADDRESS__
    const auto* margin = static_cast<unsigned char*>(address) + bytes;
    for (size_t i = 0; i < MARGIN_BYTES; ++i)
        intact &= margin[i] == MARGIN;
#endif
    memset(address, FREED, bytes);
    free(address);
    return intact;
}

CUresult refuse(const char* format, ...) __attribute__((format(printf, 1, 2)));
CUresult refuse(const char* format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    thread().report = text;
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult check_device_range(const char* what, CUdeviceptr address, size_t bytes) {
    if (bytes == 0 || world().is_device_range(address, bytes))
        return CUDA_SUCCESS;
    return refuse("%s: %zu bytes from %#llx on are not in one block of device memory", what, bytes, address);
}

// A copy or fill that checks its device ranges again when it runs: a block may have been freed since.
struct Range {
    CUdeviceptr address;
    size_t bytes;
};
CUresult enqueue_checked(CUstream stream, std::vector<Range> ranges, std::function<void()> work) {
    World* its_world = current()->world;
    return enqueue(stream, [=](const simt::Policy&) -> Outcome {
        for (const Range& range : ranges)
            if (range.bytes > 0 && !its_world->is_device_range(range.address, range.bytes))
                return {CUDA_ERROR_ILLEGAL_ADDRESS, "a copy or fill runs when its device memory has been freed"};
        work();
        return {};
    });
}

} // namespace

STANDIN_API CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
    ENTER_CALL();
    if (bytes == 0)
        return refuse("cuMemAlloc: 0 bytes");
    if (const CUresult result = refuse_in_capture(); result != CUDA_SUCCESS)
        return result;
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    Books& books = its_world.books;
    if (bytes > its_world.kind.memory_bytes - books.device_bytes)
        return CUDA_ERROR_OUT_OF_MEMORY;
    void* block = nullptr;
    if (const CUresult result = allocate(&block, bytes, ALIGNMENT); result != CUDA_SUCCESS)
        return result;
    *address = reinterpret_cast<CUdeviceptr>(block);
    its_world.device_memory[*address] = bytes;
    books.device_bytes += bytes;
    books.device_bytes_peak = std::max(books.device_bytes_peak, books.device_bytes);
    ++books.device_blocks;
    ++books.allocations;
    return CUDA_SUCCESS;
}

// Waits for the device, as the driver does.
STANDIN_API CUresult cuMemFree_v2(CUdeviceptr address) {
    CUresult result = enter_call();
    if (current() == nullptr)
        return result;
    if (const CUresult drained = drain_context(*current()); result == CUDA_SUCCESS)
        result = drained;
    if (address == 0)
        return result;
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    const auto block = its_world.device_memory.find(address);
    if (block == its_world.device_memory.end())
        return refuse("cuMemFree: %#llx is not a block of device memory", address);
    Books& books = its_world.books;
    books.device_bytes -= block->second;
    --books.device_blocks;
    if (!deallocate(reinterpret_cast<void*>(address), block->second))
        ++books.overruns;
    its_world.device_memory.erase(block);
    return result;
}

STANDIN_API CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    ENTER_CALL();
    if (bytes == 0)
        return refuse("cuMemHostAlloc: 0 bytes");
    if (const CUresult result = refuse_in_capture(); result != CUDA_SUCCESS)
        return result;
    if (const CUresult result = allocate(address, bytes, 4096); result != CUDA_SUCCESS)
        return result;
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    its_world.pinned_memory[reinterpret_cast<uintptr_t>(*address)] = bytes;
    its_world.books.pinned_bytes += bytes;
    ++its_world.books.pinned_blocks;
    ++its_world.books.allocations;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuMemFreeHost(void* address) {
    CUresult result = enter_call();
    if (current() == nullptr)
        return result;
    if (const CUresult drained = drain_context(*current()); result == CUDA_SUCCESS)
        result = drained;
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    const auto block = its_world.pinned_memory.find(reinterpret_cast<uintptr_t>(address));
    if (block == its_world.pinned_memory.end())
        return refuse("cuMemFreeHost: %p is not a block of pinned memory", address);
    its_world.books.pinned_bytes -= block->second;
    --its_world.books.pinned_blocks;
    if (!deallocate(address, block->second))
        ++its_world.books.overruns;
    its_world.pinned_memory.erase(block);
    return result;
}

STANDIN_API CUresult cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    ENTER_CALL();
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    *total = its_world.kind.memory_bytes;
    *free_bytes = its_world.kind.memory_bytes - its_world.books.device_bytes;
    return CUDA_SUCCESS;
}

// Pinned memory is read when the copy runs, other memory now.
STANDIN_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    ENTER_CALL();
    if (const CUresult result = check_device_range("cuMemcpyHtoDAsync", to, bytes); result != CUDA_SUCCESS)
        return result;
    auto* target = reinterpret_cast<void*>(to);
    if (world().is_pinned_range(from, bytes))
        return enqueue_checked(stream, {{to, bytes}}, [=] { memcpy(target, from, bytes); });
    if (is_capturing(stream))
        return refuse_in_capture();
    const auto* start = static_cast<const char*>(from);
    auto staged = std::make_shared<std::vector<char>>(start, start + bytes);
    return enqueue_checked(stream, {{to, bytes}}, [=] { memcpy(target, staged->data(), bytes); });
}

// Into memory that is not pinned, the copy is done when the call returns.
STANDIN_API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER_CALL();
    if (const CUresult result = check_device_range("cuMemcpyDtoHAsync", from, bytes); result != CUDA_SUCCESS)
        return result;
    const bool pinned = world().is_pinned_range(to, bytes);
    if (!pinned && is_capturing(stream))
        return refuse_in_capture();
    const auto* source = reinterpret_cast<const void*>(from);
    const CUresult result = enqueue_checked(stream, {{from, bytes}}, [=] { memcpy(to, source, bytes); });
    return result != CUDA_SUCCESS || pinned ? result : drain(*find_stream(stream));
}

STANDIN_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER_CALL();
    if (const CUresult result = check_device_range("cuMemcpyDtoDAsync", to, bytes); result != CUDA_SUCCESS)
        return result;
    if (const CUresult result = check_device_range("cuMemcpyDtoDAsync", from, bytes); result != CUDA_SUCCESS)
        return result;
    if (to < from + bytes && from < to + bytes && bytes > 0)
        return refuse("cuMemcpyDtoDAsync: the two ranges overlap");
    return enqueue_checked(stream, {{to, bytes}, {from, bytes}},
                           [=] { memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes); });
}

STANDIN_API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char byte, size_t bytes, CUstream stream) {
    ENTER_CALL();
    if (const CUresult result = check_device_range("cuMemsetD8Async", to, bytes); result != CUDA_SUCCESS)
        return result;
    return enqueue_checked(stream, {{to, bytes}}, [=] { memset(reinterpret_cast<void*>(to), byte, bytes); });
}

STANDIN_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    const CUresult result = cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr);
    return result != CUDA_SUCCESS ? result : drain(*find_stream(nullptr));
}

STANDIN_API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    const CUresult result = cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr);
    return result != CUDA_SUCCESS ? result : drain(*find_stream(nullptr));
}
