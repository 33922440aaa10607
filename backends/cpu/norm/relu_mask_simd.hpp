#pragma once
#include <cstdint>

/// A ReLU's mask as bits, and the gradient through it. Floats are handled as the whole numbers that their
/// bits are: int32_t for f32, int16_t for bf16 and f16.
namespace fusetape::backends::cpu::norm {

/// Bit i of the mask is !(y[i] ≤ 0), i < count; the last byte is filled with zeros. `infinity` is −infinity.
void write_relu_mask(const std::int32_t* y, std::int32_t infinity, std::int64_t count, std::uint8_t* mask);
void write_relu_mask(const std::int16_t* y, std::int16_t infinity, std::int64_t count, std::uint8_t* mask);

/// dx[i] = bit i ? g[i] : 0, i < count; dx may be g.
void apply_relu_mask(const std::int32_t* g, const std::uint8_t* mask, std::int64_t count, std::int32_t* dx);
void apply_relu_mask(const std::int16_t* g, const std::uint8_t* mask, std::int64_t count, std::int16_t* dx);

}  // namespace fusetape::backends::cpu::norm
