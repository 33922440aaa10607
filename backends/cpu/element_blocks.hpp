#pragma once
#include <cstddef>
#include <cstdint>

#include "backends/cpu/pointwise_blocks.hpp"
#include "core/numerics/half.hpp"

/// Runs of f32, bf16 or f16 elements as floats: in place where they are floats already.
namespace fusetape::backends::cpu {

constexpr bool is_f32_or_half(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

/// The elements from `first` on, or `count` of them converted into `buffer`.
inline const float* read_floats(DType dtype, const std::byte* data, std::int64_t first, std::int64_t count,
                                float* buffer) {
  const std::byte* at = data + first * static_cast<std::int64_t>(size_of(dtype));
  if (dtype == DType::f32) return reinterpret_cast<const float*>(at);
  if (dtype == DType::bf16) {  // a shift: cheaper here than a call, for the few channels of a pixel
    const auto* bits = reinterpret_cast<const std::uint16_t*>(at);
    for (std::int64_t i = 0; i < count; ++i) buffer[i] = core::from_bf16(bits[i]);
    return buffer;
  }
  load_block(dtype, at, buffer, static_cast<std::size_t>(count));
  return buffer;
}

/// Where the results from `first` on are to be left; `write_floats` brings them from a buffer to their place.
inline float* float_room(DType dtype, std::byte* data, std::int64_t first, float* buffer) {
  return dtype == DType::f32 ? reinterpret_cast<float*>(data) + first : buffer;
}

inline void write_floats(DType dtype, const float* room, std::byte* data, std::int64_t first,
                         std::int64_t count) {
  if (dtype == DType::f32) return;
  store_block(dtype, room, data + first * static_cast<std::int64_t>(size_of(dtype)),
              static_cast<std::size_t>(count));
}

}  // namespace fusetape::backends::cpu
