#pragma once
#include <cstdint>

#include "backends/cpu/conv/rows/ahead.hpp"

/// The inner loops of depthwise convolutions: one row of pixels, f32. A *tap* is one place of the filter that
/// meets the row; pointers of taps are to rows of pixels with every channel.
namespace fusetape::backends::cpu::conv::rows {

/// y(p, c) = Σ_tap x[tap](p, c)·w[tap](c)
struct DepthwiseRow {
  int taps = 0;
  const float* const* x = nullptr;
  const float* const* w = nullptr;  ///< {channels}
  float* y = nullptr;
  std::int64_t pixels = 0, channels = 0;
  std::int64_t x_step = 0, y_step = 0;  ///< elements from pixel to pixel
  Ahead* ahead = nullptr;               ///< not null; fetched in the meantime
};
void convolve_row(const DepthwiseRow& row);

/// sums[tap](c) += Σ_p x[tap](p, c)·g(p, c), where x and g may change places.
struct DepthwiseGradientRow {
  int taps = 0;
  const float* const* x = nullptr;
  const float* g = nullptr;
  float* const* sums = nullptr;  ///< {channels}
  std::int64_t pixels = 0, channels = 0;
  std::int64_t x_step = 0, g_step = 0;  ///< elements from pixel to pixel
};
void add_weight_gradient(const DepthwiseGradientRow& row);

}  // namespace fusetape::backends::cpu::conv::rows
