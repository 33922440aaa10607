#pragma once
#include <omp.h>

#include <algorithm>
#include <numeric>

#include "backends/backend.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/element_blocks.hpp"
#include "backends/cpu/pointwise_blocks.hpp"
#include "core/op/op_list.hpp"

/// What softmax and cross entropy share: rows along the last axis, in blocks, so that exp runs over many at
/// once.
namespace fusetape::backends::cpu::reduce::softmax_rows {

// A block of rows has about this many elements.
inline constexpr std::int64_t block_elements = 1024;
// Below this many elements for each, a second thread costs more than it brings.
inline constexpr std::int64_t least_elements = 1 << 13;

/// A dense {rows, length} matrix, cut into parts for threads and blocks of rows within them.
struct Rows {
  std::int64_t count = 0, length = 0;
  int parts = 1;

  explicit Rows(const Shape& shape) : length(shape.back()) {
    const std::int64_t elements = shape.elements();
    count = length == 0 ? 0 : elements / length;
    const std::int64_t wanted = std::min(count, elements / least_elements);
    parts = static_cast<int>(std::clamp<std::int64_t>(wanted, 1, omp_get_max_threads()));
  }

  std::int64_t per_block() const {
    return std::max<std::int64_t>(1, block_elements / std::max<std::int64_t>(1, length));
  }
  std::size_t block_floats() const { return static_cast<std::size_t>((per_block() * length + 15) / 16 * 16); }

  /// Calls f(part, first row, rows) for every block.
  template <class F>
  void for_blocks(F&& f) const {
    for_parts(parts, [&](int part) {
      const std::int64_t end = count * (part + 1) / parts;
      for (std::int64_t row = count * part / parts; row < end; row += per_block()) {
        f(part, row, std::min(per_block(), end - row));
      }
    });
  }
};

inline void exp_block(const float* x, float* y, std::int64_t count) {
  static const BlockFunction exp = block_function(ops::exp_op);
  exp({.in = {x}, .out = y, .count = static_cast<std::size_t>(count)});
}

// Independent lanes: a chain of additions or comparisons would wait for each one. Short rows are not worth
// it.
inline constexpr std::int64_t lanes = 16;
inline constexpr std::int64_t short_row = 64;

/// The largest element; a NaN need not win, it shows in the sums.
inline float largest(const float* x, std::int64_t length) {
  if (length < short_row) {
    float most = x[0];
    for (std::int64_t i = 1; i < length; ++i) most = x[i] > most ? x[i] : most;
    return most;
  }
  float most[lanes];
  std::fill_n(most, lanes, x[0]);
  std::int64_t i = 0;
  for (; i + lanes <= length; i += lanes) {
    for (std::int64_t lane = 0; lane < lanes; ++lane)
      most[lane] = x[i + lane] > most[lane] ? x[i + lane] : most[lane];
  }
  for (; i < length; ++i) most[0] = x[i] > most[0] ? x[i] : most[0];
  return *std::max_element(most, most + lanes);
}

inline double sum(const float* x, std::int64_t length) {
  if (length < short_row) return std::accumulate(x, x + length, 0.0);
  double totals[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= length; i += lanes) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) totals[lane] += x[i + lane];
  }
  for (; i < length; ++i) totals[0] += x[i];
  return std::accumulate(totals, totals + lanes, 0.0);
}

/// y = e^(x − largest of the row), for a block of rows.
inline void exp_rows(const float* x, float* y, std::int64_t rows, std::int64_t length) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* const from = x + row * length;
    const float most = largest(from, length);
    for (std::int64_t i = 0; i < length; ++i) y[row * length + i] = from[i] - most;
  }
  exp_block(y, y, rows * length);
}

inline Support f32_or_half(const plan::Graph& graph, const plan::GraphNode& node) {
  for (auto input = node.inputs.begin(); input != node.inputs.end() - node.op->numbers; ++input) {
    const DType dtype = graph.value(*input).dtype;
    if (is_floating(dtype) && !is_f32_or_half(dtype))
      return {.ok = false, .reason = "f32 and 16 bits only, not " + std::string(name_of(dtype))};
  }
  return {};
}

}  // namespace fusetape::backends::cpu::reduce::softmax_rows
