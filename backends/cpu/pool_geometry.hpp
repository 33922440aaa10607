#pragma once
#include <algorithm>
#include <cstdint>

#include "core/op_attrs.hpp"
#include "core/plan/graph.hpp"

/// What the loops of max and average pooling share. Work is cut into rows of the written image, each made by
/// one thread in a fixed order: the same bits for any number of threads.
namespace fusetape::backends::cpu {

struct Range {
  std::int64_t begin = 0, end = 0;
};

/// Along one axis: `size` pixels seen by `windows` windows.
struct PoolAxis {
  std::int64_t size, windows, window, stride, pad;

  /// The pixels of window o, and the windows over pixel i.
  Range pixels(std::int64_t o) const {
    const std::int64_t first = o * stride - pad;
    return {std::max<std::int64_t>(first, 0), std::min(first + window, size)};
  }
  Range windows_over(std::int64_t i) const {
    const std::int64_t last = (i + pad) / stride, before = i + pad - window;
    return {before < 0 ? 0 : before / stride + 1, std::min(last + 1, windows)};
  }
  /// The place of pixel i in window o.
  std::int64_t place(std::int64_t i, std::int64_t o) const { return i - (o * stride - pad); }
};

struct PoolGeometry {
  std::int64_t images, channels;
  PoolAxis h, w;
  bool count_padding;

  /// x: the large image, y: the small one.
  PoolGeometry(const Shape& x, const Shape& y, const core::Pool2dAttrs& a)
      : images(x[0]),
        channels(x[3]),
        h{x[1], y[1], a.window_h, a.stride_h, a.pad_h},
        w{x[2], y[2], a.window_w, a.stride_w, a.pad_w},
        count_padding(a.count_padding != 0) {}

  std::int64_t x_offset(std::int64_t n, std::int64_t ih, std::int64_t iw) const {
    return ((n * h.size + ih) * w.size + iw) * channels;
  }
  std::int64_t y_offset(std::int64_t n, std::int64_t oh, std::int64_t ow) const {
    return ((n * h.windows + oh) * w.windows + ow) * channels;
  }
  /// One over what the average of a window divides by.
  float share(std::int64_t oh, std::int64_t ow) const {
    const Range rows = h.pixels(oh), columns = w.pixels(ow);
    const std::int64_t inside = (rows.end - rows.begin) * (columns.end - columns.begin);
    return 1.0f / static_cast<float>(count_padding ? h.window * w.window : inside);
  }
};

}  // namespace fusetape::backends::cpu
