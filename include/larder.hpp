/*
 * larder.hpp: larder for C++20, header-only over larder.h, whose comments tell the rest of each call.
 *
 *     auto engine = larder::engine::create("model.gguf", {.memory_limit_bytes = 2ull << 30});
 *     if (!engine) return fail(engine.error().what());
 *     auto request = engine->submit({.prompt_text = "Once upon a time", .max_new_tokens = 64});
 *     if (!request) return fail(request.error().what());
 *     for (const auto& event : engine->events(*request)) {
 *         if (event) std::cout << event->text;
 *     }
 *
 * Errors      What can fail returns result<T>: std::expected<T, error> where the standard library has it, else a small
 *             type of the same use. With LARDER_EXCEPTIONS defined before the include, result<T> is T, and failures
 *             are thrown as larder::error. Files of one program may differ in that.
 * Ownership   engine, sequence and request are moved, never copied. Sequences and requests keep their engine alive, so
 *             they may be destroyed in any order; destructors do not throw.
 * Threads     As in larder.h: submit, cancel, stats and wait from any thread, one forward or step at a time. Different
 *             threads may use one engine object at once, but not move it meanwhile.
 */
#ifndef LARDER_HPP
#define LARDER_HPP

#include "larder/convert.hpp"

#include <chrono>
#include <iterator>
#include <memory>
#include <thread>

namespace larder {
/// The modes' functions have different names for the linker: files with different modes go into one program.
inline namespace LARDER_MODE {

class engine;

/// A list of tokens with their K and V, for forward. The destructor releases it, and waits for that while another call
/// runs on the engine.
class sequence {
public:
    sequence(sequence&& other) noexcept
        : engine_(std::move(other.engine_)), id_(std::exchange(other.id_, 0)) {}
    sequence& operator=(sequence&& other) noexcept {
        std::swap(engine_, other.engine_);
        std::swap(id_, other.id_);
        return *this;
    }
    ~sequence() {
        while (id_ != 0 && larder_sequence_release(engine_->handle, id_) == LARDER_BUSY) {
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        }
    }

    /// For batch.sequences.
    larder_sequence id() const noexcept { return id_; }

    /// How many tokens it has.
    result<std::uint64_t> length() const {
        std::uint64_t n_tokens = 0;
        const auto code = larder_sequence_length(engine_->handle, id_, &n_tokens);
        return detail::made(code, n_tokens);
    }

    /// A sequence that shares the first n_tokens; nothing is copied.
    result<sequence> fork(std::uint64_t n_tokens) const {
        larder_sequence child = 0;
        const auto code = larder_sequence_fork(engine_->handle, id_, n_tokens, &child);
        return detail::made(code, sequence(engine_, child));
    }

    /// Forgets all but the first n_tokens.
    result<void> truncate(std::uint64_t n_tokens) {
        return detail::done(larder_sequence_truncate(engine_->handle, id_, n_tokens));
    }

    /// Ends it now, or says status::busy; the destructor has nothing left to do then.
    result<void> release() {
        const auto code = larder_sequence_release(engine_->handle, id_);
        if (code == LARDER_OK) id_ = 0;
        return detail::done(code);
    }

private:
    friend class engine;
    sequence(std::shared_ptr<detail::shared_engine> engine, larder_sequence id) noexcept
        : engine_(std::move(engine)), id_(id) {}

    std::shared_ptr<detail::shared_engine> engine_;
    larder_sequence id_;
};

/// A submitted request. The destructor cancels it, which is nothing for one that has ended; detach lets it run on.
class request {
public:
    request(request&& other) noexcept
        : engine_(std::move(other.engine_)),
          id_(std::exchange(other.id_, 0)),
          n_answers_(other.n_answers_) {}
    request& operator=(request&& other) noexcept {
        std::swap(engine_, other.engine_);
        std::swap(id_, other.id_);
        std::swap(n_answers_, other.n_answers_);
        return *this;
    }
    ~request() {
        if (id_ != 0) larder_request_cancel(engine_->handle, id_);
    }

    /// As in event.request.
    larder_request id() const noexcept { return id_; }
    /// As many events will have is_end().
    std::uint32_t n_answers() const noexcept { return n_answers_; }

    /// Ends it: its answers finish with finish::cancelled in the next step. Any thread.
    result<void> cancel() { return detail::done(larder_request_cancel(engine_->handle, id_)); }

    /// Gives its handle away: nobody cancels it.
    larder_request detach() noexcept { return std::exchange(id_, 0); }

private:
    friend class engine;
    request(std::shared_ptr<detail::shared_engine> engine, larder_request id,
            std::uint32_t n_answers) noexcept
        : engine_(std::move(engine)), id_(id), n_answers_(n_answers) {}

    std::shared_ptr<detail::shared_engine> engine_;
    larder_request id_;
    std::uint32_t n_answers_;
};

/// The events of one request as an input range: made by engine::events, read once.
class event_stream {
public:
    /// Steps the engine as it advances. Without exceptions an error is the last thing it gives.
    class iterator {
    public:
        using iterator_concept = std::input_iterator_tag;
        using value_type = result<event>;
        using difference_type = std::ptrdiff_t;

        const value_type& operator*() const noexcept { return *stream_->current_; }
        const value_type* operator->() const noexcept { return &*stream_->current_; }
        iterator& operator++() {
            stream_->advance();
            return *this;
        }
        void operator++(int) { stream_->advance(); }
        bool operator==(std::default_sentinel_t) const noexcept {
            return !stream_->current_.has_value();
        }

    private:
        friend class event_stream;
        explicit iterator(event_stream* stream) noexcept : stream_(stream) {}
        event_stream* stream_;
    };

    /// Steps until there is a first event.
    iterator begin() {
        if (!current_) advance();
        return iterator(this);
    }
    std::default_sentinel_t end() const noexcept { return {}; }

private:
    friend class engine;
    using on_other = std::function<void(const event&)>;
    event_stream(std::shared_ptr<detail::shared_engine> engine, const request& of, on_other others)
        : engine_(std::move(engine)),
          request_(of.id()),
          n_open_(of.n_answers()),
          others_(std::move(others)) {}

    inline void advance();
    inline bool has_work() const;

    std::shared_ptr<detail::shared_engine> engine_;
    larder_request request_;
    /// Answers that have not ended.
    std::uint32_t n_open_;
    on_other others_;
    /// What the last step brought and was not looked at yet.
    std::span<const event> ready_;
    std::optional<result<event>> current_;
};

/// A model on a device, with its KV repo and its compute area: larder_engine.
class engine {
public:
    /// The bytes that create would take; reads headers only.
    static result<larder::memory> plan(const std::string& model_path,
                                       const larder::options& options = {}) {
        larder::hooks lent = options.hooks;
        const larder_hooks lent_c = detail::c_hooks(lent);
        larder_options c = detail::c_options(options);
        c.hooks = &lent_c;
        auto planned = detail::defaults<larder_memory>();
        const auto code = larder_engine_plan(model_path.c_str(), &c, &planned);
        return detail::made(code, planned);
    }

    /// Loads a model and reserves everything; larder itself allocates nothing afterwards.
    static result<engine> create(const std::string& model_path,
                                 const larder::options& options = {}) {
        auto shared = std::make_shared<detail::shared_engine>();
        shared->lent = options.hooks;
        const larder_hooks lent_c = detail::c_hooks(shared->lent);
        larder_options c = detail::c_options(options);
        c.hooks = &lent_c;
        const std::size_t n_events = 2 * std::clamp<std::size_t>(options.max_sequences, 4, 4096);
        shared->raw_events.resize(n_events);
        shared->events.reserve(n_events);
        const auto code = larder_engine_create(model_path.c_str(), &c, &shared->handle);
        return detail::made(code, engine(std::move(shared)));
    }

    engine(engine&&) noexcept = default;
    engine& operator=(engine&&) noexcept = default;
    ~engine() = default;

    /// For calls of larder.h; still this object's.
    larder_engine* handle() const noexcept { return shared_->handle; }

    /// The bytes in use, as plan told.
    result<larder::memory> memory() const {
        auto used = detail::defaults<larder_memory>();
        const auto code = larder_engine_memory(handle(), &used);
        return detail::made(code, used);
    }

    /// What it has done and holds. Any thread, at any time.
    result<larder::stats> stats() const {
        auto numbers = detail::defaults<larder_stats>();
        const auto code = larder_engine_stats(handle(), &numbers);
        return detail::made(code, numbers);
    }

    /// A few lines for people.
    result<std::string> describe() const {
        std::string text;
        const auto call = [&](char* to, std::size_t n, std::size_t* needed) {
            return larder_engine_describe(handle(), to, n, needed);
        };
        const auto code = detail::fetch(text, 1024, call);
        return detail::made(code, std::move(text));
    }

    /// Queues a request. Any thread, also while a step runs.
    result<request> submit(const request_options& options) {
        const detail::c_request c(options);
        larder_request id = 0;
        const auto code = larder_request_submit(handle(), &c.options, &id);
        return detail::made(code, request(shared_, id, std::max(options.n_answers, 1u)));
    }

    /// One forward pass over everything that is admitted. Its events, and their texts, are valid until the next step.
    /// One thread at a time; a second one gets status::busy.
    result<std::span<const event>> step() { return step(*shared_); }

    /// The events of one request: steps until all its answers have ended. What the steps bring of other requests goes
    /// to `others`; without it, it is lost. Each event is valid until the loop goes on.
    event_stream events(const request& of, std::function<void(const event&)> others = {}) {
        return event_stream(shared_, of, std::move(others));
    }

    /// Sleeps until a step would have something to do, at most for the time; whether it has. Any thread.
    result<bool> wait(std::chrono::milliseconds timeout) {
        const auto longest = std::int64_t{LARDER_WAIT_FOREVER} - 1;
        const std::int64_t ms = std::clamp<std::int64_t>(timeout.count(), 0, longest);
        return wait_ms(static_cast<std::uint32_t>(ms));
    }
    /// The same for as long as it takes.
    result<bool> wait() { return wait_ms(LARDER_WAIT_FOREVER); }

    /// An eventfd to watch: larder_engine_event_fd. Not to be read or closed.
    result<std::int32_t> event_fd() {
        std::int32_t fd = -1;
        const auto code = larder_engine_event_fd(handle(), &fd);
        return detail::made(code, fd);
    }

    /// An empty sequence.
    result<sequence> open_sequence() {
        larder_sequence id = 0;
        const auto code = larder_sequence_open(handle(), &id);
        return detail::made(code, sequence(shared_, id));
    }

    /// One forward pass over rows that the host chooses. The output is valid until the next forward or step.
    result<output> forward(const batch& rows) {
        larder_batch c;
        if (const char* why = detail::convert(rows, c)) {
            return detail::failed<output>(detail::refused(why));
        }
        auto out = detail::defaults<larder_output>();
        const auto code = larder_engine_forward(handle(), &c, &out);
        return detail::made(code, detail::output_from(out));
    }

    /// Appends tokens to one sequence; the logits are those of the last one.
    result<output> forward(const sequence& to, std::span<const std::uint32_t> tokens) {
        const std::vector<larder_sequence> sequences(tokens.size(), to.id());
        return forward({.tokens = tokens, .sequences = sequences});
    }

    /// As forward, but the rows stay on the device: larder_engine_forward_tensors.
    result<larder_tensors> forward_tensors(const batch& rows) {
        larder_batch c;
        if (const char* why = detail::convert(rows, c)) {
            return detail::failed<larder_tensors>(detail::refused(why));
        }
        auto tensors = detail::defaults<larder_tensors>();
        const auto code = larder_engine_forward_tensors(handle(), &c, &tensors);
        return detail::made(code, tensors);
    }

    /// Text to tokens. Any thread. With both options set the text is a rendered chat.
    result<std::vector<std::uint32_t>> tokenize(std::string_view text,
                                                tokenize_options how = {}) const {
        std::vector<std::uint32_t> tokens;
        const std::uint32_t flags = (how.add_special ? LARDER_TEXT_ADD_SPECIAL : 0u) |
                                    (how.parse_special ? LARDER_TEXT_PARSE_SPECIAL : 0u);
        const std::size_t guess = text.size() / 2 + 8;
        const auto call = [&](std::uint32_t* to, std::size_t n, std::size_t* needed) {
            return larder_text_tokenize(handle(), text.data(), text.size(), flags, to, n, needed);
        };
        const auto code = detail::fetch(tokens, guess, call);
        return detail::made(code, std::move(tokens));
    }

    /// Tokens to the bytes that they stand for. Any thread.
    result<std::string> detokenize(std::span<const std::uint32_t> tokens,
                                   bool skip_special = false) const {
        std::string text;
        const std::uint32_t flags = skip_special ? LARDER_TEXT_SKIP_SPECIAL : 0u;
        const auto call = [&](char* to, std::size_t n, std::size_t* needed) {
            return larder_text_detokenize(handle(), tokens.data(), tokens.size(), flags, to, n,
                                          needed);
        };
        const auto code = detail::fetch(text, 8 * tokens.size(), call);
        return detail::made(code, std::move(text));
    }

    /// A chat, as JSON, to the text that the model was trained on. For a request's prompt_text with parse_special.
    result<std::string> render_chat(std::string_view messages_json) const {
        std::string text;
        const auto call = [&](char* to, std::size_t n, std::size_t* needed) {
            return larder_text_render_chat(handle(), messages_json.data(), messages_json.size(), to,
                                           n, needed);
        };
        const auto code = detail::fetch(text, messages_json.size() + 256, call);
        return detail::made(code, std::move(text));
    }

    /// What the prefix cache does for a namespace from now on.
    result<void> set_name_space(std::uint64_t name_space, const name_space_options& options = {}) {
        auto c = detail::defaults<larder_name_space_options>();
        c.is_pinned = options.is_pinned;
        c.max_idle_tokens = options.max_idle_tokens;
        c.keeps_nothing = options.keeps_nothing;
        return detail::done(larder_name_space_set(handle(), name_space, &c));
    }

    /// Evicts every cached prefix that is neither read nor pinned.
    result<void> flush_cache() { return detail::done(larder_cache_flush(handle())); }

private:
    friend class event_stream;
    explicit engine(std::shared_ptr<detail::shared_engine> shared) noexcept
        : shared_(std::move(shared)) {}

    /// C's second caller gets LARDER_BUSY; here the events are converted under the same rule.
    static result<std::span<const event>> step(detail::shared_engine& shared) {
        if (shared.is_stepping.test_and_set(std::memory_order_acquire)) {
            return detail::failed<std::span<const event>>(
                error(status::busy, "another step is running on this engine"));
        }
        auto& raw = shared.raw_events;
        std::size_t n = 0;
        const auto code = larder_engine_step(shared.handle, raw.data(), raw.size(), &n);
        if (code == LARDER_OK) {
            shared.events.clear();
            for (std::size_t i = 0; i < n; i++) {
                shared.events.push_back(detail::event_from(raw[i]));
            }
        }
        const std::span<const event> ready(shared.events.data(), n);
        shared.is_stepping.clear(std::memory_order_release);
        return detail::made(code, ready);
    }

    result<bool> wait_ms(std::uint32_t timeout_ms) {
        std::uint32_t has_work = 0;
        const auto code = larder_engine_wait(handle(), timeout_ms, &has_work);
        return detail::made(code, has_work != 0);
    }

    std::shared_ptr<detail::shared_engine> shared_;
};

inline bool event_stream::has_work() const {
    std::uint32_t has_any = 0;
    return larder_engine_wait(engine_->handle, 0, &has_any) != LARDER_OK || has_any != 0;
}

/// To the request's next event, or to none.
inline void event_stream::advance() {
    current_.reset();
    for (;;) {
        while (!ready_.empty()) {
            const event& next = ready_.front();
            ready_ = ready_.subspan(1);
            if (next.request == request_) {
                n_open_ -= next.is_end();
                current_.emplace(next);
                return;
            }
            if (others_) others_(next);
        }
        if (n_open_ == 0) return;
#if defined(LARDER_EXCEPTIONS)
        ready_ = engine::step(*engine_);
#else
        auto stepped = engine::step(*engine_);
        if (!stepped) {
            n_open_ = 0;
            current_.emplace(detail::failed<event>(stepped.error()));
            return;
        }
        ready_ = *stepped;
#endif
        // The request's end went to somebody else's step.
        if (ready_.empty() && !has_work()) return;
    }
}

/// Statistics in Prometheus' text format; prefix begins every name, as in "larder_".
inline result<std::string> prometheus(const stats& numbers, std::string_view prefix) {
    std::string text;
    const auto call = [&](char* to, std::size_t n, std::size_t* needed) {
        return larder_stats_prometheus(&numbers, prefix.data(), prefix.size(), to, n, needed);
    };
    const auto code = detail::fetch(text, 4096, call);
    return detail::made(code, std::move(text));
}

/// The library's version, as "major.minor.patch".
inline std::string_view version() noexcept { return larder_version(); }

}  // namespace LARDER_MODE
}  // namespace larder

#undef LARDER_MODE
#endif
