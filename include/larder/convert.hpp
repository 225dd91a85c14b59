/* Part of larder.hpp: its structs as larder.h's, and the engine with what belongs to it. */
#ifndef LARDER_CONVERT_HPP
#define LARDER_CONVERT_HPP

#include "values.hpp"

#include <algorithm>
#include <atomic>

namespace larder {
inline namespace LARDER_MODE {
namespace detail {

/// A length for a 32-bit field; what is too long stays so for larder to refuse.
inline std::uint32_t count(std::size_t n) noexcept {
    return static_cast<std::uint32_t>(std::min<std::size_t>(n, UINT32_MAX));
}

/// A struct of larder.h: every field 0, its default.
template <class T>
T defaults() noexcept {
    T value{};
    value.struct_size = static_cast<std::uint32_t>(sizeof(T));
    return value;
}

inline larder_text text_of(std::string_view text) noexcept { return {text.data(), text.size()}; }

/// Calls a host's function; when it throws, `otherwise` is the answer.
template <class T, class F>
T shielded(T otherwise, F&& call) noexcept {
#if defined(__cpp_exceptions)
    try {
        return call();
    } catch (...) {
        return otherwise;
    }
#else
    static_cast<void>(otherwise);
    return call();
#endif
}

/// The hooks as C functions, whose user is the C++ struct.
struct trampolines {
    static hooks& of(void* user) noexcept { return *static_cast<hooks*>(user); }

    static void log(void* user, std::uint32_t level, const char* text, std::size_t length) {
        shielded(0, [&] { return of(user).log(level, {text, length}), 0; });
    }
    static std::int32_t progress(void* user, std::uint64_t done, std::uint64_t total) {
        return shielded(1, [&] { return of(user).progress(done, total) ? 0 : 1; });
    }
    static void* allocate(void* user, std::uint32_t kind, std::size_t bytes,
                          std::size_t alignment) {
        return shielded<void*>(
            nullptr, [&] { return of(user).allocate(static_cast<block>(kind), bytes, alignment); });
    }
    static void deallocate(void* user, std::uint32_t kind, void* address,
                           std::size_t bytes) noexcept {
        of(user).deallocate(static_cast<block>(kind), address, bytes);
    }
    static void parallel_for(void* user, std::uint32_t n_tasks, larder_task function,
                             void* context) noexcept {
        of(user).parallel_for(n_tasks, task(function, context));
    }
    static void evicted(void* user, std::uint64_t name_space, std::uint64_t n_tokens) {
        shielded(0, [&] { return of(user).evicted(name_space, n_tokens), 0; });
    }
};

/// Keeps a pointer to `from`.
inline larder_hooks c_hooks(hooks& from) noexcept {
    auto to = defaults<larder_hooks>();
    to.log_level = from.log_level;
    to.user = &from;
    if (from.log) to.log = trampolines::log;
    if (from.progress) to.progress = trampolines::progress;
    if (from.allocate) to.allocate = trampolines::allocate;
    if (from.deallocate) to.deallocate = trampolines::deallocate;
    if (from.parallel_for) to.parallel_for = trampolines::parallel_for;
    if (from.evicted) to.evicted = trampolines::evicted;
    return to;
}

/// Without its hooks.
inline larder_options c_options(const options& from) noexcept {
    auto to = defaults<larder_options>();
    to.device = from.device;
    to.device_index = from.device_index;
    to.n_threads = from.n_threads;
    to.memory_limit_bytes = from.memory_limit_bytes;
    to.total_tokens = from.total_tokens;
    to.max_sequence_tokens = from.max_sequence_tokens;
    to.max_sequences = from.max_sequences;
    to.max_requests = from.max_requests;
    to.max_batch_rows = from.max_batch_rows;
    to.max_logits_rows = from.max_logits_rows;
    to.k_type = from.k_type;
    to.v_type = from.v_type;
    to.area_mode = from.area_mode;
    to.flags = from.flags;
    to.cuda_context = from.cuda_context;
    to.cuda_stream = from.cuda_stream;
    return to;
}

/// A request's options for C, with the arrays that they point into.
struct c_request {
    larder_request_options options = defaults<larder_request_options>();
    std::vector<larder_text> stops;
    std::vector<std::uint32_t> bias_tokens;
    std::vector<float> biases;

    explicit c_request(const request_options& from) {
        options.prompt_tokens = from.prompt_tokens.data();
        options.n_prompt_tokens = count(from.prompt_tokens.size());
        options.prompt_text = text_of(from.prompt_text);
        options.prompt_flags = from.parse_special ? LARDER_TEXT_PARSE_SPECIAL : 0;
        options.max_new_tokens = from.max_new_tokens;
        options.expected_new_tokens = from.expected_new_tokens;
        options.n_answers = from.n_answers;
        options.priority = from.priority;
        options.name_space = from.name_space;
        options.user = from.user;
        for (std::string_view stop : from.stops) stops.push_back(text_of(stop));
        options.stops = stops.data();
        options.n_stops = count(stops.size());
        options.constraint_kind = static_cast<std::uint32_t>(from.constrained_by);
        options.constraint = text_of(from.constraint);
        choose(from.sampling);
    }
    c_request(const c_request&) = delete;
    c_request& operator=(const c_request&) = delete;

private:
    void choose(const sampling& from) {
        auto& to = options.sampling = defaults<larder_sampling>();
        to.temperature = from.temperature;
        to.top_k = from.top_k;
        to.top_p = from.top_p;
        to.min_p = from.min_p;
        to.repetition_penalty = from.repetition_penalty;
        to.presence_penalty = from.presence_penalty;
        to.frequency_penalty = from.frequency_penalty;
        to.seed = from.seed;
        to.n_logprobs = from.n_logprobs;
        for (const token_bias& bias : from.biases) {
            bias_tokens.push_back(bias.token);
            biases.push_back(bias.bias);
        }
        to.bias_tokens = bias_tokens.data();
        to.biases = biases.data();
        to.n_biases = count(biases.size());
    }
};

inline event event_from(const larder_event& from) noexcept {
    event to;
    to.request = from.request;
    to.user = from.user;
    to.kind = static_cast<event_kind>(from.kind);
    to.answer = from.answer;
    if (from.token != LARDER_NO_TOKEN) to.token = from.token;
    to.logprob = from.logprob;
    to.finish = static_cast<finish>(from.finish);
    to.reason = static_cast<status>(from.status);
    to.text = {from.text, from.text_length};
    to.n_prompt_tokens = from.n_prompt_tokens;
    to.n_cached_tokens = from.n_cached_tokens;
    to.top_logprobs = {from.top_logprobs, from.n_top_logprobs};
    return to;
}

/// The batch for C, or why its spans do not fit together.
inline const char* convert(const batch& from, larder_batch& to) noexcept {
    const std::size_t n_rows = from.sequences.size();
    to = defaults<larder_batch>();
    to.n_rows = count(n_rows);
    if (!from.tokens.empty()) {
        if (from.tokens.size() != n_rows)
            return "batch.tokens and batch.sequences differ in length";
        to.tokens = from.tokens.data();
    }
    if (!from.embeddings.empty()) {
        if (n_rows == 0 || from.embeddings.size() % n_rows != 0) {
            return "batch.embeddings are not whole rows for batch.sequences";
        }
        to.embeddings = from.embeddings.data();
    }
    if (!from.wants.empty()) {
        if (from.wants.size() != n_rows) return "batch.wants and batch.sequences differ in length";
        to.wants = from.wants.data();
    }
    to.sequences = from.sequences.data();
    to.pooling = from.pooling;
    to.normalize = from.normalize;
    return nullptr;
}

inline output output_from(const larder_output& from) noexcept {
    const std::size_t n_logits = std::size_t{from.n_logits_rows} * from.vocabulary_size;
    const std::size_t n_hidden = std::size_t{from.n_hidden_rows} * from.hidden_size;
    return {from.n_logits_rows, from.n_hidden_rows,      from.vocabulary_size,
            from.hidden_size,   {from.logits, n_logits}, {from.hidden, n_hidden}};
}

/// A result of unknown length: `call(data, capacity, &needed)` until it fits.
template <class Buffer, class Call>
larder_status fetch(Buffer& buffer, std::size_t guess, Call&& call) {
    buffer.resize(guess);
    for (;;) {
        std::size_t needed = 0;
        const larder_status code = call(buffer.data(), buffer.size(), &needed);
        if (code == LARDER_OK || needed > buffer.size()) buffer.resize(needed);
        if (code != LARDER_BUFFER_TOO_SMALL) return code;
    }
}

/// An engine and what must live as long: shared by the C++ objects that use it.
struct shared_engine {
    hooks lent;
    larder_engine* handle = nullptr;
    /// A step's events, as C gives them and as they are handed on.
    std::vector<larder_event> raw_events;
    std::vector<event> events;
    /// Some thread is in step.
    std::atomic_flag is_stepping;

    shared_engine() = default;
    shared_engine(const shared_engine&) = delete;
    shared_engine& operator=(const shared_engine&) = delete;
    ~shared_engine() { larder_engine_release(handle); }
};

}  // namespace detail
}  // namespace LARDER_MODE
}  // namespace larder

#endif
