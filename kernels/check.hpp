// check(): the caller's mistakes. Always on, throws; main() catches once and prints one `error:`
// and one `hint:` line. UserError is the user's mistake (exit code 2), EnvironmentError the
// machine's (3).
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace pipemark {

/// A mistake in what the user gave (exit code 2). `hint` says what would be right.
class UserError : public std::runtime_error {
 public:
  explicit UserError(const std::string& what, std::string hint = {})
      : std::runtime_error(what), hint_(std::move(hint)) {}
  const std::string& hint() const noexcept { return hint_; }

 private:
  std::string hint_;
};

/// Something the machine lacks or refuses (exit code 3).
class EnvironmentError : public UserError {
  using UserError::UserError;
};

/// A broken contract between parts of Pipemark: a defect, not the user's mistake.
class LogicError : public std::logic_error {
  using std::logic_error::logic_error;
};

/// Throws LogicError with the formatted message unless `condition` holds.
template <class... Args>
inline void check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]] {
    throw LogicError(fmt::format(format, std::forward<Args>(args)...));
  }
}

}  // namespace pipemark
