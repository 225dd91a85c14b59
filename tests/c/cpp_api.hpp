// What the tests of larder.hpp share: one way to write checks for results and for exceptions.
#ifndef LARDER_TEST_CPP_API_HPP
#define LARDER_TEST_CPP_API_HPP
#include "check.h"

#include "larder.hpp"
#include "larder.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>

inline larder::options small() {
    return {.device = test_device(),
            .n_threads = 1,
            .max_sequence_tokens = 64,
            .max_sequences = 4,
            .max_requests = 4,
            .max_batch_rows = 16};
}

/// Another file of this program, compiled in another mode: 0 when all is well.
int in_the_other_mode(const char* model);

inline void fail_with(const larder::error& error) {
    std::fprintf(stderr, "failed: %s\n", error.what());
    std::exit(1);
}

#if defined(LARDER_EXCEPTIONS)
/// An lvalue stays one; what is temporary is moved out.
template <class T>
T value(T&& held) {
    return std::forward<T>(held);
}

template <class Call>
void check_ok(Call call) {
    try {
        call();
    } catch (const larder::error& error) {
        fail_with(error);
    }
}

template <class Call>
std::optional<larder::error> error_of(Call call) {
    try {
        static_cast<void>(call());
    } catch (const larder::error& error) {
        return error;
    }
    return {};
}
#else
template <class T>
T value(larder::result<T>&& held) {
    if (!held) fail_with(held.error());
    return std::move(*held);
}

template <class T>
const T& value(const larder::result<T>& held) {
    if (!held) fail_with(held.error());
    return *held;
}

template <class Call>
void check_ok(Call call) {
    const larder::result<void> result = call();
    if (!result) fail_with(result.error());
}

template <class Call>
std::optional<larder::error> error_of(Call call) {
    const auto result = call();
    if (result) return {};
    return result.error();
}
#endif

/// The call fails with this status, and its words have this one.
#define FAILS(expected, word, call)                                                         \
    do {                                                                                    \
        const auto error_ = error_of([&] { return call; });                                 \
        CHECK(error_ && error_->code() == larder::status::expected);                        \
        if (error_ && std::strstr(error_->what(), word) == nullptr) {                       \
            std::fprintf(stderr, "%s:%d: \"%s\" is not in: %s\n", __FILE__, __LINE__, word, \
                         error_->what());                                                   \
            n_failures++;                                                                   \
        }                                                                                   \
    } while (0)

/// Opens a sequence unless the engine is busy, and lets it go.
inline void open_and_drop(larder::engine& engine) {
    const auto error = error_of([&] { return engine.open_sequence(); });
    CHECK(!error || error->code() == larder::status::busy);
}

/// Steps unless the engine is busy.
template <class Each>
void step_or_busy(larder::engine& engine, Each each) {
    const auto error = error_of([&] {
        auto events = engine.step();
#if defined(LARDER_EXCEPTIONS)
        for (const larder::event& event : events) each(event);
#else
        if (events) {
            for (const larder::event& event : *events) each(event);
        }
#endif
        return events;
    });
    CHECK(!error || error->code() == larder::status::busy);
}
#endif
