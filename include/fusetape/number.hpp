#pragma once
#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

namespace fusetape {

/// A number as the caller wrote it: an integer stays one, so that no i64 is rounded on its way.
class Number {
 public:
  template <class T>
    requires std::is_arithmetic_v<T>
  constexpr Number(T value) : real_(static_cast<double>(value)) {
    if constexpr (std::same_as<T, bool>) {
      whole_ = value ? 1 : 0;
      is_whole_ = true;
    } else if constexpr (std::integral<T>) {
      is_whole_ = std::in_range<std::int64_t>(value);
      whole_ = is_whole_ ? static_cast<std::int64_t>(value) : 0;
    }
  }

  /// Whether it is an integer that std::int64_t holds, and which.
  constexpr bool is_whole() const { return is_whole_; }
  constexpr std::int64_t whole() const { return whole_; }
  /// The nearest double.
  constexpr double real() const { return real_; }

 private:
  double real_;
  std::int64_t whole_ = 0;
  bool is_whole_ = false;
};

/// The shortest text that reads back as the same number: "300", "0.1", "1e+300", "nan".
std::string to_string(Number number);

}  // namespace fusetape
