// larder.hpp, in the mode that the build chooses: results (own or std::expected) or exceptions.
#include "cpp_api.hpp"

#include <cmath>
#include <ranges>
#include <thread>
#include <type_traits>

static_assert(!std::is_copy_constructible_v<larder::engine> &&
              !std::is_copy_assignable_v<larder::engine>);
static_assert(!std::is_copy_constructible_v<larder::sequence> &&
              !std::is_copy_constructible_v<larder::request>);
static_assert(std::is_nothrow_move_constructible_v<larder::engine> &&
              std::is_nothrow_destructible_v<larder::engine>);
static_assert(std::is_nothrow_move_assignable_v<larder::sequence> &&
              std::is_nothrow_destructible_v<larder::sequence>);
static_assert(std::is_nothrow_move_assignable_v<larder::request> &&
              std::is_nothrow_destructible_v<larder::request>);
static_assert(std::ranges::input_range<larder::event_stream> &&
              !std::ranges::forward_range<larder::event_stream>);
// Who adds a field to larder.h's structs adds it to larder.hpp's.
static_assert(sizeof(larder_options) == 96 && sizeof(larder_hooks) == 64 &&
              sizeof(larder_batch) == 48);
static_assert(sizeof(larder_request_options) == 168 && sizeof(larder_sampling) == 64 &&
              sizeof(larder_event) == 80);
static_assert(sizeof(larder_name_space_options) == 16 && sizeof(larder_output) == 40);

namespace {

constexpr std::uint32_t PROMPT[] = {20, 30, 40, 50};

void plan_tells_what_memory_is(const std::string& model) {
    const larder::memory planned = value(larder::engine::plan(model, small()));
    const larder::engine engine = value(larder::engine::create(model, small()));
    const larder::memory used = value(engine.memory());
    CHECK(std::memcmp(&planned, &used, sizeof used) == 0 && used.weights_bytes > 0);
    CHECK(value(engine.describe()).size() > 20);
    CHECK(value(larder::engine::plan(model)).total_tokens > 0);
    CHECK(larder::version() == larder_version());
}

void errors_have_words(const std::string& model) {
    using larder::engine;
    FAILS(io, "/nonexistent", engine::create("/nonexistent/model.gguf"));
    FAILS(invalid_argument, "options.device", engine::plan(model, {.device = 7}));
    FAILS(out_of_memory, "memory_limit", engine::create(model, {.memory_limit_bytes = 1}));
    engine engine = value(engine::create(model, small()));
    FAILS(invalid_argument, "prompt", engine.submit({}));
    FAILS(invalid_argument, "temperature",
          engine.submit({.prompt_tokens = PROMPT, .sampling = {.temperature = -1}}));
    FAILS(invalid_argument, "stops[1]",
          engine.submit({.prompt_tokens = PROMPT, .stops = {"a", "\xff"}}));
    FAILS(invalid_argument, "1000000",
          engine.submit({.prompt_tokens = PROMPT, .sampling = {.biases = {{1000000, 1.0f}}}}));
    FAILS(invalid_argument, "prefix", larder::prometheus(value(engine.stats()), "a b"));
}

void text(const larder::engine& engine) {
    const auto tokens = value(engine.tokenize("the question"));
    CHECK(!tokens.empty() && value(engine.detokenize(tokens)) == "the question");
    CHECK(value(engine.tokenize("")).empty() && value(engine.detokenize({})).empty());
    const std::string long_text(5000, 'q');
    CHECK(value(engine.detokenize(value(engine.tokenize(long_text)))) == long_text);
    const std::string chat = value(engine.render_chat(R"([{"role":"user","content":"hi"}])"));
    CHECK(chat.find("hi") != std::string::npos);
    CHECK(value(engine.tokenize("<|im_end|>", {.parse_special = true})).size() == 1);
    CHECK(value(engine.tokenize("<|im_end|>")).size() > 1);
    FAILS(invalid_argument, "1000000", engine.detokenize(std::vector<std::uint32_t>{1000000}));
    FAILS(invalid_argument, "messages", engine.render_chat("["));
}

std::vector<float> last_logits(const larder::output& output) {
    CHECK(output.n_logits_rows == 1 && output.logits.size() == output.vocabulary_size);
    const auto row = output.logits_row(0);
    return {row.begin(), row.end()};
}

void forward(larder::engine& engine) {
    larder::sequence sequence = value(engine.open_sequence());
    const auto whole = last_logits(value(engine.forward(sequence, PROMPT)));
    CHECK(value(sequence.length()) == 4);
    // A fork goes on from the same K and V.
    larder::sequence fork = value(sequence.fork(3));
    CHECK(last_logits(value(engine.forward(fork, std::span(PROMPT).last(1)))) == whole);
    check_ok([&] { return sequence.truncate(0); });
    CHECK(value(sequence.length()) == 0);

    const larder_sequence sequences[] = {sequence.id(), sequence.id(), fork.id()};
    const std::uint32_t tokens[] = {20, 30, 60};
    const std::uint8_t wants[] = {LARDER_WANT_HIDDEN, LARDER_WANT_HIDDEN, LARDER_WANT_LOGITS};
    const larder::output output = value(engine.forward({.tokens = tokens,
                                                        .sequences = sequences,
                                                        .wants = wants,
                                                        .pooling = LARDER_POOL_MEAN,
                                                        .normalize = true}));
    CHECK(output.n_hidden_rows == 1 && output.n_logits_rows == 1);
    double length = 0;
    for (float x : output.hidden_row(0)) length += double{x} * double{x};
    CHECK(std::abs(length - 1) < 1e-4);

    FAILS(invalid_argument, "batch.tokens",
          engine.forward({.tokens = std::span(tokens).first(2), .sequences = sequences}));
    FAILS(invalid_argument, "batch.wants",
          engine.forward(
              {.tokens = tokens, .sequences = sequences, .wants = std::span(wants).first(1)}));
    const float half_a_row[] = {1};
    FAILS(invalid_argument, "batch.embeddings",
          engine.forward({.embeddings = half_a_row, .sequences = sequences}));
    FAILS(invalid_argument, "n_rows", engine.forward({}));
    const larder_tensors tensors =
        value(engine.forward_tensors({.tokens = tokens, .sequences = sequences}));
    CHECK(tensors.logits != nullptr && tensors.hidden == nullptr);

    // Ended by hand, by its destructor, and after it was moved away from.
    check_ok([&] { return sequence.release(); });
    FAILS(stale_handle, "sequence", sequence.length());
    fork = value(engine.open_sequence());
    larder::sequence moved = std::move(fork);
    CHECK(value(moved.length()) == 0 && fork.id() == 0);
}

/// All four places can be taken again: no destructor has left one.
void nothing_is_left(larder::engine& engine) {
    std::vector<larder::sequence> all;
    for (int i = 0; i < 4; i++) all.push_back(value(engine.open_sequence()));
    FAILS(limit_reached, "max_sequences", engine.open_sequence());
}

void requests(larder::engine& engine) {
    std::string by_stream, by_steps;
    std::uint32_t n_tokens = 0;
    const larder::request_options options{
        .prompt_tokens = PROMPT,
        .max_new_tokens = 6,
        .user = 42,
        .sampling = {.n_logprobs = 2, .biases = {{2, -INFINITY}}}};
    larder::request request = value(engine.submit(options));
    bool has_ended = false;
    for (const auto& item : engine.events(request)) {
        const larder::event& event = value(item);
        CHECK(!has_ended && event.user == 42 && event.n_prompt_tokens == 4);
        by_stream += event.text;
        n_tokens += event.kind == larder::event_kind::token;
        if (!event.is_end())
            CHECK(event.token && event.top_logprobs.size() == 2 && event.logprob <= 0);
        has_ended = event.is_end();
        if (has_ended)
            CHECK(event.finish == larder::finish::length && event.reason == larder::status::ok);
    }
    CHECK(has_ended && n_tokens == 6);

    larder::request again = value(engine.submit(options));
    CHECK(value(engine.wait(std::chrono::milliseconds(0))) && value(engine.wait()));
    for (bool ended = false; !ended;) {
        for (const larder::event& event : value(engine.step())) {
            CHECK(event.request == again.id());
            by_steps += event.text;
            ended = event.is_end();
        }
    }
    CHECK(by_steps == by_stream);
    CHECK(!value(engine.wait(std::chrono::milliseconds(1))) &&
          !value(engine.wait(std::chrono::milliseconds(-5))));
    // Nothing comes of a request that has ended already.
    for (const auto& item : engine.events(again)) CHECK(!value(item).is_end());
}

void many_requests(larder::engine& engine) {
    larder::request mine = value(engine.submit({.prompt_tokens = PROMPT, .max_new_tokens = 8}));
    std::vector<larder::request> others;
    for (int i = 0; i < 2; i++)
        others.push_back(value(engine.submit({.prompt_tokens = PROMPT, .max_new_tokens = 3})));
    int n_other_ends = 0, n_ends = 0;
    const auto count_other = [&](const larder::event& event) { n_other_ends += event.is_end(); };
    for (const auto& item : engine.events(mine, count_other)) n_ends += value(item).is_end();
    CHECK(n_ends == 1 && n_other_ends == 2);
    check_ok([&] { return mine.cancel(); });

    // A request that goes out of scope is cancelled, one that was detached is not.
    larder_request kept = 0;
    {
        larder::request dropped =
            value(engine.submit({.prompt_tokens = PROMPT, .max_new_tokens = 50}));
        larder::request detached =
            value(engine.submit({.prompt_tokens = PROMPT, .max_new_tokens = 2}));
        kept = detached.detach();
    }
    int n_cancelled = 0, n_kept = 0;
    while (value(engine.wait(std::chrono::milliseconds(0)))) {
        for (const larder::event& event : value(engine.step())) {
            n_cancelled += event.finish == larder::finish::cancelled;
            n_kept += event.request == kept && event.is_end();
        }
    }
    CHECK(n_cancelled == 1 && n_kept == 1);
    const larder::stats stats = value(engine.stats());
    CHECK(stats.steps > 0 && stats.total_slots == stats.used_slots + stats.free_slots);
    CHECK(value(larder::prometheus(stats, "larder_")).starts_with("# HELP larder_total_slots "));
}

void engines_live_as_long_as_needed(const std::string& model) {
    std::optional<larder::sequence> sequence;
    std::optional<larder::request> request;
    {
        larder::engine engine = value(larder::engine::create(model, small()));
        larder::engine moved = std::move(engine);
        sequence.emplace(value(moved.open_sequence()));
        request.emplace(value(moved.submit({.prompt_tokens = PROMPT})));
        CHECK(value(moved.event_fd()) >= 0);
    }
    CHECK(value(sequence->length()) == 0);
    check_ok([&] { return request->cancel(); });
}

void hooks(const std::string& model) {
    int n_lines = 0, n_parallel = 0;
    std::uint64_t n_read = 0;
    larder::options options = small();
    options.n_threads = 2;
    options.hooks = {
        .log_level = 4,
        .log = [&](std::uint32_t, std::string_view line) { n_lines += !line.empty(); },
        .progress =
            [&](std::uint64_t done, std::uint64_t total) {
                n_read = done;
                return done <= total;
            },
        .parallel_for =
            [&](std::uint32_t n_tasks, larder::task task) {
                n_parallel++;
                for (std::uint32_t i = 0; i < n_tasks; i++) task(i);
            },
    };
    {
        larder::engine engine = value(larder::engine::create(model, options));
        options.hooks = {};  // the engine has its own
        larder::request request =
            value(engine.submit({.prompt_tokens = PROMPT, .max_new_tokens = 2}));
        for (const auto& item : engine.events(request)) CHECK(value(item).request == request.id());
    }
    CHECK(n_read > 0 && n_parallel > 0);
    options.hooks.progress = [](std::uint64_t, std::uint64_t) { return false; };
    FAILS(cancelled, "stopped", larder::engine::create(model, options));
#if defined(__cpp_exceptions)
    options.hooks.progress = [](std::uint64_t, std::uint64_t) -> bool { throw 7; };
    FAILS(cancelled, "stopped", larder::engine::create(model, options));
    options.hooks = {.allocate = [](larder::block, std::size_t, std::size_t) -> void* { throw 7; },
                     .deallocate = [](larder::block, void*, std::size_t) {}};
    FAILS(out_of_memory, "refused", larder::engine::create(model, options));
#endif
}

/// Threads submit and meddle with sequences while one steps; a destructor waits where a call would be busy.
void threads(larder::engine& engine) {
    constexpr int N = 10;
    std::thread other([&] {
        for (int i = 0; i < N; i++) {
            larder::request request =
                value(engine.submit({.prompt_tokens = PROMPT, .max_new_tokens = 2}));
            request.detach();
            open_and_drop(engine);
            CHECK(value(engine.stats()).total_slots > 0);
            while (value(engine.wait(std::chrono::milliseconds(0)))) std::this_thread::yield();
        }
    });
    for (int n_ended = 0; n_ended < N;) {
        if (!value(engine.wait(std::chrono::milliseconds(100)))) continue;
        step_or_busy(engine, [&](const larder::event& event) { n_ended += event.is_end(); });
    }
    other.join();
}

}  // namespace

int main(int argc, char** argv) {
    const std::string model = model_of(argc, argv);
    plan_tells_what_memory_is(model);
    errors_have_words(model);
    larder::engine engine = value(larder::engine::create(model, small()));
    text(engine);
    forward(engine);
    nothing_is_left(engine);
    requests(engine);
    many_requests(engine);
    threads(engine);
    nothing_is_left(engine);
    engines_live_as_long_as_needed(model);
    hooks(model);
    CHECK(in_the_other_mode(model.c_str()) == 0);
    return finish();
}
