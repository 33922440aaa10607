#pragma once
#include <bit>
#include <cstdint>

#include "core/numerics/host_device.hpp"

/// bf16 and f16 as bits, to and from float: round to nearest, ties to even; a NaN stays a (quiet) NaN.
namespace fusetape::core {

FUSETAPE_HD constexpr std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

FUSETAPE_HD constexpr float from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

FUSETAPE_HD constexpr std::uint16_t to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t size = bits & 0x7fffffffu;
  std::uint32_t half = 0;
  if (size > 0x7f800000u) {
    half = 0x7e00u | ((size >> 13) & 0x3ffu);
  } else if (size >= 0x47800000u) {  // 2^16 and more
    half = 0x7c00u;
  } else if (size < 0x38800000u) {  // subnormal: adding 0.5 leaves a multiple of 2^-24 in the low bits,
                                    // rounded by the adder
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000u;
  } else {  // a carry out of the mantissa moves the exponent, up to infinity
    half = (size + 0xfffu + ((size >> 13) & 1u) - 0x38000000u) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

FUSETAPE_HD constexpr float from_f16(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // mantissa · 2^-24
    const float size = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(size));
  }
  const std::uint32_t rebiased = exponent == 31 ? 0xffu : exponent + 112;
  return std::bit_cast<float>(sign | (rebiased << 23) | (mantissa << 13));
}

}  // namespace fusetape::core
