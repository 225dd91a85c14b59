// The header as C++17: included twice, and every struct and call is usable.
#include "larder.h"
#include "larder.h"

#include <type_traits>

static_assert(std::is_standard_layout<larder_options>::value, "options");
static_assert(sizeof(larder_options) == 96 && sizeof(larder_hooks) == 64, "sizes are pinned");
static_assert(sizeof(larder_memory) == 80 && sizeof(larder_batch) == 48, "sizes are pinned");
static_assert(sizeof(larder_output) == 40 && sizeof(larder_sampling) == 64, "sizes are pinned");
static_assert(sizeof(larder_request_options) == 168 && sizeof(larder_event) == 80, "sizes are pinned");
static_assert(sizeof(larder_stats) == 208 && sizeof(larder_name_space_options) == 16, "sizes are pinned");

int main() {
    larder_memory memory{};
    larder_memory_init(&memory);
    return larder_engine_plan(nullptr, nullptr, &memory) != LARDER_INVALID_ARGUMENT;
}
