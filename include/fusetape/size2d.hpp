#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>

/// Options in numbers of pixels: a single number is meant for both axes, or for both ends of one.
namespace fusetape {

/// What an option takes as a number of pixels: a whole number, so that 1.5 and true do not compile.
template <class T>
concept WholeNumber = std::integral<T> && !std::same_as<T, bool>;

/// Height and width; a single number is both.
struct Size2d {
  template <WholeNumber Both>
  constexpr Size2d(Both both) : Size2d(both, both) {}
  template <WholeNumber Height, WholeNumber Width>
  constexpr Size2d(Height h, Width w)
      : height(static_cast<std::int64_t>(h)), width(static_cast<std::int64_t>(w)) {}

  /// 0: height, 1: width.
  constexpr std::int64_t operator[](std::size_t axis) const { return axis == 0 ? height : width; }
  friend constexpr bool operator==(const Size2d&, const Size2d&) = default;

  std::int64_t height, width;
};

/// What is added around an image: one number on all four sides, or the one above and below and the one on the
/// left and right. A type of its own, so that four numbers can become a third form without changing a call.
struct Padding2d : Size2d {
  using Size2d::Size2d;
};

/// What is added before and after an axis; a single number is both.
struct PadWidth {
  template <WholeNumber Both>
  constexpr PadWidth(Both both) : PadWidth(both, both) {}
  template <WholeNumber Before, WholeNumber After>
  constexpr PadWidth(Before b, After a)
      : before(static_cast<std::int64_t>(b)), after(static_cast<std::int64_t>(a)) {}

  std::int64_t before, after;
};

}  // namespace fusetape
