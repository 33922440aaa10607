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

/// What is added around an image: one number on all four sides, the one above and below and the one on the
/// left and right, or all four; or what makes ⌈extent/stride⌉ outputs, with an odd one at the bottom and on
/// the right: TensorFlow's "SAME", and PyTorch's padding="same". (Size2d: above and left.)
struct Padding2d : Size2d {
  template <WholeNumber All>
  constexpr Padding2d(All all) : Padding2d(all, all) {}
  template <WholeNumber Height, WholeNumber Width>
  constexpr Padding2d(Height h, Width w) : Size2d(h, w), after(h, w) {}
  template <WholeNumber Top, WholeNumber Bottom, WholeNumber Left, WholeNumber Right>
  constexpr Padding2d(Top top, Bottom bottom, Left left, Right right)
      : Size2d(top, left), after(bottom, right) {}
  static constexpr Padding2d same() {
    Padding2d padding(0);
    padding.is_same = true;
    return padding;
  }
  friend constexpr bool operator==(const Padding2d&, const Padding2d&) = default;
  constexpr bool is_symmetric() const { return !is_same && static_cast<const Size2d&>(*this) == after; }

  constexpr Size2d before() const { return {height, width}; }
  Size2d after;  ///< below and right
  bool is_same = false;
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
