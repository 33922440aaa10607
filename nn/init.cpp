#include <cmath>
#include <exception>
#include <limits>
#include <numbers>
#include <vector>

#include "core/numerics/generator.hpp"
#include "core/numerics/number_text.hpp"
#include "core/numerics/philox.hpp"
#include "core/op/op.hpp"
#include "fusetape/nn.hpp"

/// The same numbers as randn and rand, computed at once: a parameter is a leaf, not a recorded draw.
namespace fusetape::nn {
namespace {

std::vector<float> room_for(const char* op, const Shape& shape, std::size_t elements, Location at) {
  try {
    return std::vector<float>(elements);
  } catch (const std::exception&) {  // std::bad_alloc, std::length_error
    throw Error(op, "expected memory for " + to_string(shape) + ", got none", at);
  }
}

/// Calls fill(block, out) for each group of four elements; a draw starts at a whole block.
template <class Fill>
std::vector<float> fill_by_blocks(const char* op, const Shape& shape, Location at, Fill&& fill) {
  const auto count = static_cast<std::size_t>(shape.elements());
  std::vector<float> values = room_for(op, shape, (count + 3) / 4 * 4, at);
  const core::Draw draw = core::draw(shape.elements());
  for (std::size_t i = 0; i < values.size(); i += 4) {
    const std::uint64_t block = (static_cast<std::uint64_t>(draw.counter) + i) / 4;
    fill(core::philox_block(static_cast<std::uint64_t>(draw.seed), block), values.data() + i);
  }
  values.resize(count);
  return values;
}

void check_shape(const char* op, const Shape& shape, Location at) {
  if (core::countable(shape)) return;
  throw Error(op, "expected extents ≥ 0 and at most 2^56 elements, got " + to_string(shape), at);
}

}  // namespace

Tensor kaiming_normal(const Shape& shape, std::int64_t fan_out, Location at) {
  check_shape("kaiming_normal", shape, at);
  if (fan_out < 1) throw Error("kaiming_normal", "expected fan_out ≥ 1, got " + std::to_string(fan_out), at);
  const double deviation = std::sqrt(2.0 / static_cast<double>(fan_out));
  const auto box_muller = [deviation](const core::PhiloxBlock& words, float* out) {
    for (std::size_t pair = 0; pair < 4; pair += 2) {
      const double radius = deviation * std::sqrt(-2 * std::log(core::philox_uniform(words[pair]) + 0x1p-24));
      const double angle = 2 * std::numbers::pi * core::philox_uniform(words[pair + 1]);
      out[pair] = static_cast<float>(radius * std::cos(angle));
      out[pair + 1] = static_cast<float>(radius * std::sin(angle));
    }
  };
  return from_vector(fill_by_blocks("kaiming_normal", shape, at, box_muller), shape, at);
}

Tensor uniform(const Shape& shape, double low, double high, Location at) {
  check_shape("uniform", shape, at);
  constexpr double most = std::numeric_limits<float>::max();
  if (!(-most <= low && low <= high && high <= most)) {
    throw Error("uniform",
                "expected low ≤ high, both of which f32 holds, got " + core::number_text(low) + " and " +
                    core::number_text(high),
                at);
  }
  const auto scale = [low, high](const core::PhiloxBlock& words, float* out) {
    for (std::size_t i = 0; i < 4; ++i) {
      out[i] = static_cast<float>(low + (high - low) * core::philox_uniform(words[i]));
    }
  };
  return from_vector(fill_by_blocks("uniform", shape, at, scale), shape, at);
}

}  // namespace fusetape::nn
