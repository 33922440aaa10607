#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "backends/backend.hpp"
#include "backends/cpu/storage.hpp"
#include "core/numerics/norm_formulas.hpp"

namespace fusetape::backends::cpu {

/// The moments of one channel, every `channels`-th of `rows` elements from `column` on, in doubles and two
/// passes: for a channel whose squares were too large for the kernels' sums in f32. Where an element is not
/// finite, neither is the result.
template <class T>
core::Moments moments_in_doubles(const T* column, std::int64_t rows, std::int64_t channels) {
  const auto n = static_cast<double>(rows);
  double sum = 0, square = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    sum += static_cast<double>(to_float(column[row * channels]));
    if (!std::isfinite(sum)) return {n, sum, std::numeric_limits<double>::quiet_NaN()};
  }
  const double mean = sum / n;
  for (std::int64_t row = 0; row < rows; ++row) {
    const double away = static_cast<double>(to_float(column[row * channels])) - mean;
    square += away * away;
  }
  return {n, mean, square};
}

/// The running statistics of channel c, those of them that somebody wants.
inline void track(const KernelArgs& args, const plan::NormRoles& norm, std::int64_t c,
                  const core::Moments& batch) {
  const auto write = [&](int before, int after, double value) {
    if (after < 0) return;
    args.out<float>(after)[c] =
        core::tracked(args.in<float>(before)[c], value, *args.in<double>(norm.momentum));
  };
  write(norm.running_mean, norm.new_running_mean, batch.mean);
  write(norm.running_var, norm.new_running_var, batch.unbiased_variance());
}

/// Running statistics may be updated where they lie (Kernel::in_place).
inline std::vector<std::pair<int, int>> tracked_in_place(const plan::NormRoles& norm) {
  std::vector<std::pair<int, int>> pairs;
  if (norm.new_running_mean >= 0) pairs.emplace_back(norm.running_mean, norm.new_running_mean);
  if (norm.new_running_var >= 0) pairs.emplace_back(norm.running_var, norm.new_running_var);
  return pairs;
}

}  // namespace fusetape::backends::cpu
