// Modules, functions, launches.
#include "world.h"

#include <cstdio>
#include <cstring>
#include <set>
#include <string_view>

using namespace standin;

namespace {

constexpr uint32_t FATBIN_MAGIC = 0xba55ed50u;

struct FatbinHeader {
    uint32_t magic;
    uint16_t version;
    uint16_t header_bytes;
    uint64_t content_bytes;
};

CUresult refuse(CUresult result, std::string why) {
    thread().report = std::move(why);
    return result;
}

struct Shape {
    uint3 grid, block;
    unsigned shared_bytes;
    bool dependent;
};

// What the driver checks before it takes a launch.
CUresult check_launch(const Function& function, const Shape& shape) {
    const uint64_t n_threads = uint64_t(shape.block.x) * shape.block.y * shape.block.z;
    if (n_threads == 0 || n_threads > 1024 || shape.block.z > 64)
        return refuse(CUDA_ERROR_INVALID_VALUE, "a block must have 1 to 1024 threads, at most 64 in z");
    if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0 || shape.grid.x > 0x7fffffffu ||
        shape.grid.y > 65535 || shape.grid.z > 65535)
        return refuse(CUDA_ERROR_INVALID_VALUE, "a grid must have 1 to 2^31 - 1 blocks in x, 65535 in y and z");
    if (shape.shared_bytes > function.allowed_shared_bytes)
        return refuse(CUDA_ERROR_INVALID_VALUE, std::string(function.kernel->name) + ": " +
                                                    std::to_string(shape.shared_bytes) +
                                                    " bytes of dynamic shared memory, allowed are " +
                                                    std::to_string(function.allowed_shared_bytes));
    return CUDA_SUCCESS;
}

CUresult launch(CUfunction handle, const Shape& shape, CUstream stream, void** arguments) {
    const auto& function = *reinterpret_cast<Function*>(handle);
    if (const CUresult result = check_launch(function, shape); result != CUDA_SUCCESS)
        return result;
    const simt::Kernel* kernel = function.kernel;
    // The arguments are read now.
    auto values = std::make_shared<std::vector<std::vector<unsigned char>>>();
    for (unsigned i = 0; i < kernel->n_arguments; ++i) {
        const auto* start = static_cast<const unsigned char*>(arguments[i]);
        values->emplace_back(start, start + kernel->argument_bytes[i]);
    }
    return enqueue(stream, [=](const simt::Policy& policy) -> Outcome {
        std::vector<void*> pointers;
        for (auto& value : *values)
            pointers.push_back(value.data());
        const simt::Launch description{kernel,          shape.grid,     shape.block, shape.shared_bytes,
                                       pointers.data(), shape.dependent};
        std::string report = simt::run(description, policy);
        if (report.empty())
            return {};
        return {CUDA_ERROR_LAUNCH_FAILED, std::move(report)};
    });
}

// The kernels that a fatbin has machine code for: each is a section with its name.
std::set<std::string, std::less<>> kernel_names(std::string_view image) {
    constexpr std::string_view SECTION(".text.");
    std::set<std::string, std::less<>> names;
    for (size_t at = image.find(SECTION); at != std::string_view::npos; at = image.find(SECTION, at)) {
        at += SECTION.size();
        names.emplace(image.substr(at, image.find('\0', at) - at));
    }
    return names;
}

} // namespace

STANDIN_API CUresult cuModuleLoadData(CUmodule* handle, const void* image) {
    ENTER_CALL();
    FatbinHeader header;
    memcpy(&header, image, sizeof header);
    if (header.magic != FATBIN_MAGIC)
        return refuse(CUDA_ERROR_INVALID_IMAGE, "cuModuleLoadData: not a fatbin");
    if (const CUresult result = refuse_in_capture(); result != CUDA_SUCCESS)
        return result;
    auto* module = new Module{kernel_names(
        std::string_view(static_cast<const char*>(image), header.header_bytes + header.content_bytes))};
    *handle = reinterpret_cast<CUmodule>(module);
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    its_world.modules[module];
    ++its_world.books.modules;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuModuleUnload(CUmodule handle) {
    const CUresult result = enter_call();
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    auto* module = reinterpret_cast<Module*>(handle);
    if (its_world.modules.erase(module) == 0)
        return CUDA_ERROR_INVALID_HANDLE;
    delete module;
    --its_world.books.modules;
    return result;
}

STANDIN_API CUresult cuModuleGetFunction(CUfunction* handle, CUmodule module_handle, const char* name) {
    ENTER_CALL();
    World& its_world = world();
    const std::lock_guard lock(its_world.mutex);
    auto* module = reinterpret_cast<Module*>(module_handle);
    const auto functions = its_world.modules.find(module);
    if (functions == its_world.modules.end())
        return CUDA_ERROR_INVALID_HANDLE;
    const simt::Kernel* kernel = simt::find_kernel(name);
    // A compressed fatbin shows no names, and is believed.
    const bool is_named = module->kernels.empty() || module->kernels.count(name) > 0;
    if (kernel == nullptr || !is_named)
        return refuse(CUDA_ERROR_NOT_FOUND, std::string("no kernel ") + name +
                                                (kernel ? " in this module" : " on the emulator"));
    auto& function = functions->second[name];
    if (!function)
        function.reset(new Function{kernel, module});
    *handle = reinterpret_cast<CUfunction>(function.get());
    return CUDA_SUCCESS;
}

// What a kernel needs besides is known to the real compiler only.
STANDIN_API CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
    ENTER_CALL();
    if (attribute != CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
        return refuse(CUDA_ERROR_INVALID_VALUE, "cuFuncGetAttribute: an attribute that is not modelled");
    *value = 0;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
    ENTER_CALL();
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
        return CUDA_SUCCESS;
    const int limit = kind_of(world()).shared_bytes();
    if (value < 0 || value > limit)
        return refuse(CUDA_ERROR_INVALID_VALUE, "cuFuncSetAttribute: " + std::to_string(value) +
                                                    " bytes of shared memory, the device has " +
                                                    std::to_string(limit));
    reinterpret_cast<Function*>(handle)->allowed_shared_bytes = value;
    return CUDA_SUCCESS;
}

STANDIN_API CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                    unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                                    CUstream stream, void** arguments, void**) {
    ENTER_CALL();
    return launch(function, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, false}, stream,
                  arguments);
}

STANDIN_API CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** arguments, void**) {
    ENTER_CALL();
    Shape shape{{config->gridDimX, config->gridDimY, config->gridDimZ},
                {config->blockDimX, config->blockDimY, config->blockDimZ},
                config->sharedMemBytes,
                false};
    for (unsigned i = 0; i < config->numAttrs; ++i) {
        const CUlaunchAttribute& attribute = config->attrs[i];
        if (attribute.id != CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
            return refuse(CUDA_ERROR_NOT_SUPPORTED, "cuLaunchKernelEx: an attribute that is not modelled");
        shape.dependent = attribute.value.programmaticStreamSerializationAllowed != 0;
    }
    if (shape.dependent && kind_of(world()).capability_major < 9)
        return refuse(CUDA_ERROR_NOT_SUPPORTED, "programmatic dependent launch needs compute capability 9.0");
    return launch(function, shape, config->hStream, arguments);
}
