#include "nn/io/foreign_dtypes.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/numerics/checked.hpp"

namespace fusetape::io {
namespace {

template <class Integer>
bool to_i64(const std::byte* from, std::byte* to) {
  Integer number{};
  std::memcpy(&number, from, sizeof number);
  const core::Checked checked(number);
  const std::int64_t value = checked.value();
  std::memcpy(to, &value, sizeof value);
  return checked.fits();
}

/// Eight bits: a sign, exponent, mantissa. E5M2 has infinities, as IEEE 754 would have them; E4M3 has none,
/// and one NaN.
template <int mantissa_bits, bool infinities>
bool small_float_to_f32(const std::byte* from, std::byte* to) {
  constexpr int exponent_bits = 7 - mantissa_bits, bias = (1 << (exponent_bits - 1)) - 1;
  constexpr unsigned most_exponent = (1u << exponent_bits) - 1, most_mantissa = (1u << mantissa_bits) - 1;
  const auto bits = std::to_integer<unsigned>(*from);
  const unsigned exponent = bits >> mantissa_bits & most_exponent, mantissa = bits & most_mantissa;
  float value = 0;
  if (exponent == most_exponent && (infinities || mantissa == most_mantissa)) {
    value = infinities && mantissa == 0 ? std::numeric_limits<float>::infinity()
                                        : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits);
  } else {
    value = std::ldexp(static_cast<float>(mantissa + most_mantissa + 1),
                       static_cast<int>(exponent) - bias - mantissa_bits);
  }
  value = std::copysign(value, (bits & 0x80u) != 0 ? -1.0f : 1.0f);
  std::memcpy(to, &value, sizeof value);
  return true;
}

constexpr ForeignType types[] = {
    {"I8", 1, DType::i64, to_i64<std::int8_t>},
    {"I16", 2, DType::i64, to_i64<std::int16_t>},
    {"I32", 4, DType::i64, to_i64<std::int32_t>},
    {"U16", 2, DType::i64, to_i64<std::uint16_t>},
    {"U32", 4, DType::i64, to_i64<std::uint32_t>},
    {"U64", 8, DType::i64, to_i64<std::uint64_t>},
    {"F8_E4M3", 1, DType::f32, small_float_to_f32<3, false>},
    {"F8_E5M2", 1, DType::f32, small_float_to_f32<2, true>},
};

}  // namespace

const ForeignType* foreign_type(std::string_view name) {
  for (const ForeignType& type : types) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

}  // namespace fusetape::io
