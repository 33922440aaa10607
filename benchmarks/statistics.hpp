#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

/// What compare_fusion says about its samples.
namespace benchmarks {

/// The value below which a part of the samples lies, between neighbours on a line.
inline double quantile(std::vector<double> samples, double part) {
  std::sort(samples.begin(), samples.end());
  const double place = part * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, samples.size() - 1);
  return samples[below] + (place - static_cast<double>(below)) * (samples[above] - samples[below]);
}

inline double median(std::vector<double> samples) { return quantile(std::move(samples), 0.5); }

struct Interval {
  double low = 0, high = 0;
};

/// The bootstrap's 95 % interval of the median: medians of samples drawn with replacement.
inline Interval median_ci95(const std::vector<double>& samples, std::uint64_t seed) {
  constexpr int draws = 10'000;
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<std::size_t> which(0, samples.size() - 1);
  std::vector<double> medians, drawn(samples.size());
  for (int draw = 0; draw < draws; ++draw) {
    for (double& value : drawn) value = samples[which(random)];
    medians.push_back(median(drawn));
  }
  return {quantile(medians, 0.025), quantile(medians, 0.975)};
}

/// numerator[i] / denominator[i]
inline std::vector<double> ratios(const std::vector<double>& numerator,
                                  const std::vector<double>& denominator) {
  std::vector<double> out;
  for (std::size_t i = 0; i < numerator.size(); ++i) out.push_back(numerator[i] / denominator[i]);
  return out;
}

struct Ratio {
  double median = 0;
  Interval ci95;
};

/// How many times as long the slow steps took, pair by pair.
inline Ratio paired_ratio(const std::vector<double>& slow, const std::vector<double>& fast,
                          std::uint64_t seed) {
  const std::vector<double> pairs = ratios(slow, fast);
  return {median(pairs), median_ci95(pairs, seed)};
}

}  // namespace benchmarks
