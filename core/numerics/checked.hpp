#pragma once
#include <concepts>
#include <cstdint>

namespace fusetape::core {

/// A 64-bit number on which sums and products of a user's numbers cannot wrap: it remembers whether a step of
/// its making left the range, so that one question at the end answers for the whole expression.
///
///     const Checked padded = Checked(height) + 2 * Checked(padding);
///     if (!padded.fits()) throw Error("pad", "expected …, got …", at);
///     use(padded.value());
class Checked {
 public:
  template <std::integral Integer>
  constexpr explicit(false) Checked(Integer value) {
    fits_ = !__builtin_add_overflow(value, 0, &value_);
  }

  constexpr bool fits() const { return fits_; }
  /// Whether it is a number from `least` to `most`.
  constexpr bool within(std::int64_t least, std::int64_t most) const {
    return fits_ && least <= value_ && value_ <= most;
  }
  template <std::integral Integer>
  constexpr bool fits_in() const {
    Integer narrow{};
    return fits_ && !__builtin_add_overflow(value_, 0, &narrow);
  }
  /// Of a number that fits.
  constexpr std::int64_t value() const { return value_; }

  friend constexpr Checked operator+(Checked a, Checked b) {
    const bool wrapped = __builtin_add_overflow(a.value_, b.value_, &a.value_);
    return a.keep(b, wrapped);
  }
  friend constexpr Checked operator-(Checked a, Checked b) {
    const bool wrapped = __builtin_sub_overflow(a.value_, b.value_, &a.value_);
    return a.keep(b, wrapped);
  }
  friend constexpr Checked operator*(Checked a, Checked b) {
    const bool wrapped = __builtin_mul_overflow(a.value_, b.value_, &a.value_);
    return a.keep(b, wrapped);
  }

 private:
  constexpr Checked keep(Checked other, bool wrapped) {
    fits_ = fits_ && other.fits_ && !wrapped;
    return *this;
  }

  std::int64_t value_ = 0;
  bool fits_ = true;
};

/// No counter of a run (steps, epochs, random numbers) gets here; what a file or a caller gives beyond it is
/// a mistake. Doubles hold it exactly.
constexpr std::int64_t most_counted = std::int64_t{1} << 53;

}  // namespace fusetape::core
