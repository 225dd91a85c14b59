// Finds kernels by name and runs launches, block after block.
#include "block.h"

#include <algorithm>
#include <cstring>
#include <link.h>
#include <memory>
#include <numeric>

namespace simt {

namespace {

Kernel* kernels; // filled by constructors of libraries: no constructor of its own

// The thread-local storage of a library on this thread. The kernels' libraries have nothing else in theirs than static
// shared memory.
struct ThreadStorage {
    const unsigned char* anchor;
    unsigned char* start = nullptr;
    size_t bytes = 0;
};

int find_storage(dl_phdr_info* library, size_t, void* data) {
    auto& wanted = *static_cast<ThreadStorage*>(data);
    auto* start = static_cast<unsigned char*>(library->dlpi_tls_data);
    if (start == nullptr)
        return 0;
    for (int i = 0; i < library->dlpi_phnum; ++i) {
        const auto& header = library->dlpi_phdr[i];
        if (header.p_type == PT_TLS && wanted.anchor >= start && wanted.anchor < start + header.p_memsz) {
            wanted.start = start;
            wanted.bytes = header.p_memsz;
            return 1;
        }
    }
    return 0;
}

std::vector<unsigned> block_order(unsigned n_blocks, Order order, Random& random) {
    std::vector<unsigned> blocks(n_blocks);
    std::iota(blocks.begin(), blocks.end(), 0u);
    if (order == Order::Reverse)
        std::reverse(blocks.begin(), blocks.end());
    for (unsigned left = n_blocks; order == Order::Random && left > 1; --left)
        std::swap(blocks[left - 1], blocks[random.below(left)]);
    return blocks;
}

} // namespace

void register_kernel(Kernel* kernel) {
    kernel->next = kernels;
    kernels = kernel;
}

const Kernel* first_kernel() { return kernels; }

const Kernel* find_kernel(const char* name) {
    for (const Kernel* kernel = kernels; kernel != nullptr; kernel = kernel->next)
        if (strcmp(kernel->name, name) == 0)
            return kernel;
    return nullptr;
}

std::string run(const Launch& launch, const Policy& policy) {
    static thread_local std::unique_ptr<Block> kept;
    if (!kept)
        kept = std::make_unique<Block>();
    Block& block = *kept;
    ThreadStorage storage{static_cast<const unsigned char*>(launch.kernel->thread_local_anchor())};
    dl_iterate_phdr(find_storage, &storage);
    block.statics = storage.start;
    block.statics_bytes = storage.bytes;
    block.launch = &launch;
    block.policy = policy;
    block.random = Random(policy.seed);

    const uint3 grid = launch.grid;
    for (const unsigned i : block_order(grid.x * grid.y * grid.z, policy.order, block.random))
        if (!block.run({i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)}))
            return block.report;
    return {};
}

} // namespace simt
