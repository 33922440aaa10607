#pragma once
#include "backends/cpu/conv/winograd/winograd.hpp"
#include "compare.hpp"

/// 3×3 convolutions and their gradients as plain sums in doubles.
namespace fusetape::tests {

/// Calls f(pixel of y, tap, pixel of x) for each pair that a tap connects.
template <class F>
void for_taps(const backends::cpu::conv::winograd::Problem& p, F&& f) {
  const std::int64_t height = p.out_height(), width = p.out_width();
  for (std::int64_t pixel = 0; pixel < p.batch * height * width; ++pixel) {
    const std::int64_t image = pixel / width / height, row = pixel / width % height, column = pixel % width;
    for (std::int64_t tap = 0; tap < 9; ++tap) {
      const std::int64_t r = row - p.pad + tap / 3, c = column - p.pad + tap % 3;
      if (r >= 0 && r < p.height && c >= 0 && c < p.width)
        f(pixel, tap, (image * p.height + r) * p.width + c);
    }
  }
}

/// Weights {out, 3, 3, in} as {tap, in, out}; for backward-data, of the problem's mirror: {tap, out, in}.
template <class Weights>
Numbers taps_of(const backends::cpu::conv::winograd::Problem& p, const Weights& w, bool backward_data) {
  Numbers taps(static_cast<std::size_t>(p.out * 9 * p.in));
  std::size_t from = 0;
  for (std::int64_t out = 0; out < p.out; ++out) {
    for (std::int64_t tap = 0; tap < 9; ++tap) {
      for (std::int64_t in = 0; in < p.in; ++in) {
        const std::int64_t to =
            backward_data ? ((8 - tap) * p.out + out) * p.in + in : (tap * p.in + in) * p.out + out;
        taps[static_cast<std::size_t>(to)] = static_cast<double>(w[from++]);
      }
    }
  }
  return taps;
}

/// y of x, with taps {tap, in, out}.
template <class Images>
Numbers convolved(const backends::cpu::conv::winograd::Problem& p, const Images& x, const Numbers& taps) {
  Numbers y(static_cast<std::size_t>(p.batch * p.out_height() * p.out_width() * p.out));
  for_taps(p, [&](std::int64_t pixel, std::int64_t tap, std::int64_t read) {
    double* const to = &y[static_cast<std::size_t>(pixel * p.out)];
    for (std::int64_t in = 0; in < p.in; ++in) {
      const auto value = static_cast<double>(x[static_cast<std::size_t>(read * p.in + in)]);
      const double* const filters = &taps[static_cast<std::size_t>((tap * p.in + in) * p.out)];
      for (std::int64_t out = 0; out < p.out; ++out) to[out] += value * filters[out];
    }
  });
  return y;
}

/// dw of x and dy.
inline Numbers weight_gradient_of(const backends::cpu::conv::winograd::Problem& p,
                                  const std::vector<float>& x, const std::vector<float>& dy) {
  Numbers dw(static_cast<std::size_t>(p.out * 9 * p.in));
  for_taps(p, [&](std::int64_t pixel, std::int64_t tap, std::int64_t read) {
    const float* const from = &x[static_cast<std::size_t>(read * p.in)];
    for (std::int64_t out = 0; out < p.out; ++out) {
      const double g = dy[static_cast<std::size_t>(pixel * p.out + out)];
      double* const to = &dw[static_cast<std::size_t>((out * 9 + tap) * p.in)];
      for (std::int64_t in = 0; in < p.in; ++in) to[in] += g * static_cast<double>(from[in]);
    }
  });
  return dw;
}

}  // namespace fusetape::tests
