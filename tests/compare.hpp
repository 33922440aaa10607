#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

namespace fusetape::tests {

using Numbers = std::vector<double>;

/// The largest difference over the largest number of `expected` (at least `floor`: what vanishes is a
/// difference of larger numbers). Infinite where the sizes differ, or one is a NaN or an infinity and the
/// other is not.
inline double difference(const Numbers& got, const Numbers& expected, double floor = 0.1) {
  if (got.size() != expected.size()) return HUGE_VAL;
  double largest = floor, apart = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]))) continue;
    if (!std::isfinite(got[i]) || !std::isfinite(expected[i])) return HUGE_VAL;
    apart = std::max(apart, std::abs(got[i] - expected[i]));
  }
  for (const double x : expected) {
    if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
  }
  return apart / largest;
}

}  // namespace fusetape::tests
