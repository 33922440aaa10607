#pragma once
#include <cstdint>

#include "core/numerics/half.hpp"

/// What kernels' tensors are stored as: float or Bf16. Arithmetic on both is in f32.
namespace fusetape::backends::cpu {

struct Bf16 {
  std::uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(Bf16 x) { return core::from_bf16(x.bits); }

/// The largest number that is 0 once it is stored: half of bf16's smallest, which rounds to even. A mask
/// !(v ≤ largest_zero) of what is about to be stored is then that of what is stored.
template <class T>
inline constexpr float largest_zero = 0;
template <>
inline constexpr float largest_zero<Bf16> = 0x1p-134f;

}  // namespace fusetape::backends::cpu
