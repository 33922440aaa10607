// Images of other sizes, made of other ops: a mean or a mixture of pixels is a product with a small matrix.
#include <algorithm>
#include <cmath>

#include "core/numerics/checked.hpp"
#include "core/tape/module_scope.hpp"
#include "fusetape/autocast.hpp"
#include "ops/helpers.hpp"

namespace fusetape {

using core::LineScope;
using ops::fail;
using ops::require_tensor;

namespace {

Tensor require_image(const char* op, const Operand& x) {
  Tensor image = require_tensor(op, x);
  if (image.rank() != 4) fail(op, "images {N, H, W, C}", to_string(image.shape()), x.at());
  if (!is_floating(image.dtype())) fail(op, "a floating dtype", std::string(name_of(image.dtype())), x.at());
  return image;
}

void require_size(const char* op, Size2d size, const Tensor& x, Location at) {
  const bool sized = size.height >= 1 && size.width >= 1;
  if (!sized || size.height > ops::most_pixels || size.width > ops::most_pixels) {
    fail(op, "sizes from 1 to 2^31 − 1",
         "{" + std::to_string(size.height) + ", " + std::to_string(size.width) + "}", at);
  }
  if (x.shape()[1] < 1 || x.shape()[2] < 1) fail(op, "at least one pixel", to_string(x.shape()), at);
  // What is made of the numbers of pixels alone, in memory, before anything else is known to fit.
  constexpr std::int64_t most = std::int64_t{1} << 26;
  if (!(core::Checked(x.shape()[1]) * size.height).within(0, most) ||
      !(core::Checked(x.shape()[2]) * size.width).within(0, most)) {
    fail(op, "at most 2^26 pairs of old and new rows, or columns",
         to_string(x.shape()) + " to {" + std::to_string(size.height) + ", " + std::to_string(size.width) +
             "}",
         at);
  }
}

/// rows {to, from}: which pixels of an axis make each new one.
template <class Fill>
Tensor mixing(std::int64_t to, std::int64_t from, DType dtype, Fill fill) {
  std::vector<double> rows(static_cast<std::size_t>(to * from), 0.0);
  for (std::int64_t o = 0; o < to; ++o) fill(o, rows.data() + o * from);
  return from_doubles(rows, {to, from}, dtype);
}

/// {N, H, W, C} by height·x·widthᵀ for each image and channel.
Tensor mixed(const Tensor& x, const Tensor& height, const Tensor& width) {
  const Autocast as_given(DType::f32);  // these are no products of a model: images stay of their dtype
  const std::int64_t n = x.shape()[0], w = x.shape()[2], c = x.shape()[3];
  const std::int64_t oh = height.shape()[0], ow = width.shape()[0];
  const Tensor rows = matmul(height, reshape(x, {n, x.shape()[1], w * c}));
  return reshape(matmul(width, reshape(rows, {n * oh, w, c})), {n, oh, ow, c});
}

Tensor bins(std::int64_t to, std::int64_t from, DType dtype) {
  return mixing(to, from, dtype, [=](std::int64_t o, double* row) {
    const std::int64_t first = o * from / to, end = ((o + 1) * from + to - 1) / to;
    std::fill(row + first, row + end, 1 / static_cast<double>(end - first));
  });
}

Tensor between_centres(std::int64_t to, std::int64_t from, DType dtype) {
  return mixing(to, from, dtype, [=](std::int64_t o, double* row) {
    const double ratio = static_cast<double>(from) / static_cast<double>(to);
    const double place = std::max(0.0, (static_cast<double>(o) + 0.5) * ratio - 0.5);
    const std::int64_t first = std::min(static_cast<std::int64_t>(place), from - 1);
    const double part = place - static_cast<double>(first);
    row[first] += 1 - part;
    row[std::min(first + 1, from - 1)] += part;
  });
}

Tensor nearest_places(std::int64_t to, std::int64_t from) {
  std::vector<std::int64_t> places(static_cast<std::size_t>(to));
  for (std::int64_t o = 0; o < to; ++o) places[static_cast<std::size_t>(o)] = o * from / to;
  return from_vector(places, {to});
}

}  // namespace

Tensor adaptive_avg_pool2d(Operand x, Size2d size) {
  const LineScope line(x.at());
  const Tensor image = require_image("adaptive_avg_pool2d", x);
  require_size("adaptive_avg_pool2d", size, image, x.at());
  const std::int64_t h = image.shape()[1], w = image.shape()[2];
  if (h % size.height == 0 && w % size.width == 0)
    return avg_pool2d(image, Size2d(h / size.height, w / size.width));
  const DType dtype = image.dtype();
  return mixed(image, bins(size.height, h, dtype), bins(size.width, w, dtype));
}

Tensor upsample(Operand x, Size2d size, Upsampling by) {
  const LineScope line(x.at());
  const Tensor image = require_image("upsample", x);
  require_size("upsample", size, image, x.at());
  if (by > Upsampling::bilinear)
    fail("upsample", "an Upsampling", std::to_string(static_cast<int>(by)), x.at());
  const std::int64_t n = image.shape()[0], h = image.shape()[1], w = image.shape()[2], c = image.shape()[3];
  if (by == Upsampling::bilinear) {
    const DType dtype = image.dtype();
    return mixed(image, between_centres(size.height, h, dtype), between_centres(size.width, w, dtype));
  }
  if (size.height % h == 0 && size.width % w == 0) {
    const std::int64_t down = size.height / h, across = size.width / w;
    const Tensor spread = broadcast_to(reshape(image, {n, h, 1, w, 1, c}), {n, h, down, w, across, c});
    return reshape(spread, {n, size.height, size.width, c});
  }
  return index_select(index_select(image, 1, nearest_places(size.height, h)), 2,
                      nearest_places(size.width, w));
}

Tensor pixel_shuffle(Operand x, std::int64_t r) {
  const LineScope line(x.at());
  const Tensor image = require_image("pixel_shuffle", x);
  const std::int64_t n = image.shape()[0], h = image.shape()[1], w = image.shape()[2], c = image.shape()[3];
  if (r < 1 || r > ops::most_pixels || c % (r * r) != 0) {
    fail("pixel_shuffle", "r ≥ 1, and channels that are a multiple of r²",
         "r " + std::to_string(r) + " for " + to_string(image.shape()), x.at());
  }
  const Tensor apart = reshape(image, {n, h, w, c / (r * r), r, r});
  return reshape(transpose(apart, {0, 1, 4, 2, 5, 3}), {n, h * r, w * r, c / (r * r)});
}

}  // namespace fusetape
