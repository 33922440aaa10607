#pragma once
#include <cstdint>

#include "core/numerics/host_device.hpp"
#include "core/op/op_attrs.hpp"

/// Where the windows of max and average pooling lie, for every kernel.
namespace fusetape::core {

struct Interval {
  std::int64_t begin = 0, end = 0;
};

/// Along one axis: `size` pixels seen by `windows` windows.
struct PoolAxis {
  std::int64_t size, windows, window, stride, pad;

  /// The pixels of window o, and the windows over pixel i.
  FUSETAPE_HD Interval pixels(std::int64_t o) const {
    const std::int64_t first = o * stride - pad, end = first + window;
    return {first < 0 ? 0 : first, end < size ? end : size};
  }
  FUSETAPE_HD Interval windows_over(std::int64_t i) const {
    const std::int64_t end = (i + pad) / stride + 1, before = i + pad - window;
    return {before < 0 ? 0 : before / stride + 1, end < windows ? end : windows};
  }
  /// The place of pixel i in window o, and the pixel at a place of it.
  FUSETAPE_HD std::int64_t place(std::int64_t i, std::int64_t o) const { return i - (o * stride - pad); }
  FUSETAPE_HD std::int64_t pixel(std::int64_t place, std::int64_t o) const {
    return place + o * stride - pad;
  }
};

struct PoolGeometry {
  std::int64_t images, channels;
  PoolAxis h, w;
  bool count_padding;

  /// x: the large image, y: the small one.
  PoolGeometry(const Shape& x, const Shape& y, const Pool2dAttrs& a)
      : images(x[0]),
        channels(x[3]),
        h{x[1], y[1], a.window_h, a.stride_h, a.pad_h},
        w{x[2], y[2], a.window_w, a.stride_w, a.pad_w},
        count_padding(a.count_padding != 0) {}

  FUSETAPE_HD std::int64_t x_offset(std::int64_t n, std::int64_t ih, std::int64_t iw) const {
    return ((n * h.size + ih) * w.size + iw) * channels;
  }
  FUSETAPE_HD std::int64_t y_offset(std::int64_t n, std::int64_t oh, std::int64_t ow) const {
    return ((n * h.windows + oh) * w.windows + ow) * channels;
  }
  /// The place of a pixel in a window, row-major: max pooling's index.
  FUSETAPE_HD std::int64_t place(std::int64_t ih, std::int64_t iw, std::int64_t oh, std::int64_t ow) const {
    return h.place(ih, oh) * w.window + w.place(iw, ow);
  }
  /// One over what the average of a window divides by.
  FUSETAPE_HD float share(std::int64_t oh, std::int64_t ow) const {
    const Interval rows = h.pixels(oh), columns = w.pixels(ow);
    const std::int64_t inside = (rows.end - rows.begin) * (columns.end - columns.begin);
    return 1.0f / static_cast<float>(count_padding ? h.window * w.window : inside);
  }
};

/// Whether `now` is the largest element of a window where `old` was: of equals the first stays, a NaN wins
/// over numbers.
FUSETAPE_HD inline bool becomes_largest(float now, float old) {
  return (now > old) | ((now != now) & (old == old));
}

}  // namespace fusetape::core
