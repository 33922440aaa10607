#pragma once
#include <algorithm>
#include <cmath>

#include "core/op/op.hpp"

/// Small parts that reference loops share.
namespace fusetape::ops {

inline void fill_zero(const core::RefTensor& t) { std::fill(t.data, t.data + t.size(), 0.0); }

/// A line of elements along one axis, as offsets.
struct Line {
  std::int64_t start = 0, stride = 1, length = 0;
  std::int64_t operator[](std::int64_t i) const { return start + i * stride; }
};

/// x − log Σ eˣ for the elements of a line. The largest is taken off first: nothing overflows, and a sum
/// beside a large element is not rounded away. A NaN stays one.
class LogSoftmax {
 public:
  LogSoftmax(const double* x, const Line& line) {
    double sum = 0;
    for (std::int64_t i = 0; i < line.length; ++i) largest_ = std::max(largest_, x[line[i]]);
    for (std::int64_t i = 0; i < line.length; ++i) sum += std::exp(x[line[i]] - largest_);
    log_sum_ = std::log(sum);
  }
  double operator()(double x) const { return (x - largest_) - log_sum_; }

 private:
  double largest_ = -HUGE_VAL, log_sum_ = 0;
};

}  // namespace fusetape::ops
