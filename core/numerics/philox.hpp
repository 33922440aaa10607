#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "core/numerics/host_device.hpp"
#include "fusetape/dtype.hpp"

/// Random numbers as a pure function of (seed, counter, element), so that no schedule, fusion or thread count
/// changes one.
///
/// Philox 4x32-10 (Salmon et al., SC 2011). Element i of a draw has the position e = counter + i; it is word
/// e mod 4 of the block with counter words {low(e/4), high(e/4), 0, 0} and key words {low(seed), high(seed)}.
///   uniform:  u(e) = (word >> 8) · 2⁻²⁴, in [0, 1), exact in f32.
///   normal:   Box–Muller on the pair (p, p+1) with p = e rounded down to even: r = √(−2·ln(u(p) + 2⁻²⁴)), θ
///   = 2π·u(p+1);
///             r·cos θ where e is even, r·sin θ where it is odd. Computed in double, then rounded.
namespace fusetape::core {

using PhiloxBlock = std::array<std::uint32_t, 4>;

FUSETAPE_HD inline PhiloxBlock philox_block(std::uint64_t seed, std::uint64_t index) {
  PhiloxBlock x{static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), 0, 0};
  auto key0 = static_cast<std::uint32_t>(seed);
  auto key1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * x[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * x[2];
    x = {static_cast<std::uint32_t>(b >> 32) ^ x[1] ^ key0, static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ x[3] ^ key1, static_cast<std::uint32_t>(a)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return x;
}

/// The uniform number of one word of a block.
FUSETAPE_HD inline double philox_uniform(std::uint32_t word) {
  return static_cast<double>(word >> 8) * 0x1p-24;
}

FUSETAPE_HD inline double philox_uniform(std::int64_t seed, std::int64_t counter, std::int64_t i) {
  const auto e = static_cast<std::uint64_t>(counter + i);
  return philox_uniform(philox_block(static_cast<std::uint64_t>(seed), e / 4)[e % 4]);
}

FUSETAPE_HD inline double philox_normal(std::int64_t seed, std::int64_t counter, std::int64_t i) {
  const auto e = static_cast<std::uint64_t>(counter + i);
  const PhiloxBlock block = philox_block(static_cast<std::uint64_t>(seed), e / 4);
  const std::size_t pair = e % 4 / 2 * 2;
  const double radius = std::sqrt(-2 * std::log(philox_uniform(block[pair]) + 0x1p-24));
  const double angle = 2 * std::numbers::pi * philox_uniform(block[pair + 1]);
  return radius * (e % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

/// Of rand: in 16 bits the lowest bits are cut rather than rounded, so that 1 is never reached. `steps`: of
/// the dtype below 1.
constexpr double uniform_steps(DType dtype) {
  return dtype == DType::bf16 ? 0x1p8 : dtype == DType::f16 ? 0x1p11 : 0x1p24;
}
FUSETAPE_HD inline double cut_uniform(double u, double steps) { return std::floor(u * steps) / steps; }

}  // namespace fusetape::core
