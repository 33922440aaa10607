#pragma once
#include <cstdint>

#include "fusetape/dtype.hpp"
#include "fusetape/number.hpp"

namespace fusetape::core {

/// The nearest u8.
constexpr std::uint8_t saturated_byte(std::int64_t x) {
  return static_cast<std::uint8_t>(x < 0 ? 0 : x > 255 ? 255 : x);
}

/// Converts `count` elements between dtypes; the ranges do not overlap. Floating dtypes round to nearest, and
/// overflow to an infinity. Integer ones truncate towards 0 and saturate at the ends of their range, NaN
/// becomes 0. Bool is `!= 0`.
void convert(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t count);

/// Whether a tensor of this dtype can have the number as an element: an integer dtype exactly, a floating one
/// after rounding to a number that is finite if this one is.
bool holds(DType dtype, Number number);
/// One element; what the dtype does not hold is converted as convert() does.
void write_number(Number number, DType dtype, void* to);

}  // namespace fusetape::core
