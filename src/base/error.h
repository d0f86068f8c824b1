// Errors: what went wrong, in one line that names the thing, the value found and the value wanted.
//
//   the command cannot go on        raise(code, "...", ...)   throws Error; caught in main and at a request's boundary
//   an outcome of normal service    return fail(code, "...", ...)   as a Result<T>
//   a bug of ours                   NB_ASSERT (base/assert.h)
#pragma once

#include <fmt/format.h>

#include <exception>
#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace nibble {
enum class ErrorCode {
  invalid_argument,  // a flag, a request field, a value out of range
  not_found,         // no such file, model, tool
  unsupported,       // understood, but this build or model cannot do it
  corrupt,           // a file contradicts its format
  out_of_memory,     // host or device; the message says which flag makes it smaller
  unavailable,       // queue full, starting, shutting down
  cancelled,         // by the client or an operator
  internal,          // a bug or a failing device
};

struct Error : std::exception {
  Error(ErrorCode c, std::string m, std::string p = {}) : code(c), message(std::move(m)), param(std::move(p)) {}
  const char* what() const noexcept override { return message.c_str(); }

  ErrorCode code;
  std::string message;
  std::string param;  // dotted path of the offending request field, "messages[2].role"; empty: none
};

template <typename T>
using Result = tl::expected<T, Error>;  // std::expected's interface; C++20 lacks that one

template <typename... Args>
tl::unexpected<Error> fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected(Error(code, fmt::format(format, std::forward<Args>(args)...)));
}

// As fail, and names the request field at fault.
template <typename... Args>
tl::unexpected<Error> fail_param(std::string param, ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected(Error(code, fmt::format(format, std::forward<Args>(args)...), std::move(param)));
}

template <typename... Args>
[[noreturn]] void raise(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// The value, or a throw: for callers whose command cannot go on without it.
template <typename T>
T value_or_raise(Result<T> result) {
  if (!result) throw std::move(result).error();
  return *std::move(result);
}
inline void value_or_raise(Result<void> result) {
  if (!result) throw std::move(result).error();
}
}  // namespace nibble
