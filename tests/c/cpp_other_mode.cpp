// A second file that includes larder.hpp, in another mode than the first where there are exceptions: both go into one
// program.
#if defined(LARDER_EXCEPTIONS)
#undef LARDER_EXCEPTIONS
#elif defined(__cpp_exceptions)
#define LARDER_EXCEPTIONS
#endif
#include "larder.hpp"

int in_the_other_mode(const char* model) {
#if defined(LARDER_EXCEPTIONS)
    try {
        static_cast<void>(larder::engine::create("/nonexistent/model.gguf"));
        return 1;
    } catch (const larder::error& error) {
        if (error.code() != larder::status::io) return 2;
    }
    larder::engine engine = larder::engine::create(model, {.n_threads = 1, .max_sequences = 1});
    const larder::memory memory = engine.memory();
    return memory.weights_bytes > 0 ? 0 : 3;
#else
    if (larder::engine::create("/nonexistent/model.gguf")) return 1;
    const auto engine = larder::engine::create(model, {.n_threads = 1, .max_sequences = 1});
    if (!engine) return 2;
    const auto memory = engine->memory();
    return memory && memory->weights_bytes > 0 ? 0 : 3;
#endif
}
