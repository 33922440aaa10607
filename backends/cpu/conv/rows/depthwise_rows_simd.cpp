#include "backends/cpu/conv/rows/depthwise_rows.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/cpu/conv/rows/depthwise_rows_simd.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "backends/cpu/channel_vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

using rows::DepthwiseGradientRow;
using rows::DepthwiseRow;

/// Some pixels of y, from `pixel` on, for one vector of channels.
template <int Pixels, class Access>
HWY_INLINE void convolve_pixels(const DepthwiseRow& row, std::int64_t pixel, std::int64_t channel,
                                const Access& access) {
  Vec sum[Pixels];
#pragma GCC unroll 8
  for (int p = 0; p < Pixels; ++p) sum[p] = hn::Zero(Floats());
  const std::int64_t at = pixel * row.x_step + channel, step = row.x_step;
  for (int tap = 0; tap < row.taps; ++tap) {
    const Vec w = access.load(row.w[tap] + channel);
    const float* x = row.x[tap] + at;
#pragma GCC unroll 8
    for (int p = 0; p < Pixels; ++p) sum[p] = hn::MulAdd(access.load(x + p * step), w, sum[p]);
  }
  float* y = row.y + pixel * row.y_step + channel;
#pragma GCC unroll 8
  for (int p = 0; p < Pixels; ++p) access.store(sum[p], y + p * row.y_step);
}

template <int Pixels>
HWY_INLINE void convolve_all(const DepthwiseRow& row, std::int64_t& pixel) {
  const std::int64_t whole = row.channels / lanes * lanes;
  for (; pixel + Pixels <= row.pixels; pixel += Pixels) {
    for (std::int64_t channel = 0; channel < whole; channel += lanes) {
      row.ahead->fetch();
      convolve_pixels<Pixels>(row, pixel, channel, Whole{});
    }
    if (whole < row.channels) convolve_pixels<Pixels>(row, pixel, whole, Tail(row.channels - whole));
  }
}

void ConvolveRow(const DepthwiseRow& given) {
  const DepthwiseRow row = given;  // no store can change it
  row.ahead->spread(std::max<std::int64_t>(1, row.pixels / 8 * (row.channels / lanes)));
  std::int64_t pixel = 0;
  convolve_all<8>(row, pixel);
  convolve_all<4>(row, pixel);
  convolve_all<1>(row, pixel);
}

/// Of some taps, from `tap` on, for one vector of channels.
template <int Taps, class Access>
HWY_INLINE void add_taps(const DepthwiseGradientRow& row, int tap, std::int64_t channel,
                         const Access& access) {
  Vec sum[Taps];
  const float* x[Taps];
#pragma GCC unroll 9
  for (int t = 0; t < Taps; ++t) {
    sum[t] = access.load(row.sums[tap + t] + channel);
    x[t] = row.x[tap + t] + channel;
  }
  const float* g = row.g + channel;
  std::int64_t at = 0;
  for (std::int64_t p = 0; p < row.pixels; ++p, g += row.g_step, at += row.x_step) {
    const Vec gradient = access.load(g);
#pragma GCC unroll 9
    for (int t = 0; t < Taps; ++t) sum[t] = hn::MulAdd(access.load(x[t] + at), gradient, sum[t]);
  }
#pragma GCC unroll 9
  for (int t = 0; t < Taps; ++t) access.store(sum[t], row.sums[tap + t] + channel);
}

template <int Taps>
HWY_INLINE void add_all(const DepthwiseGradientRow& row, int& tap) {
  const std::int64_t whole = row.channels / lanes * lanes;
  for (; tap + Taps <= row.taps; tap += Taps) {
    for (std::int64_t channel = 0; channel < whole; channel += lanes)
      add_taps<Taps>(row, tap, channel, Whole{});
    if (whole < row.channels) add_taps<Taps>(row, tap, whole, Tail(row.channels - whole));
  }
}

void AddWeightGradient(const DepthwiseGradientRow& given) {
  const DepthwiseGradientRow row = given;  // no store can change it
  int tap = 0;
  add_all<9>(row, tap);
  add_all<6>(row, tap);
  add_all<3>(row, tap);
  add_all<1>(row, tap);
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fusetape::backends::cpu::conv {

HWY_EXPORT(ConvolveRow);
HWY_EXPORT(AddWeightGradient);

void rows::convolve_row(const DepthwiseRow& row) { HWY_DYNAMIC_DISPATCH(ConvolveRow)(row); }
void rows::add_weight_gradient(const DepthwiseGradientRow& row) {
  HWY_DYNAMIC_DISPATCH(AddWeightGradient)(row);
}

}  // namespace fusetape::backends::cpu::conv
#endif  // HWY_ONCE
