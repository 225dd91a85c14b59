// Devices and contexts.
#include "world.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#undef cuDeviceTotalMem
#undef cuDevicePrimaryCtxRelease
#undef cuCtxCreate
#undef cuCtxDestroy
#undef cuCtxPushCurrent
#undef cuCtxPopCurrent

namespace standin {

DeviceKind kind_of(World& world) {
    const std::lock_guard lock(world.mutex);
    return world.kind;
}

// The most shared memory of a block, as NVIDIA's table of compute capabilities has it.
int DeviceKind::shared_bytes() const {
    switch (capability_major * 10 + capability_minor) {
    case 80:
    case 87:
        return 163 << 10;
    case 90:
    case 100:
    case 103:
        return 227 << 10;
    default:
        return 99 << 10;
    }
}

} // namespace standin

using namespace standin;

namespace {

// A CUdevice says which world it belongs to, for the calls that get nothing else.
constexpr int DEVICES_OF_A_WORLD = 256;
CUdevice device_handle(const World& world, int index) { return world.id * DEVICES_OF_A_WORLD + index; }
World& world_of_device(CUdevice device) { return world_of(device / DEVICES_OF_A_WORLD); }

CUresult start_call() {
    COUNT_CALL();
    return thread().started ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

} // namespace

STANDIN_API CUresult cuInit(unsigned) {
    COUNT_CALL();
    if (kind_of(world()).n_devices == 0)
        return CUDA_ERROR_NO_DEVICE;
    thread().started = true;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuDriverGetVersion(int* version) {
    COUNT_CALL();
    *version = kind_of(world()).driver_version;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuDeviceGetCount(int* count) {
    if (const CUresult result = start_call(); result != CUDA_SUCCESS)
        return result;
    *count = kind_of(world()).n_devices;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuDeviceGet(CUdevice* device, int index) {
    if (const CUresult result = start_call(); result != CUDA_SUCCESS)
        return result;
    if (index < 0 || index >= kind_of(world()).n_devices)
        return CUDA_ERROR_INVALID_DEVICE;
    *device = device_handle(world(), index);
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuDeviceGetName(char* name, int length, CUdevice) {
    if (const CUresult result = start_call(); result != CUDA_SUCCESS)
        return result;
    snprintf(name, length, "SIMT emulator");
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    if (const CUresult result = start_call(); result != CUDA_SUCCESS)
        return result;
    *bytes = kind_of(world_of_device(device)).memory_bytes;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
    if (const CUresult result = start_call(); result != CUDA_SUCCESS)
        return result;
    const DeviceKind kind = kind_of(world_of_device(device));
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        *value = kind.capability_major;
        return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *value = kind.capability_minor;
        return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *value = kind.n_multiprocessors;
        return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
        *value = kind.shared_bytes();
        return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
        *value = 48 << 10;
        return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
        *value = 40 << 20;
        return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
        *value = 32;
        return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = 1024;
        return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
        *value = 1;
        return CUDA_SUCCESS;
    default:
        fprintf(stderr, "stand-in for libcuda: attribute %d is not modelled\n", attribute);
        return CUDA_ERROR_INVALID_VALUE;
    }
}

STANDIN_API CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    if (const CUresult result = start_call(); result != CUDA_SUCCESS)
        return result;
    World& its_world = world_of_device(device);
    const std::lock_guard lock(its_world.mutex);
    auto& [primary, retains] = its_world.primaries[device % DEVICES_OF_A_WORLD];
    if (!primary) {
        primary = std::make_unique<Context>(&its_world, device % DEVICES_OF_A_WORLD, true);
        ++its_world.books.contexts;
    }
    ++retains;
    ++its_world.books.primary_retains;
    *context = reinterpret_cast<CUcontext>(primary.get());
    return CUDA_SUCCESS;
}

// The context object outlives its last release: what still names it gets errors instead of crashes.
STANDIN_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    const CUresult result = count_call();
    World& its_world = world_of_device(device);
    const std::lock_guard lock(its_world.mutex);
    auto& [primary, retains] = its_world.primaries[device % DEVICES_OF_A_WORLD];
    if (retains == 0)
        return CUDA_ERROR_INVALID_CONTEXT;
    --its_world.books.primary_retains;
    if (--retains == 0) {
        primary->sticky = CUDA_ERROR_CONTEXT_IS_DESTROYED;
        its_world.others.push_back(std::move(primary));
        --its_world.books.contexts;
    }
    return result;
}

STANDIN_API CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
    COUNT_CALL();
    World& its_world = world_of_device(device);
    const std::lock_guard lock(its_world.mutex);
    ++its_world.books.resets;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuCtxCreate_v2(CUcontext* context, unsigned, CUdevice device) {
    if (const CUresult result = start_call(); result != CUDA_SUCCESS)
        return result;
    World& its_world = world_of_device(device);
    auto made = std::make_unique<Context>(&its_world, device % DEVICES_OF_A_WORLD, false);
    *context = reinterpret_cast<CUcontext>(made.get());
    thread().contexts.push_back(made.get());
    const std::lock_guard lock(its_world.mutex);
    its_world.others.push_back(std::move(made));
    ++its_world.books.contexts;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuCtxCreate_v4(CUcontext* context, CUctxCreateParams*, unsigned flags, CUdevice device) {
    return cuCtxCreate_v2(context, flags, device);
}

STANDIN_API CUresult cuCtxDestroy_v2(CUcontext handle) {
    const CUresult result = count_call();
    auto* context = reinterpret_cast<Context*>(handle);
    if (context == nullptr || context->is_primary || sticky(*context) == CUDA_ERROR_CONTEXT_IS_DESTROYED)
        return CUDA_ERROR_INVALID_CONTEXT;
    auto& stack = thread().contexts;
    if (!stack.empty() && stack.back() == context)
        stack.pop_back();
    context->sticky = CUDA_ERROR_CONTEXT_IS_DESTROYED;
    const std::lock_guard lock(context->world->mutex);
    --context->world->books.contexts;
    return result;
}

STANDIN_API CUresult cuCtxGetCurrent(CUcontext* context) {
    COUNT_CALL();
    *context = reinterpret_cast<CUcontext>(current());
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuCtxSetCurrent(CUcontext context) {
    const CUresult result = count_call();
    auto& stack = thread().contexts;
    if (!stack.empty())
        stack.pop_back();
    if (context != nullptr)
        stack.push_back(reinterpret_cast<Context*>(context));
    thread().started = true;
    return result;
}

STANDIN_API CUresult cuCtxPushCurrent_v2(CUcontext context) {
    COUNT_CALL();
    if (context == nullptr)
        return CUDA_ERROR_INVALID_CONTEXT;
    thread().contexts.push_back(reinterpret_cast<Context*>(context));
    thread().started = true;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuCtxPopCurrent_v2(CUcontext* context) {
    const CUresult result = count_call();
    auto& stack = thread().contexts;
    if (stack.empty())
        return CUDA_ERROR_INVALID_CONTEXT;
    if (context != nullptr)
        *context = reinterpret_cast<CUcontext>(stack.back());
    stack.pop_back();
    return result;
}

STANDIN_API CUresult cuCtxGetDevice(CUdevice* device) {
    ENTER_CALL();
    *device = device_handle(*current()->world, current()->device);
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuCtxSynchronize() {
    ENTER_CALL();
    return drain_context(*current());
}

STANDIN_API CUresult cuGetErrorName(CUresult error, const char** text) {
    static thread_local std::string other;
    switch (error) {
        case CUDA_ERROR_INVALID_VALUE: *text = "CUDA_ERROR_INVALID_VALUE"; break;
        case CUDA_ERROR_OUT_OF_MEMORY: *text = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        case CUDA_ERROR_NO_DEVICE: *text = "CUDA_ERROR_NO_DEVICE"; break;
        case CUDA_ERROR_INVALID_IMAGE: *text = "CUDA_ERROR_INVALID_IMAGE"; break;
        case CUDA_ERROR_NOT_FOUND: *text = "CUDA_ERROR_NOT_FOUND"; break;
        case CUDA_ERROR_ILLEGAL_ADDRESS: *text = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
        case CUDA_ERROR_LAUNCH_FAILED: *text = "CUDA_ERROR_LAUNCH_FAILED"; break;
        default:
            other = "CUDA_ERROR_" + std::to_string(error);
            *text = other.c_str();
    }
    return CUDA_SUCCESS;
}

// A failed launch's text is the emulator's report.
STANDIN_API CUresult cuGetErrorString(CUresult error, const char** text) {
    static thread_local std::string message;
    const std::string& report = thread().report;
    const bool has_report = !report.empty() && (error == CUDA_ERROR_LAUNCH_FAILED || error == CUDA_ERROR_ILLEGAL_ADDRESS ||
                                                error == CUDA_ERROR_INVALID_VALUE || error == CUDA_ERROR_NOT_FOUND);
    message = has_report ? report : "error " + std::to_string(error);
    *text = message.c_str();
    return CUDA_SUCCESS;
}
