#include "core/numerics/element.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/numerics/half.hpp"
#include "core/numerics/number_text.hpp"
#include "core/numerics/reference.hpp"

namespace fusetape {

std::string to_string(Number number) {
  if (number.is_whole()) return std::to_string(number.whole());
  return core::number_text(number.real());
}

}  // namespace fusetape

namespace fusetape::core {
namespace {

/// Doubles would round what is above 2^53.
void convert_wholes(const std::int64_t* from, void* to, DType to_dtype, std::int64_t count) {
  const auto each = [&](auto* elements, auto element) {
    std::transform(from, from + count, elements, element);
  };
  switch (to_dtype) {
    case DType::f32:
      return each(static_cast<float*>(to), [](std::int64_t x) { return static_cast<float>(x); });
    case DType::f64:
      return each(static_cast<double*>(to), [](std::int64_t x) { return static_cast<double>(x); });
    case DType::bf16:
      return each(static_cast<std::uint16_t*>(to),
                  [](std::int64_t x) { return to_bf16(static_cast<float>(x)); });
    case DType::f16:
      return each(static_cast<std::uint16_t*>(to),
                  [](std::int64_t x) { return to_f16(static_cast<float>(x)); });
    case DType::i64:
      return each(static_cast<std::int64_t*>(to), [](std::int64_t x) { return x; });
    case DType::u8:
      return each(static_cast<std::uint8_t*>(to), [](std::int64_t x) { return saturated_byte(x); });
    case DType::boolean:
      return each(static_cast<std::uint8_t*>(to),
                  [](std::int64_t x) { return static_cast<std::uint8_t>(x != 0); });
  }
}

}  // namespace

void convert(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t count) {
  if (count == 0) return;  // an empty span may be null
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * size_of(to_dtype));
    return;
  }
  if (from_dtype == DType::i64)
    return convert_wholes(static_cast<const std::int64_t*>(from), to, to_dtype, count);
  constexpr std::int64_t block = 256;
  double doubles[block];
  for (std::int64_t done = 0; done < count; done += block) {
    const std::int64_t n = std::min(block, count - done);
    to_doubles(static_cast<const std::byte*>(from) + static_cast<std::size_t>(done) * size_of(from_dtype),
               from_dtype, n, doubles);
    from_doubles(doubles, to_dtype, n,
                 static_cast<std::byte*>(to) + static_cast<std::size_t>(done) * size_of(to_dtype));
  }
}

bool holds(DType dtype, Number number) {
  const double real = number.real();
  switch (dtype) {
    case DType::i64:
      return number.is_whole() || (real == std::trunc(real) && real >= -0x1p63 && real < 0x1p63);
    case DType::u8:
      return real == std::trunc(real) && real >= 0 && real <= 255;
    case DType::boolean:
      return real == 0 || real == 1;
    default:
      break;
  }
  std::byte element[8];
  double rounded = 0;
  from_doubles(&real, dtype, 1, element);
  to_doubles(element, dtype, 1, &rounded);
  return std::isfinite(rounded) || !std::isfinite(real);
}

void write_number(Number number, DType dtype, void* to) {
  const std::int64_t whole = number.whole();
  const double real = number.real();
  number.is_whole() ? convert(&whole, DType::i64, to, dtype, 1) : convert(&real, DType::f64, to, dtype, 1);
}

}  // namespace fusetape::core
