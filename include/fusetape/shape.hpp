#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <span>
#include <string>

#include "fusetape/error.hpp"

namespace fusetape {

/// The extents of a dense, row-major tensor; images are {N, H, W, C}. At most 8 axes; {} is a scalar.
class Shape {
 public:
  static constexpr int max_rank = 8;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents, Location at = Location::current());
  explicit Shape(std::span<const std::int64_t> extents, Location at = Location::current());

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return extents_[static_cast<std::size_t>(axis)]; }
  std::int64_t& operator[](int axis) { return extents_[static_cast<std::size_t>(axis)]; }
  std::int64_t back() const { return extents_[static_cast<std::size_t>(rank_ - 1)]; }
  const std::int64_t* begin() const { return extents_.data(); }
  const std::int64_t* end() const { return extents_.data() + rank_; }

  /// The number of elements: 1 for a scalar, 0 where an extent is 0.
  std::int64_t elements() const {
    std::int64_t n = 1;
    for (std::int64_t extent : *this) n *= extent;
    return n;
  }
  void push_back(std::int64_t extent, Location at = Location::current());

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i) {
      if (a[i] != b[i]) return false;
    }
    return true;
  }

 private:
  std::array<std::int64_t, max_rank> extents_{};
  int rank_ = 0;
};

/// "{128, 32, 32, 3}"
std::string to_string(const Shape& shape);
std::ostream& operator<<(std::ostream& out, const Shape& shape);

}  // namespace fusetape
