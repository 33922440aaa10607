#pragma once
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "core/check.hpp"

namespace fusetape::core {

/// An op's compile-time attributes as plain words, so that they can be part of a plan's key and be compared
/// in full. Each op defines a struct of std::int64_t and double fields only (no padding) and packs it:
/// `Attrs::of(ConvAttrs{…})`.
class Attrs {
 public:
  static constexpr std::size_t max_words = 26;

  Attrs() = default;

  template <class T>
  static Attrs of(const T& fields) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 8 == 0 && sizeof(T) <= 8 * max_words);
    Attrs attrs;
    attrs.count_ = sizeof(T) / 8;
    std::memcpy(attrs.words_, &fields, sizeof(T));
    return attrs;
  }

  template <class T>
  T as() const {
    FUSETAPE_ASSERT(sizeof(T) == 8 * count_);
    T fields;
    std::memcpy(&fields, words_, sizeof(T));
    return fields;
  }

  std::span<const std::int64_t> words() const { return {words_, count_}; }
  friend bool operator==(const Attrs& a, const Attrs& b) {
    return a.count_ == b.count_ && std::memcmp(a.words_, b.words_, 8 * a.count_) == 0;
  }

 private:
  std::size_t count_ = 0;
  std::int64_t words_[max_words];
};

}  // namespace fusetape::core
