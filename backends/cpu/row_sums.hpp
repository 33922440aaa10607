#pragma once
#include <cstddef>
#include <cstdint>

#include "fusetape/dtype.hpp"

namespace fusetape::backends::cpu {

/// Rows of f32, or of 16-bit floats that are converted on the way.
struct RowSource {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;
};

/// sums[j] += Σ over rows r of x[first + r·stride + j], j < width: short runs in f32, which add up in double.
void add_rows(const RowSource& x, std::int64_t first, std::int64_t rows, std::int64_t width,
              std::int64_t stride, double* sums);

}  // namespace fusetape::backends::cpu
