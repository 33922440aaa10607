#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/plan/graph.hpp"

/// The meaning of a node: its inputs as doubles, plain loops, the results rounded to their dtypes. The oracle
/// of every kernel.
namespace fusetape::core {

/// Elements of any dtype as doubles (an i64 is exact up to 2^53 only: cast and convert() take it as it is).
void to_doubles(const void* from, DType dtype, std::int64_t count, double* to);
/// Rounds to nearest even (bf16 and f16 by way of f32); integers truncate and saturate, NaN becomes 0; bool
/// is
/// `!= 0`.
void from_doubles(const double* from, DType dtype, std::int64_t count, void* to);

/// Runs one node. `values[id]` points at each of its values; no two of them overlap unless an output takes
/// the very place of an input. `scratch` has reference_scratch_bytes() bytes, aligned to 64.
void run_reference(const plan::Graph& graph, const plan::GraphNode& node, void* const* values,
                   std::byte* scratch);
std::size_t reference_scratch_bytes(const plan::Graph& graph, const plan::GraphNode& node);

using Strides = std::array<std::int64_t, Shape::max_rank>;

/// The dense row-major strides of a shape.
inline Strides dense_strides(const Shape& shape) {
  Strides strides{};
  std::int64_t step = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[static_cast<std::size_t>(axis)] = step;
    step *= shape[axis];
  }
  return strides;
}

/// The strides with which `from` is read where it is broadcast to `to`: 0 along the axes that repeat.
inline Strides broadcast_strides(const Shape& from, const Shape& to) {
  const Strides dense = dense_strides(from);
  Strides strides{};
  const int missing = to.rank() - from.rank();
  for (int axis = 0; axis < from.rank(); ++axis) {
    if (from[axis] != 1)
      strides[static_cast<std::size_t>(axis) + static_cast<std::size_t>(missing)] =
          dense[static_cast<std::size_t>(axis)];
  }
  return strides;
}

/// Calls f(i, offset) for every element of `shape` in row-major order, with offset = Σ index·stride.
template <class F>
void for_each_offset(const Shape& shape, const Strides& strides, F&& f) {
  const std::int64_t count = shape.elements();
  std::array<std::int64_t, Shape::max_rank> index{};
  std::int64_t offset = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    f(i, offset);
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      const auto a = static_cast<std::size_t>(axis);
      offset += strides[a];
      if (++index[a] < shape[axis]) break;
      offset -= strides[a] * shape[axis];
      index[a] = 0;
    }
  }
}

}  // namespace fusetape::core
