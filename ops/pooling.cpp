// 2-d pooling in NHWC. Average pooling is linear, and max pooling too once its index is known: each one's
// gradient has the other direction as its own gradient.
#include <algorithm>
#include <cmath>
#include <string>

#include "core/numerics/checked.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"
#include "core/tape/module_scope.hpp"
#include "fusetape/ops.hpp"
#include "ops/borders.hpp"
#include "ops/helpers.hpp"
#include "ops/reference.hpp"

namespace fusetape::ops {

using core::bit;
using core::Checked;
using core::GradContext;
using core::InferContext;
using core::Pool2dAttrs;
using core::RefContext;
using core::RefTensor;

namespace {

// ---- checks and shapes
// ------------------------------------------------------------------------------------------------

/// The type that holds a place in the window.
DType index_dtype(const Pool2dAttrs& a) { return a.window_h * a.window_w <= 256 ? DType::u8 : DType::i64; }

Shape pooled_shape(const InferContext& ctx, const Shape& x, const Pool2dAttrs& a) {
  const auto in_pixels = [](std::int64_t h, std::int64_t w) {
    return Checked(h).within(1, most_pixels) && Checked(w).within(1, most_pixels);
  };
  ctx.require(in_pixels(a.window_h, a.window_w), "window of at least 1 and below 2^31",
              Shape{a.window_h, a.window_w});
  ctx.require(in_pixels(a.stride_h, a.stride_w), "stride of at least 1 and below 2^31",
              Shape{a.stride_h, a.stride_w});
  // More would put whole windows on padding, with no largest element and no average.
  ctx.require(a.pad_h >= 0 && a.pad_w >= 0 && a.pad_h <= a.window_h / 2 && a.pad_w <= a.window_w / 2,
              "padding of at least 0 and at most half the window", Shape{a.pad_h, a.pad_w});
  const std::int64_t space_h = x[1] + 2 * a.pad_h - a.window_h, space_w = x[2] + 2 * a.pad_w - a.window_w;
  if (x[1] < 1 || x[2] < 1 || space_h < 0 || space_w < 0) {
    ctx.fail("a padded image {N, H, W, C} of at least the window " + to_string(Shape{a.window_h, a.window_w}),
             "x " + to_string(x));
  }
  return {x[0], space_h / a.stride_h + 1, space_w / a.stride_w + 1, x[3]};
}

Shape pooled_shape_of_input(const InferContext& ctx) {
  const Shape& x = ctx.shape(0);
  ctx.require(x.rank() == 4, "x {N, H, W, C}", x);
  ctx.require(is_floating(ctx.dtype(0)), "x of a floating dtype", ctx.dtype(0));
  return pooled_shape(ctx, x, ctx.attrs.as<Pool2dAttrs>());
}

void infer_max_pool(InferContext& ctx) {
  const Shape y = pooled_shape_of_input(ctx);
  ctx.output(y, ctx.dtype(0));
  ctx.output(y, index_dtype(ctx.attrs.as<Pool2dAttrs>()));
}

void infer_avg_pool(InferContext& ctx) { ctx.output(pooled_shape_of_input(ctx), ctx.dtype(0)); }

/// g {N, OH, OW, C} [, index] → {N, H, W, C}.
void infer_pool_grad(InferContext& ctx) {
  const auto a = ctx.attrs.as<Pool2dAttrs>();
  const Shape& g = ctx.shape(0);
  ctx.require(g.rank() == 4, "g {N, OH, OW, C}", g);
  const Shape x{g[0], a.input_h, a.input_w, g[3]};
  const Shape y = pooled_shape(ctx, x, a);
  if (!(y == g)) ctx.fail("g " + to_string(y), to_string(g));
  ctx.output(x, ctx.dtype(0));
}

void infer_max_pool_gather(InferContext& ctx) {
  const Shape y = pooled_shape_of_input(ctx);
  if (!(ctx.shape(1) == y)) ctx.fail("index " + to_string(y), to_string(ctx.shape(1)));
  ctx.output(y, ctx.dtype(0));
}

// ---- gradients
// --------------------------------------------------------------------------------------------------------

Tensor record_with(const core::OpDef& op, std::initializer_list<Tensor> inputs, const GradContext& ctx) {
  return record_here(op, inputs, ctx.raw_attrs());
}

void gradient_max_pool(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, record_with(max_pool2d_grad_op, {ctx.incoming(0), ctx.output(1)}, ctx));
}
void gradient_max_pool_grad(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, record_with(max_pool2d_gather_op, {ctx.incoming(), ctx.input(1)}, ctx));
}
void gradient_max_pool_gather(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, record_with(max_pool2d_grad_op, {ctx.incoming(), ctx.input(1)}, ctx));
}
void gradient_avg_pool(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, record_with(avg_pool2d_grad_op, {ctx.incoming()}, ctx));
}
void gradient_avg_pool_grad(GradContext& ctx) {
  if (ctx.needs(0)) ctx.set(0, record_with(avg_pool2d_op, {ctx.incoming()}, ctx));
}

// ---- reference
// --------------------------------------------------------------------------------------------------------

/// Where one window lies: its first row and column (negative on padding), and the image x is read from.
struct Window {
  const Pool2dAttrs& a;
  const Shape& x;
  std::int64_t n = 0, top = 0, left = 0, channel = 0;

  std::int64_t first_row() const { return std::max<std::int64_t>(top, 0); }
  std::int64_t first_column() const { return std::max<std::int64_t>(left, 0); }
  std::int64_t end_row() const { return std::min(top + a.window_h, x[1]); }
  std::int64_t end_column() const { return std::min(left + a.window_w, x[2]); }

  /// The offset in x of a place of the window that is not on padding.
  std::int64_t offset(std::int64_t place) const {
    return offset(top + place / a.window_w, left + place % a.window_w);
  }
  std::int64_t offset(std::int64_t h, std::int64_t w) const {
    return ((n * x[1] + h) * x[2] + w) * x[3] + channel;
  }
  /// Visits what the window has of the image: body(place, offset in x).
  template <class Body>
  void for_each_place(Body&& body) const {
    for (std::int64_t h = first_row(); h < end_row(); ++h) {
      for (std::int64_t w = first_column(); w < end_column(); ++w) {
        body((h - top) * a.window_w + w - left, offset(h, w));
      }
    }
  }
  /// What an average divides by.
  double divisor() const {
    if (a.count_padding != 0) return static_cast<double>(a.window_h) * static_cast<double>(a.window_w);
    return static_cast<double>((end_row() - first_row()) * (end_column() - first_column()));
  }
};

/// Visits each output element: body(window, offset in y).
template <class Body>
void for_each_window(const core::Attrs& attrs, const Shape& x, const Shape& y, Body&& body) {
  const auto a = attrs.as<Pool2dAttrs>();
  for (std::int64_t i = 0; i < y.elements(); ++i) {
    const std::int64_t channel = i % y[3], ow = i / y[3] % y[2], oh = i / (y[3] * y[2]) % y[1];
    const std::int64_t n = i / (y[3] * y[2] * y[1]);
    body(Window{a, x, n, oh * a.stride_h - a.pad_h, ow * a.stride_w - a.pad_w, channel}, i);
  }
}

void reference_max_pool(RefContext& ctx) {
  const RefTensor &x = ctx.in[0], &y = ctx.out[0];
  for_each_window(ctx.attrs, x.shape, y.shape, [&](const Window& window, std::int64_t yi) {
    std::int64_t best_place = -1;
    double best = 0;
    window.for_each_place([&](std::int64_t place, std::int64_t xi) {
      const double value = x.data[xi];
      if (best_place < 0 || value > best || (std::isnan(value) && !std::isnan(best))) {
        best = value;
        best_place = place;
      }
    });
    y.data[yi] = best;
    ctx.out[1].data[yi] = static_cast<double>(best_place);
  });
}

void reference_max_pool_grad(RefContext& ctx) {
  const RefTensor &g = ctx.in[0], &index = ctx.in[1], &dx = ctx.out[0];
  fill_zero(dx);
  for_each_window(ctx.attrs, dx.shape, g.shape, [&](const Window& window, std::int64_t yi) {
    dx.data[window.offset(static_cast<std::int64_t>(index.data[yi]))] += g.data[yi];
  });
}

void reference_max_pool_gather(RefContext& ctx) {
  const RefTensor &x = ctx.in[0], &index = ctx.in[1], &y = ctx.out[0];
  for_each_window(ctx.attrs, x.shape, y.shape, [&](const Window& window, std::int64_t yi) {
    y.data[yi] = x.data[window.offset(static_cast<std::int64_t>(index.data[yi]))];
  });
}

void reference_avg_pool(RefContext& ctx) {
  const RefTensor &x = ctx.in[0], &y = ctx.out[0];
  for_each_window(ctx.attrs, x.shape, y.shape, [&](const Window& window, std::int64_t yi) {
    double sum = 0;
    window.for_each_place([&](std::int64_t, std::int64_t xi) { sum += x.data[xi]; });
    y.data[yi] = sum / window.divisor();
  });
}

void reference_avg_pool_grad(RefContext& ctx) {
  const RefTensor &g = ctx.in[0], &dx = ctx.out[0];
  fill_zero(dx);
  for_each_window(ctx.attrs, dx.shape, g.shape, [&](const Window& window, std::int64_t yi) {
    const double share = g.data[yi] / window.divisor();
    window.for_each_place([&](std::int64_t, std::int64_t xi) { dx.data[xi] += share; });
  });
}

}  // namespace

const core::OpDef max_pool2d_op{
    .name = "max_pool2d",
    .infer = infer_max_pool,
    .gradient = gradient_max_pool,
    .saves_outputs = bit(1),
    .reference = reference_max_pool,
};
const core::OpDef max_pool2d_grad_op{
    .name = "max_pool2d_grad",
    .infer = infer_pool_grad,
    .gradient = gradient_max_pool_grad,
    .saves_inputs = bit(1),
    .reference = reference_max_pool_grad,
};
const core::OpDef max_pool2d_gather_op{
    .name = "max_pool2d_gather",
    .infer = infer_max_pool_gather,
    .gradient = gradient_max_pool_gather,
    .saves_inputs = bit(1),
    .reference = reference_max_pool_gather,
};
const core::OpDef avg_pool2d_op{
    .name = "avg_pool2d",
    .infer = infer_avg_pool,
    .gradient = gradient_avg_pool,
    .reference = reference_avg_pool,
};
const core::OpDef avg_pool2d_grad_op{
    .name = "avg_pool2d_grad",
    .infer = infer_pool_grad,
    .gradient = gradient_avg_pool_grad,
    .reference = reference_avg_pool_grad,
};

namespace {

Size2d stride_of(const Pool2dOptions& options) {
  return options.stride == Size2d(0) ? options.window : options.stride;
}

core::Attrs pool_attrs(const Tensor& x, const Pool2dOptions& options) {
  const Size2d stride = stride_of(options);
  const bool image = x.rank() == 4;  // otherwise the shape rule says what is wrong
  return core::Attrs::of(Pool2dAttrs{
      .window_h = options.window[0],
      .window_w = options.window[1],
      .stride_h = stride[0],
      .stride_w = stride[1],
      .pad_h = options.padding[0],
      .pad_w = options.padding[1],
      .count_padding = options.count_padding,
      .input_h = image ? x.shape()[1] : 0,
      .input_w = image ? x.shape()[2] : 0,
  });
}

/// With the border that padding and ceil_mode make, and none left to the kernel. `counted`: the pixels that
/// are not what ceil_mode adds.
struct Framed {
  Tensor x;
  Pool2dOptions options;
  Padding2d padding;  ///< without what ceil_mode adds
};
bool needs_frame(const Pool2dOptions& options) {
  return options.ceil_mode || !options.padding.is_symmetric();
}
Framed framed(const char* op, const Tensor& x, const Pool2dOptions& options, double value, Location at) {
  const Size2d stride = stride_of(options), window = options.window;
  if (x.rank() != 4) fail(op, "x {N, H, W, C}", to_string(x.shape()), at);
  if (!is_floating(x.dtype())) fail(op, "a floating dtype", std::string(name_of(x.dtype())), at);
  if (x.shape()[1] < 1 || x.shape()[2] < 1) fail(op, "at least one pixel", to_string(x.shape()), at);
  Padding2d padding = resolved(options.padding, x.shape(), window, stride, 1);
  Padding2d whole = padding;
  for (std::size_t i = 0; i < 2; ++i) {
    const bool sane =
        stride[i] >= 1 && window[i] >= 1 && window[i] <= most_pixels && stride[i] <= most_pixels;
    if (!sane || padding[i] < 0 || padding.after[i] < 0 || padding[i] > window[i] / 2 ||
        padding.after[i] > window[i] / 2) {
      fail(op, "window and stride from 1 to 2^31 − 1, padding of at most half the window",
           std::to_string(window[i]) + ", " + std::to_string(stride[i]) + " and " +
               std::to_string(padding[i]) + ", " + std::to_string(padding.after[i]),
           at);
    }
    const std::int64_t extent = x.shape()[static_cast<int>(i) + 1],
                       padded = extent + padding[i] + padding.after[i];
    if (!options.ceil_mode || padded + stride[i] - 1 < window[i]) continue;
    std::int64_t last = (padded - window[i] + stride[i] - 1) / stride[i];
    if (last * stride[i] >= extent + padding[i]) --last;  // it would start beyond the image
    (i == 0 ? whole.after.height : whole.after.width) +=
        std::max<std::int64_t>(0, last * stride[i] + window[i] - padded);
  }
  Pool2dOptions inside{.window = window, .stride = stride};
  const PadWidth rows(whole.height, whole.after.height), columns(whole.width, whole.after.width);
  return {pad({x, at}, {0, rows, columns, 0}, value), inside, padding};
}

/// What a whole window's mean is to be multiplied by: its size over the pixels of it that count.
Tensor shares(const Tensor& x, const Framed& frame, const Shape& y, bool count_padding) {
  const auto counted = [&](std::size_t i, std::int64_t o) {
    const std::int64_t extent = x.shape()[static_cast<int>(i) + 1], before = frame.padding[i];
    const std::int64_t first = count_padding ? 0 : before;
    const std::int64_t end = before + extent + (count_padding ? frame.padding.after[i] : 0);
    const std::int64_t begin = o * frame.options.stride[i];
    return std::min(begin + frame.options.window[i], end) - std::max(begin, first);
  };
  const auto size = static_cast<double>(frame.options.window[0] * frame.options.window[1]);
  std::vector<double> all;
  for (std::int64_t oh = 0; oh < y[1]; ++oh) {
    for (std::int64_t ow = 0; ow < y[2]; ++ow)
      all.push_back(size / static_cast<double>(counted(0, oh) * counted(1, ow)));
  }
  return from_doubles(all, {1, y[1], y[2], 1}, x.dtype());
}

}  // namespace

}  // namespace fusetape::ops

namespace fusetape {

Tensor max_pool2d(Operand x, Pool2dOptions options) {
  const Tensor input = ops::require_tensor("max_pool2d", x);
  if (ops::needs_frame(options)) {
    const core::LineScope line(x.at());
    const ops::Framed frame = ops::framed("max_pool2d", input, options, ops::lowest(input.dtype()), x.at());
    return max_pool2d(frame.x, frame.options);
  }
  return core::record(ops::max_pool2d_op, {input}, ops::pool_attrs(input, options), x.at())[0];
}

Tensor max_pool2d(Operand x, Size2d window) {
  return max_pool2d(std::move(x), Pool2dOptions{.window = window});
}

Tensor avg_pool2d(Operand x, Size2d window) {
  return avg_pool2d(std::move(x), Pool2dOptions{.window = window});
}

Tensor avg_pool2d(Operand x, Pool2dOptions options) {
  const Tensor input = ops::require_tensor("avg_pool2d", x);
  if (ops::needs_frame(options)) {
    const core::LineScope line(x.at());
    const ops::Framed frame = ops::framed("avg_pool2d", input, options, 0, x.at());
    const Tensor y = avg_pool2d(frame.x, frame.options);
    return y * ops::shares(input, frame, y.shape(), options.count_padding);
  }
  return core::record_one(ops::avg_pool2d_op, {input}, ops::pool_attrs(input, options), x.at());
}

Tensor global_avg_pool(Operand x) {
  const Tensor input = ops::require_tensor("global_avg_pool", x);
  if (input.rank() != 4) {
    ops::fail("global_avg_pool", "x {N, H, W, C}", to_string(input.shape()), x.at());
  }
  return mean(Operand(input, x.at()), {1, 2});
}

}  // namespace fusetape
