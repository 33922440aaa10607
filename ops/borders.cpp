#include "ops/borders.hpp"

#include <algorithm>
#include <limits>

#include "core/numerics/checked.hpp"
#include "ops/helpers.hpp"

namespace fusetape::ops {

double lowest(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return std::numeric_limits<double>::lowest();
    case DType::bf16:
      return -0x1.FEp127;
    case DType::f16:
      return -65504;
    default:
      return std::numeric_limits<float>::lowest();
  }
}

Padding2d resolved(const Padding2d& padding, const Shape& x, Size2d window, Size2d stride, Size2d dilation) {
  if (!padding.is_same || x.rank() != 4) return padding;
  std::int64_t before[2] = {}, after[2] = {};
  for (std::size_t i = 0; i < 2; ++i) {
    const std::int64_t extent = x[static_cast<int>(i) + 1];
    if (stride[i] < 1 || window[i] < 1 || dilation[i] < 1) continue;  // the shape rule says what is wrong
    const std::int64_t outputs = extent == 0 ? 0 : (extent - 1) / stride[i] + 1;
    const core::Checked missing =
        (core::Checked(outputs) - 1) * stride[i] + (core::Checked(window[i]) - 1) * dilation[i] + 1 - extent;
    const std::int64_t total = missing.within(0, 2 * most_pixels) ? missing.value() : 0;
    before[i] = total / 2;
    after[i] = total - before[i];
  }
  return {before[0], after[0], before[1], after[1]};
}

Bordered bordered(const char* op, const Tensor& x, const Padding2d& padding, Size2d window, Size2d stride,
                  Size2d dilation, double value, Location at) {
  if (padding.is_symmetric() || x.rank() != 4) return {x, padding.before()};
  if (x.shape()[1] < 1 || x.shape()[2] < 1) fail(op, "at least one pixel", to_string(x.shape()), at);
  const Padding2d numbers = resolved(padding, x.shape(), window, stride, dilation);
  const auto require = [&](std::int64_t pixels) {
    if (pixels < 0 || pixels > most_pixels)
      fail(op, "padding of at least 0 and below 2^31", std::to_string(pixels), at);
  };
  const Size2d both(std::min(numbers.height, numbers.after.height),
                    std::min(numbers.width, numbers.after.width));
  for (std::size_t i = 0; i < 2; ++i) {
    require(numbers[i]);
    require(numbers.after[i]);
  }
  const auto rest = [&](std::size_t i) { return PadWidth(numbers[i] - both[i], numbers.after[i] - both[i]); };
  return {pad({x, at}, {0, rest(0), rest(1), 0}, value), both};
}

}  // namespace fusetape::ops
