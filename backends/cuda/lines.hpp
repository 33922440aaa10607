#pragma once
#include "backends/cuda/kernels/lines.hpp"
#include "core/numerics/reference.hpp"

namespace fusetape::backends::cuda {

/// The lines of a dense tensor along the axes for which `is_along(axis)`; they count in the order of the
/// others.
template <class IsAlong>
Lines lines_of(const Shape& shape, IsAlong is_along) {
  Lines lines;
  const core::Strides strides = core::dense_strides(shape);
  for (int axis = 0; axis < shape.rank(); ++axis) {
    const std::int64_t extent = shape[axis], stride = strides[static_cast<std::size_t>(axis)];
    (is_along(axis) ? lines.along : lines.across).push(extent, stride);
    (is_along(axis) ? lines.length : lines.count) *= extent;
  }
  lines.choose_lanes();
  return lines;
}

}  // namespace fusetape::backends::cuda
