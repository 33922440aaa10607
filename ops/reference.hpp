#pragma once
#include <algorithm>
#include <cmath>

#include "core/op.hpp"

/// Small parts that reference loops share.
namespace fusetape::ops {

inline void fill_zero(const core::RefTensor& t) { std::fill(t.data, t.data + t.size(), 0.0); }

/// A line of elements along one axis, as offsets.
struct Line {
  std::int64_t start = 0, stride = 1, length = 0;
  std::int64_t operator[](std::int64_t i) const { return start + i * stride; }
};

/// log Σ eˣ about the largest element, so that nothing overflows; a NaN stays one.
inline double log_sum_exp(const double* x, const Line& line) {
  double largest = -HUGE_VAL, sum = 0;
  for (std::int64_t i = 0; i < line.length; ++i) largest = std::max(largest, x[line[i]]);
  for (std::int64_t i = 0; i < line.length; ++i) sum += std::exp(x[line[i]] - largest);
  return largest + std::log(sum);
}

}  // namespace fusetape::ops
