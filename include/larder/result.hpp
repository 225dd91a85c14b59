/* Part of larder.hpp: what calls return, with and without exceptions. */
#ifndef LARDER_RESULT_HPP
#define LARDER_RESULT_HPP

#include "../larder.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <version>

#if defined(LARDER_EXCEPTIONS)
#include <stdexcept>
#define LARDER_MODE exceptions
#elif defined(__cpp_lib_expected)
#include <expected>
#define LARDER_MODE standard_results
#else
#define LARDER_MODE own_results
#endif

namespace larder {
/// The modes' functions have different names for the linker: files with different modes go into one program.
inline namespace LARDER_MODE {

/// What a call came to: larder_status.
enum class status : std::int32_t {
    ok = LARDER_OK,
    invalid_argument = LARDER_INVALID_ARGUMENT,
    stale_handle = LARDER_STALE_HANDLE,
    busy = LARDER_BUSY,
    io = LARDER_IO,
    bad_model = LARDER_BAD_MODEL,
    unsupported = LARDER_UNSUPPORTED,
    out_of_memory = LARDER_OUT_OF_MEMORY,
    out_of_slots = LARDER_OUT_OF_SLOTS,
    limit_reached = LARDER_LIMIT_REACHED,
    buffer_too_small = LARDER_BUFFER_TOO_SMALL,
    device = LARDER_DEVICE,
    cancelled = LARDER_CANCELLED,
    engine_failed = LARDER_ENGINE_FAILED,
    internal = LARDER_INTERNAL,
};

#if defined(LARDER_EXCEPTIONS)
/// A call that failed, and why in words.
class error : public std::runtime_error {
public:
    error(status code, const std::string& message) : std::runtime_error(message), code_(code) {}
    status code() const noexcept { return code_; }

private:
    status code_;
};

/// What a call returns: its value; failures are thrown.
template <class T>
using result = T;
#else
/// A call that failed, and why in words.
class error {
public:
    error(status code, std::string message) : code_(code), message_(std::move(message)) {}
    status code() const noexcept { return code_; }
    const char* what() const noexcept { return message_.c_str(); }

private:
    status code_;
    std::string message_;
};

#if defined(__cpp_lib_expected)
/// What a call returns: its value or an error.
template <class T>
using result = std::expected<T, error>;
#else
/// What a call returns: its value or an error. Of std::expected it has what needs no exceptions.
template <class T>
class [[nodiscard]] result {
public:
    using value_type = T;
    result(T value) : held_(std::in_place_index<0>, std::move(value)) {}
    result(larder::error error) : held_(std::in_place_index<1>, std::move(error)) {}

    bool has_value() const noexcept { return held_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }
    /// The value; there must be one.
    T& operator*() & noexcept { return *std::get_if<0>(&held_); }
    const T& operator*() const& noexcept { return *std::get_if<0>(&held_); }
    T&& operator*() && noexcept { return std::move(*std::get_if<0>(&held_)); }
    T* operator->() noexcept { return std::get_if<0>(&held_); }
    const T* operator->() const noexcept { return std::get_if<0>(&held_); }
    /// The error; there must be one.
    const larder::error& error() const noexcept { return *std::get_if<1>(&held_); }
    template <class U>
    T value_or(U&& other) && {
        return has_value() ? std::move(**this) : static_cast<T>(std::forward<U>(other));
    }

private:
    std::variant<T, larder::error> held_;
};

/// What a call without a value returns: success or an error.
template <>
class [[nodiscard]] result<void> {
public:
    using value_type = void;
    result() = default;
    result(larder::error error) : error_(std::move(error)) {}

    bool has_value() const noexcept { return !error_.has_value(); }
    explicit operator bool() const noexcept { return has_value(); }
    /// The error; there must be one.
    const larder::error& error() const noexcept { return *error_; }

private:
    std::optional<larder::error> error_;
};
#endif
#endif

namespace detail {

/// The last call's failure, in its words.
inline error last_error(larder_status code) {
    return error(static_cast<status>(code), larder_last_error());
}

/// An argument that is refused here already.
inline error refused(const char* message) { return error(status::invalid_argument, message); }

/// A failed result of any type; with exceptions it is thrown.
template <class T>
result<T> failed(error why) {
#if defined(LARDER_EXCEPTIONS)
    throw why;
#elif defined(__cpp_lib_expected)
    return std::unexpected(std::move(why));
#else
    return why;
#endif
}

/// What a call without a value came to.
inline result<void> done(larder_status code) {
    if (code != LARDER_OK) return failed<void>(last_error(code));
    return result<void>();
}

/// What a call came to that has written value.
template <class T>
result<T> made(larder_status code, T value) {
    if (code != LARDER_OK) return failed<T>(last_error(code));
    return result<T>(std::move(value));
}

}  // namespace detail
}  // namespace LARDER_MODE
}  // namespace larder

#endif
