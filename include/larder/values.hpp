/* Part of larder.hpp: what goes in and out, as plain structs for designated initialisers. */
#ifndef LARDER_VALUES_HPP
#define LARDER_VALUES_HPP

#include "result.hpp"

#include <cstddef>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace larder {
inline namespace LARDER_MODE {

/// Bytes by class: larder_memory.
using memory = larder_memory;
/// Numbers as of the end of the last step: larder_stats.
using stats = larder_stats;
/// One of the most likely tokens of a position.
using token_logprob = larder_token_logprob;

/// hooks.allocate: which memory.
enum class block : std::uint32_t {
    host = LARDER_BLOCK_HOST,
    host_pinned = LARDER_BLOCK_HOST_PINNED,
    device = LARDER_BLOCK_DEVICE,
};

/// One piece of the work that hooks.parallel_for hands to the host's threads. Copy it freely during that call.
class task {
public:
    task(larder_task function, void* context) noexcept : function_(function), context_(context) {}
    void operator()(std::uint32_t index) const { function_(context_, index); }

private:
    larder_task function_;
    void* context_;
};

/// What the host may lend; kept by the engine until its end. Empty: larder's own way. They must not call the engine.
/// One that throws: progress stops the load, allocate refuses, log and evicted are over; the others must not throw.
struct hooks {
    /// 0 nothing, 1 errors, 2 warnings, 3 information, 4 debugging.
    std::uint32_t log_level = 0;
    /// One line, without a line end.
    std::function<void(std::uint32_t level, std::string_view line)> log = {};
    /// While weights are read; false stops the load: status::cancelled.
    std::function<bool(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress = {};
    /// The few big blocks; nullptr: refused. Needs deallocate.
    std::function<void*(block kind, std::size_t bytes, std::size_t alignment)> allocate = {};
    /// Takes back what allocate gave.
    std::function<void(block kind, void* address, std::size_t bytes)> deallocate = {};
    /// Runs task(0) .. task(n_tasks - 1), on any threads, and returns when all have returned.
    std::function<void(std::uint32_t n_tasks, task run)> parallel_for = {};
    /// Tokens of a cached prefix have left the KV repo.
    std::function<void(std::uint64_t name_space, std::uint64_t n_tokens)> evicted = {};
};

/// What an engine is to be; larder_options tells each field's meaning and default.
struct options {
    /// LARDER_DEVICE_
    std::uint32_t device = LARDER_DEVICE_CPU;
    std::uint32_t device_index = 0;
    std::uint32_t n_threads = 0;
    std::uint64_t memory_limit_bytes = 0;
    std::uint64_t total_tokens = 0;
    std::uint32_t max_sequence_tokens = 0;
    std::uint32_t max_sequences = 0;
    std::uint32_t max_requests = 0;
    std::uint32_t max_batch_rows = 0;
    std::uint32_t max_logits_rows = 0;
    /// LARDER_KV_
    std::uint32_t k_type = LARDER_KV_BF16;
    /// LARDER_KV_
    std::uint32_t v_type = LARDER_KV_BF16;
    /// LARDER_AREA_
    std::uint32_t area_mode = LARDER_AREA_AUTO;
    /// LARDER_FLAG_ bits
    std::uint32_t flags = 0;
    void* cuda_context = nullptr;
    void* cuda_stream = nullptr;
    larder::hooks hooks = {};
};

/// A token whose logit is changed; minus infinity bans it.
struct token_bias {
    std::uint32_t token = 0;
    float bias = 0;
};

/// How a request's tokens are chosen; larder_sampling tells each field's meaning. As it is: greedy.
struct sampling {
    float temperature = 0;
    std::uint32_t top_k = 0;
    float top_p = 1;
    float min_p = 0;
    float repetition_penalty = 1;
    float presence_penalty = 0;
    float frequency_penalty = 0;
    std::uint64_t seed = 0;
    std::uint32_t n_logprobs = 0;
    std::vector<token_bias> biases = {};
};

/// What larder_request_options.constraint is.
enum class constraint_kind : std::uint32_t { none = 0, json_schema = 1, regex = 2, lark = 3 };

/// What a request asks for: prompt_tokens or prompt_text. Copied by submit. larder_request_options tells the rest.
struct request_options {
    std::span<const std::uint32_t> prompt_tokens = {};
    std::string_view prompt_text = {};
    /// For prompt_text: control tokens that are written out are those tokens. A rendered chat needs it.
    bool parse_special = false;
    /// 0: as many as fit.
    std::uint32_t max_new_tokens = 0;
    std::uint32_t expected_new_tokens = 0;
    std::uint32_t n_answers = 1;
    std::int32_t priority = 0;
    std::uint64_t name_space = 0;
    /// Comes back in each event.
    std::uint64_t user = 0;
    std::vector<std::string_view> stops = {};
    constraint_kind constrained_by = constraint_kind::none;
    std::string_view constraint = {};
    larder::sampling sampling = {};
};

/// What an event tells.
enum class event_kind : std::uint32_t {
    token = LARDER_EVENT_TOKEN,
    finished = LARDER_EVENT_FINISHED,
    failed = LARDER_EVENT_FAILED,
};

/// Why an answer has finished; none as long as it has not.
enum class finish : std::uint32_t {
    none = 0,
    stop = LARDER_FINISH_STOP,
    length = LARDER_FINISH_LENGTH,
    cancelled = LARDER_FINISH_CANCELLED,
    constraint = LARDER_FINISH_CONSTRAINT,
};

/// What happened to a request. text and top_logprobs are valid until the engine's next step.
struct event {
    larder_request request = 0;
    std::uint64_t user = 0;
    event_kind kind = event_kind::token;
    std::uint32_t answer = 0;
    std::optional<std::uint32_t> token = {};
    float logprob = 0;
    larder::finish finish = larder::finish::none;
    /// Why an answer failed.
    status reason = status::ok;
    std::string_view text = {};
    std::uint32_t n_prompt_tokens = 0;
    std::uint32_t n_cached_tokens = 0;
    std::span<const token_logprob> top_logprobs = {};

    /// The last event of its answer.
    bool is_end() const noexcept { return kind != event_kind::token; }
};

/// What the prefix cache does for one namespace: larder_name_space_options.
struct name_space_options {
    bool is_pinned = false;
    /// 0: no limit of its own.
    std::uint32_t max_idle_tokens = 0;
    bool keeps_nothing = false;
};

/// The rows of one forward pass. All spans that are given have one element per row, embeddings hidden_size.
struct batch {
    std::span<const std::uint32_t> tokens = {};
    /// In place of tokens: [rows][hidden_size].
    std::span<const float> embeddings = {};
    /// Whose row it is: sequence::id().
    std::span<const larder_sequence> sequences = {};
    /// LARDER_WANT_ bits; empty: logits of each sequence's last row.
    std::span<const std::uint8_t> wants = {};
    /// LARDER_POOL_
    std::uint32_t pooling = LARDER_POOL_NONE;
    bool normalize = false;
};

/// What forward computed, valid until the engine's next forward, step or end.
struct output {
    std::uint32_t n_logits_rows = 0;
    std::uint32_t n_hidden_rows = 0;
    std::uint32_t vocabulary_size = 0;
    std::uint32_t hidden_size = 0;
    /// [n_logits_rows][vocabulary_size]
    std::span<const float> logits = {};
    /// [n_hidden_rows][hidden_size]
    std::span<const float> hidden = {};

    /// Row i of logits; i < n_logits_rows.
    std::span<const float> logits_row(std::size_t i) const {
        return logits.subspan(i * vocabulary_size, vocabulary_size);
    }
    /// Row i of hidden; i < n_hidden_rows.
    std::span<const float> hidden_row(std::size_t i) const {
        return hidden.subspan(i * hidden_size, hidden_size);
    }
};

/// What tokenize does beside plain text.
struct tokenize_options {
    /// Adds what the model wants around a text (BOS, EOS).
    bool add_special = false;
    /// Control tokens that are written out become those tokens.
    bool parse_special = false;
};

}  // namespace LARDER_MODE
}  // namespace larder

#endif
