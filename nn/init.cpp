#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

#include "core/numerics/generator.hpp"
#include "core/numerics/number_text.hpp"
#include "core/numerics/philox.hpp"
#include "core/op/op.hpp"
#include "fusetape/init.hpp"

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

void require(bool ok, const char* op, const char* expected, double got, Location at) {
  if (!ok) throw Error(op, std::string("expected ") + expected + ", got " + core::number_text(got), at);
}

/// Box and Muller's. The same numbers as randn's.
std::vector<float> normals(const char* op, const Shape& shape, double mean, double deviation, Location at) {
  check_shape(op, shape, at);
  return fill_by_blocks(op, shape, at, [mean, deviation](const core::PhiloxBlock& words, float* out) {
    for (std::size_t pair = 0; pair < 4; pair += 2) {
      const double radius = deviation * std::sqrt(-2 * std::log(core::philox_uniform(words[pair]) + 0x1p-24));
      const double angle = 2 * std::numbers::pi * core::philox_uniform(words[pair + 1]);
      out[pair] = static_cast<float>(mean + radius * std::cos(angle));
      out[pair + 1] = static_cast<float>(mean + radius * std::sin(angle));
    }
  });
}

/// x with erf(x) = y, by Newton's method from 0, which comes from one side: erf is concave beyond 0.
double inverse_erf(double y) {
  double x = 0;
  for (int i = 0; i < 40; ++i)
    x += (std::abs(y) - std::erf(x)) * std::sqrt(std::numbers::pi) / 2 * std::exp(x * x);
  return std::copysign(x, y);
}

double xavier_deviation(const char* op, const Shape& shape, double gain, Location at) {
  check_shape(op, shape, at);
  if (shape.rank() < 2 || shape.elements() == 0)
    throw Error(op, "expected at least two axes and one element, got " + to_string(shape), at);
  require(std::isfinite(gain) && gain >= 0, op, "a finite gain ≥ 0", gain, at);
  const auto elements = static_cast<double>(shape.elements());
  return gain * std::sqrt(2 / (elements / static_cast<double>(shape[0]) +
                               elements / static_cast<double>(shape.back())));
}

using Vector = std::vector<double>;

double product(const Vector& a, const Vector& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// Gram and Schmidt's method, twice: once leaves the error that the vectors' nearness makes.
void orthonormalise(std::vector<Vector>& vectors) {
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    for (int round = 0; round < 2; ++round) {
      for (std::size_t before = 0; before < i; ++before) {
        const double along = product(vectors[i], vectors[before]);
        for (std::size_t k = 0; k < vectors[i].size(); ++k) vectors[i][k] -= along * vectors[before][k];
      }
    }
    const double length = std::sqrt(product(vectors[i], vectors[i]));
    for (double& x : vectors[i]) x /= length;
  }
}

}  // namespace

Tensor normal(const Shape& shape, double mean, double deviation, Location at) {
  require(std::isfinite(mean), "normal", "a finite mean", mean, at);
  require(std::isfinite(deviation) && deviation >= 0, "normal", "a finite deviation ≥ 0", deviation, at);
  return from_vector(normals("normal", shape, mean, deviation, at), shape, at);
}

Tensor kaiming_normal(const Shape& shape, std::int64_t fan_out, Location at) {
  check_shape("kaiming_normal", shape, at);
  if (fan_out < 1) throw Error("kaiming_normal", "expected fan_out ≥ 1, got " + std::to_string(fan_out), at);
  const double deviation = std::sqrt(2.0 / static_cast<double>(fan_out));
  return from_vector(normals("kaiming_normal", shape, 0, deviation, at), shape, at);
}

Tensor truncated_normal(const Shape& shape, double deviation, double cut, Location at) {
  check_shape("truncated_normal", shape, at);
  require(std::isfinite(deviation) && deviation >= 0, "truncated_normal", "a finite deviation ≥ 0", deviation,
          at);
  require(cut > 0 && cut <= 5, "truncated_normal", "a cut in (0, 5]", cut, at);
  const double most = std::erf(cut / std::numbers::sqrt2);
  const auto scale = [deviation, most](const core::PhiloxBlock& words, float* out) {
    for (std::size_t i = 0; i < 4; ++i) {
      const double y = most * (2 * core::philox_uniform(words[i]) - 1);
      out[i] = static_cast<float>(deviation * std::numbers::sqrt2 * inverse_erf(y));
    }
  };
  return from_vector(fill_by_blocks("truncated_normal", shape, at, scale), shape, at);
}

Tensor xavier_uniform(const Shape& shape, double gain, Location at) {
  const double bound = std::sqrt(3.0) * xavier_deviation("xavier_uniform", shape, gain, at);
  return uniform(shape, -bound, bound, at);
}

Tensor xavier_normal(const Shape& shape, double gain, Location at) {
  return normal(shape, 0, xavier_deviation("xavier_normal", shape, gain, at), at);
}

Tensor orthogonal(const Shape& shape, double gain, Location at) {
  check_shape("orthogonal", shape, at);
  if (shape.rank() < 2 || shape.elements() == 0)
    throw Error("orthogonal", "expected at least two axes and one element, got " + to_string(shape), at);
  require(std::isfinite(gain), "orthogonal", "a finite gain", gain, at);
  std::vector<float> drawn = normals("orthogonal", shape, 0, 1, at);
  const auto rows = static_cast<std::size_t>(shape[0]);
  const std::size_t columns = drawn.size() / rows;
  const bool by_rows = rows <= columns;
  std::vector<Vector> vectors(std::min(rows, columns), Vector(std::max(rows, columns)));
  const auto place = [&](std::size_t vector, std::size_t i) {
    return by_rows ? vector * columns + i : i * columns + vector;
  };
  for (std::size_t v = 0; v < vectors.size(); ++v) {
    for (std::size_t i = 0; i < vectors[v].size(); ++i) vectors[v][i] = drawn[place(v, i)];
  }
  orthonormalise(vectors);
  for (std::size_t v = 0; v < vectors.size(); ++v) {
    for (std::size_t i = 0; i < vectors[v].size(); ++i)
      drawn[place(v, i)] = static_cast<float>(gain * vectors[v][i]);
  }
  return from_vector(drawn, shape, at);
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
