// 2-d convolution in NHWC, its two gradients, and the transposed convolution. With y_o = Σ w_o,ij ·
// x_(s·oh−p+d·i, …) all three are bilinear and are each other's gradients:
//   y = C(x, w)    dx = I(g, w) = conv2d_grad_input    dw = W(x, g) = conv2d_grad_weight
#include <algorithm>
#include <string>

#include "core/autograd/autocast.hpp"
#include "core/numerics/checked.hpp"
#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"
#include "fusetape/ops.hpp"
#include "ops/borders.hpp"
#include "ops/helpers.hpp"
#include "ops/reference.hpp"

namespace fusetape::ops {

using core::Checked;
using core::ConvAttrs;
using core::GradContext;
using core::InferContext;
using core::RefContext;
using core::RefTensor;
using core::TensorInfo;

namespace {

// ---- checks and shapes
// ------------------------------------------------------------------------------------------------

/// How far a dilated kernel reaches.
Checked reach(std::int64_t kernel, std::int64_t dilation) {
  return Checked(dilation) * (Checked(kernel) - 1) + 1;
}

bool in_pixels(std::int64_t h, std::int64_t w, std::int64_t least) {
  return Checked(h).within(least, most_pixels) && Checked(w).within(least, most_pixels);
}

void check_attrs(const InferContext& ctx, const ConvAttrs& a) {
  ctx.require(in_pixels(a.stride_h, a.stride_w, 1), "stride of at least 1 and below 2^31",
              Shape{a.stride_h, a.stride_w});
  ctx.require(in_pixels(a.pad_h, a.pad_w, 0), "padding of at least 0 and below 2^31",
              Shape{a.pad_h, a.pad_w});
  ctx.require(in_pixels(a.dilation_h, a.dilation_w, 1), "dilation of at least 1 and below 2^31",
              Shape{a.dilation_h, a.dilation_w});
  if (!Checked(a.groups).within(1, most_pixels))
    ctx.fail("groups of at least 1 and below 2^31", std::to_string(a.groups));
}

void check_weight(const InferContext& ctx, const Shape& w, const ConvAttrs& a) {
  ctx.require(w.rank() == 4, "weights {out, kh, kw, in/groups}", w);
  ctx.require(w[0] >= 1 && w[1] >= 1 && w[2] >= 1 && w[3] >= 1,
              "weights {out, kh, kw, in/groups} with no empty axis", w);
  if (w[0] % a.groups != 0) {
    ctx.fail("output channels that " + std::to_string(a.groups) + " groups divide",
             "weights " + to_string(w));
  }
  ctx.require((Checked(w[3]) * a.groups).fits(), "channels that can be counted", w);
}

/// Why x's channels do not match: most often a tensor or weights in PyTorch's layout.
[[noreturn]] void fail_channels(const InferContext& ctx, const Shape& x, const Shape& w, const ConvAttrs& a) {
  const std::int64_t channels = w[3] * a.groups;
  std::string got = "x " + to_string(x) + " and w " + to_string(w);
  if (a.groups != 1) got += " in " + std::to_string(a.groups) + " groups";
  const bool nchw_image = x[1] == channels || x[1] == 3 || (x[1] == 1 && x[2] == x[3] && x[2] > 1);
  if (w[1] * a.groups == x[3] && w[2] == w[3]) {
    got += "; w looks like {out, in, kh, kw}; use from_nchw on it";
  } else if (nchw_image) {
    got += "; x looks like NCHW; use from_nchw";
  }
  ctx.fail("x {N, H, W, " + std::to_string(channels) + "} for weights {out, kh, kw, in/groups}", got);
}

Shape output_shape(const InferContext& ctx, const Shape& x, const Shape& w, const ConvAttrs& a) {
  ctx.require(x[1] >= 1 && x[2] >= 1, "x {N, H, W, C} with a height and width of at least 1", x);
  const Checked reach_h = reach(w[1], a.dilation_h), reach_w = reach(w[2], a.dilation_w);
  const Checked padded_h = Checked(x[1]) + 2 * a.pad_h, padded_w = Checked(x[2]) + 2 * a.pad_w;
  const Checked space_h = padded_h - reach_h, space_w = padded_w - reach_w;
  if (!space_h.fits() || !space_w.fits()) {
    ctx.fail("a kernel whose reach can be counted",
             "w " + to_string(w) + " with dilation " + to_string(Shape{a.dilation_h, a.dilation_w}));
  }
  if (space_h.value() < 0 || space_w.value() < 0) {
    ctx.fail(
        "a padded image of at least the kernel's reach " + to_string(Shape{reach_h.value(), reach_w.value()}),
        "x " + to_string(x) + " padded to " + to_string(Shape{padded_h.value(), padded_w.value()}));
  }
  return {x[0], space_h.value() / a.stride_h + 1, space_w.value() / a.stride_w + 1, w[0]};
}

void infer_conv2d(InferContext& ctx) {
  const auto a = ctx.attrs.as<ConvAttrs>();
  const Shape &x = ctx.shape(0), &w = ctx.shape(1);
  check_attrs(ctx, a);
  ctx.require(x.rank() == 4, "x {N, H, W, C}", x);
  check_weight(ctx, w, a);
  if (x[3] != w[3] * a.groups) fail_channels(ctx, x, w, a);
  const DType dtype = ctx.same_floating_dtype();
  ctx.output(output_shape(ctx, x, w, a), dtype);
}

void infer_grad_input(InferContext& ctx) {
  const auto a = ctx.attrs.as<ConvAttrs>();
  const Shape &g = ctx.shape(0), &w = ctx.shape(1);
  check_attrs(ctx, a);
  ctx.require(g.rank() == 4, "g {N, OH, OW, O}", g);
  check_weight(ctx, w, a);
  const Shape x{g[0], a.input_h, a.input_w, w[3] * a.groups};
  const Shape forward = output_shape(ctx, x, w, a);
  if (!(forward == g)) ctx.fail("g " + to_string(forward) + " for x " + to_string(x), to_string(g));
  ctx.output(x, ctx.same_floating_dtype());
}

void infer_grad_weight(InferContext& ctx) {
  const auto a = ctx.attrs.as<ConvAttrs>();
  const Shape &x = ctx.shape(0), &g = ctx.shape(1);
  check_attrs(ctx, a);
  ctx.require(x.rank() == 4, "x of rank 4", x);
  ctx.require(g.rank() == 4, "g of rank 4", g);
  ctx.require(x[3] % a.groups == 0, "channels that the groups divide", x);
  const Shape w{g[3], a.kernel_h, a.kernel_w, x[3] / a.groups};
  check_weight(ctx, w, a);
  const Shape forward = output_shape(ctx, x, w, a);
  if (!(forward == g)) ctx.fail("g " + to_string(forward), to_string(g));
  ctx.output(w, ctx.same_floating_dtype());
}

// ---- gradients
// --------------------------------------------------------------------------------------------------------

Tensor bilinear(const core::OpDef& op, const Tensor& a, const Tensor& b, const GradContext& ctx) {
  return record_here(op, {a, b}, ctx.raw_attrs());
}

void gradient_conv2d(GradContext& ctx) {  // inputs x, w
  const Tensor g = ctx.incoming();
  // The weight's first: where both read a masked gradient, dx is then its last reader.
  if (ctx.needs(1)) ctx.set(1, bilinear(conv2d_grad_weight_op, ctx.input(0), g, ctx));
  if (ctx.needs(0)) ctx.set(0, bilinear(conv2d_grad_input_op, g, ctx.input(1), ctx));
}

void gradient_grad_input(GradContext& ctx) {  // inputs g, w; h comes in x's shape
  const Tensor h = ctx.incoming();
  if (ctx.needs(0)) ctx.set(0, bilinear(conv2d_op, h, ctx.input(1), ctx));
  if (ctx.needs(1)) ctx.set(1, bilinear(conv2d_grad_weight_op, h, ctx.input(0), ctx));
}

void gradient_grad_weight(GradContext& ctx) {  // inputs x, g; h comes in w's shape
  const Tensor h = ctx.incoming();
  if (ctx.needs(0)) ctx.set(0, bilinear(conv2d_grad_input_op, ctx.input(1), h, ctx));
  if (ctx.needs(1)) ctx.set(1, bilinear(conv2d_op, ctx.input(0), h, ctx));
}

// ---- reference
// --------------------------------------------------------------------------------------------------------

/// One loop nest is the meaning of all three ops: visits every (output element, kernel place) pair as a run
/// over a group's input channels, body(x offset, w offset, y offset, run length).
template <class Body>
void for_each_run(const ConvAttrs& a, const Shape& x, const Shape& w, const Shape& y, Body&& body) {
  const std::int64_t run = w[3], out_per_group = w[0] / a.groups;
  const auto visit_outputs = [&](std::int64_t x_pixel, std::int64_t y_pixel, std::int64_t place) {
    for (std::int64_t o = 0; o < w[0]; ++o) {
      body(x_pixel * x[3] + o / out_per_group * run, (o * w[1] * w[2] + place) * run, y_pixel * w[0] + o,
           run);
    }
  };
  for (std::int64_t n = 0; n < y[0]; ++n) {
    for (std::int64_t oh = 0; oh < y[1]; ++oh) {
      for (std::int64_t ow = 0; ow < y[2]; ++ow) {
        for (std::int64_t i = 0; i < w[1]; ++i) {
          const std::int64_t ih = oh * a.stride_h - a.pad_h + i * a.dilation_h;
          if (ih < 0 || ih >= x[1]) continue;
          for (std::int64_t j = 0; j < w[2]; ++j) {
            const std::int64_t iw = ow * a.stride_w - a.pad_w + j * a.dilation_w;
            if (iw < 0 || iw >= x[2]) continue;
            visit_outputs((n * x[1] + ih) * x[2] + iw, (n * y[1] + oh) * y[2] + ow, i * w[2] + j);
          }
        }
      }
    }
  }
}

void reference_conv2d(RefContext& ctx) {
  const RefTensor &x = ctx.in[0], &w = ctx.in[1], &y = ctx.out[0];
  fill_zero(y);
  for_each_run(ctx.attrs.as<ConvAttrs>(), x.shape, w.shape, y.shape,
               [&](std::int64_t xi, std::int64_t wi, std::int64_t yi, std::int64_t run) {
                 double sum = 0;
                 for (std::int64_t c = 0; c < run; ++c) sum += x.data[xi + c] * w.data[wi + c];
                 y.data[yi] += sum;
               });
}

void reference_grad_input(RefContext& ctx) {
  const RefTensor &g = ctx.in[0], &w = ctx.in[1], &dx = ctx.out[0];
  fill_zero(dx);
  for_each_run(ctx.attrs.as<ConvAttrs>(), dx.shape, w.shape, g.shape,
               [&](std::int64_t xi, std::int64_t wi, std::int64_t yi, std::int64_t run) {
                 const double gy = g.data[yi];
                 for (std::int64_t c = 0; c < run; ++c) dx.data[xi + c] += gy * w.data[wi + c];
               });
}

void reference_grad_weight(RefContext& ctx) {
  const RefTensor &x = ctx.in[0], &g = ctx.in[1], &dw = ctx.out[0];
  fill_zero(dw);
  for_each_run(ctx.attrs.as<ConvAttrs>(), x.shape, dw.shape, g.shape,
               [&](std::int64_t xi, std::int64_t wi, std::int64_t yi, std::int64_t run) {
                 const double gy = g.data[yi];
                 for (std::int64_t c = 0; c < run; ++c) dw.data[wi + c] += gy * x.data[xi + c];
               });
}

// ---- flops: two for every element of y and place of one filter
// ---------------------------------------------------------

double conv_flops(const Shape& y, const Shape& w) {
  return 2.0 * static_cast<double>(y.elements()) * static_cast<double>(w[1] * w[2] * w[3]);
}

double flops_conv2d(std::span<const TensorInfo> in, std::span<const TensorInfo> out, const core::Attrs&) {
  return conv_flops(out[0].shape, in[1].shape);
}
double flops_grad_input(std::span<const TensorInfo> in, std::span<const TensorInfo>, const core::Attrs&) {
  return conv_flops(in[0].shape, in[1].shape);
}
double flops_grad_weight(std::span<const TensorInfo> in, std::span<const TensorInfo> out,
                         const core::Attrs&) {
  return conv_flops(in[1].shape, out[0].shape);
}

}  // namespace

const core::OpDef conv2d_op{.name = "conv2d",
                            .infer = infer_conv2d,
                            .gradient = gradient_conv2d,
                            .saves_inputs = core::bit(0) | core::bit(1),
                            .saves_for = saves_of_product,
                            .reference = reference_conv2d,
                            .flops = flops_conv2d,
                            .takes = core::Takes::low,
                            .extra_passes = -1};

const core::OpDef conv2d_grad_input_op{.name = "conv2d_grad_input",
                                       .infer = infer_grad_input,
                                       .gradient = gradient_grad_input,
                                       .saves_inputs = core::bit(0) | core::bit(1),
                                       .saves_for = saves_of_product,
                                       .reference = reference_grad_input,
                                       .flops = flops_grad_input,
                                       .takes = core::Takes::low,
                                       .extra_passes = -1};

const core::OpDef conv2d_grad_weight_op{.name = "conv2d_grad_weight",
                                        .infer = infer_grad_weight,
                                        .gradient = gradient_grad_weight,
                                        .saves_inputs = core::bit(0) | core::bit(1),
                                        .saves_for = saves_of_product,
                                        .reference = reference_grad_weight,
                                        .flops = flops_grad_weight,
                                        .extra_passes = -1};

namespace {

/// The recorded op would speak of a gradient; these are what a user of the layer gets wrong.
void check_dtypes(const char* op, const Tensor& x, const Tensor& other, Location at) {
  const DType dtype = core::autocast_input(core::Takes::low, x.dtype());
  const std::string first(name_of(dtype)),
      second(name_of(core::autocast_input(core::Takes::low, other.dtype())));
  if (!is_floating(dtype)) fail(op, "a floating dtype", first + "; use cast", at);
  if (first != second) fail(op, "equal dtypes", first + " and " + second + "; use cast", at);
}

/// Checked before the convolution is recorded: the bias is added by an op of its own.
void check_bias(const Tensor& x, const Tensor& w, const Tensor& b, Location at) {
  if (w.rank() != 4) return;  // the convolution says so
  if (!(b.shape() == Shape{w.shape()[0]})) {
    fail("conv2d", "bias {" + std::to_string(w.shape()[0]) + "} for weights {out, kh, kw, in/groups}",
         "bias " + to_string(b.shape()) + " for " + to_string(w.shape()), at);
  }
  check_dtypes("conv2d", x, b, at);
}

void check_transposed_options(const Shape& w, const ConvTranspose2dOptions& options, Location at) {
  const char* op = "conv_transpose2d";
  const auto require = [&](bool ok, const char* expected, std::int64_t got) {
    if (!ok) fail(op, expected, std::to_string(got), at);
  };
  require(options.groups >= 1, "groups of at least 1", options.groups);
  require(w[0] % options.groups == 0, "groups that divide w's first axis", options.groups);
  for (std::size_t i : {0u, 1u}) {
    const auto in_pixels = [](std::int64_t pixels, std::int64_t least) {
      return Checked(pixels).within(least, most_pixels);
    };
    require(in_pixels(options.stride[i], 1), "stride of at least 1 and below 2^31", options.stride[i]);
    require(in_pixels(options.padding[i], 0), "padding of at least 0 and below 2^31", options.padding[i]);
    require(options.padding.is_symmetric(), "symmetric padding", options.padding.after[i]);
    require(in_pixels(options.dilation[i], 1), "dilation of at least 1 and below 2^31", options.dilation[i]);
    // An output padding of a whole stride would be another pixel of x.
    require(options.output_padding[i] >= 0 && options.output_padding[i] < options.stride[i],
            "output_padding in [0, stride)", options.output_padding[i]);
  }
}

/// Everything is checked here, so that no message speaks of the gradient that the op is made of.
void check_transposed(const Tensor& input, const Tensor& weight, const ConvTranspose2dOptions& options,
                      Location at) {
  const char* op = "conv_transpose2d";
  const Shape &x = input.shape(), &w = weight.shape();
  const auto shapes = [&] { return "x " + to_string(x) + " and w " + to_string(w); };
  if (x.rank() != 4 || w.rank() != 4) fail(op, "x {N, H, W, C} and w {C, kh, kw, out/groups}", shapes(), at);
  if (x[3] != w[0]) {
    const bool nchw = x[1] == w[0];
    fail(op, "x {N, H, W, " + std::to_string(w[0]) + "} for w {C, kh, kw, out/groups}",
         shapes() + (nchw ? "; x looks like NCHW; use from_nchw" : ""), at);
  }
  if (x[1] < 1 || x[2] < 1 || w.elements() == 0) fail(op, "x and w with no empty axis but N", shapes(), at);
  check_dtypes(op, input, weight, at);
  check_transposed_options(w, options, at);
}

/// The same convolution in the smallest numbers, for kernels that count in 32 bits: a stride past the last
/// place and the dilation of a single pixel say nothing.
ConvAttrs in_small_numbers(ConvAttrs a) {
  const auto shrink = [](std::int64_t& stride, std::int64_t& dilation, std::int64_t input, std::int64_t pad,
                         std::int64_t kernel) {
    const Checked space = Checked(input) + Checked(2) * pad - reach(kernel, dilation);
    if (space.within(0, stride - 2)) stride = space.value() + 1;
    if (kernel == 1 && dilation > 1) dilation = 1;
  };
  if (in_pixels(a.stride_h, a.stride_w, 1) && in_pixels(a.pad_h, a.pad_w, 0) &&
      in_pixels(a.dilation_h, a.dilation_w, 1)) {  // otherwise the shape rule says what is wrong
    shrink(a.stride_h, a.dilation_h, a.input_h, a.pad_h, a.kernel_h);
    shrink(a.stride_w, a.dilation_w, a.input_w, a.pad_w, a.kernel_w);
  }
  return a;
}

/// The height (i = 0) or width of a transposed convolution's output.
std::int64_t transposed_extent(const Shape& x, const Shape& w, const ConvTranspose2dOptions& options,
                               std::size_t i, Location at) {
  const int axis = static_cast<int>(i) + 1;
  const Checked extent = (Checked(x[axis]) - 1) * options.stride[i] - 2 * options.padding[i] +
                         reach(w[axis], options.dilation[i]) + options.output_padding[i];
  if (!extent.fits()) {
    fail("conv_transpose2d", "an output that can be counted",
         "x " + to_string(x) + " with stride " + std::to_string(options.stride[i]) + " and dilation " +
             std::to_string(options.dilation[i]),
         at);
  }
  if (extent.value() < 1) {
    fail("conv_transpose2d", "padding that leaves an output of at least 1", std::to_string(extent.value()),
         at);
  }
  return extent.value();
}

}  // namespace

}  // namespace fusetape::ops

namespace fusetape {

Tensor conv2d(Operand x, Operand w, Conv2dOptions options) {
  Tensor input = ops::require_tensor("conv2d", x);
  const Tensor weight = ops::require_tensor("conv2d", w);
  Size2d padding = options.padding.before();
  if (!options.padding.is_symmetric() && weight.rank() == 4) {
    const Size2d window(weight.shape()[1], weight.shape()[2]);
    auto bordered =
        ops::bordered("conv2d", input, options.padding, window, options.stride, options.dilation, 0, x.at());
    input = std::move(bordered.x);
    padding = bordered.padding;
  }
  core::ConvAttrs attrs{
      .stride_h = options.stride[0],
      .stride_w = options.stride[1],
      .pad_h = padding[0],
      .pad_w = padding[1],
      .dilation_h = options.dilation[0],
      .dilation_w = options.dilation[1],
      .groups = options.groups,
  };
  if (input.rank() == 4 && weight.rank() == 4) {  // otherwise the shape rule says what is wrong
    attrs.kernel_h = weight.shape()[1];
    attrs.kernel_w = weight.shape()[2];
    attrs.input_h = input.shape()[1];
    attrs.input_w = input.shape()[2];
  }
  return core::record_one(ops::conv2d_op, {input, weight}, core::Attrs::of(ops::in_small_numbers(attrs)),
                          x.at());
}

Tensor conv2d(Operand x, Operand w, Operand b, Conv2dOptions options) {
  const Location at = x.at();
  Tensor input = ops::require_tensor("conv2d", x), weight = ops::require_tensor("conv2d", w),
         bias = ops::require_tensor("conv2d", b);
  ops::check_bias(input, weight, bias, at);
  Tensor y = conv2d(Operand(std::move(input), at), Operand(std::move(weight), at), options);
  return bias_add(Operand(std::move(y), at), Operand(std::move(bias), at));
}

Tensor conv_transpose2d(Operand x, Operand w, ConvTranspose2dOptions options) {
  const char* op = "conv_transpose2d";
  const Tensor input = ops::require_tensor(op, x), weight = ops::require_tensor(op, w);
  ops::check_transposed(input, weight, options, x.at());
  const auto extent = [&](std::size_t i) {
    return ops::transposed_extent(input.shape(), weight.shape(), options, i, x.at());
  };
  const core::ConvAttrs attrs{
      .stride_h = options.stride[0],
      .stride_w = options.stride[1],
      .pad_h = options.padding[0],
      .pad_w = options.padding[1],
      .dilation_h = options.dilation[0],
      .dilation_w = options.dilation[1],
      .groups = options.groups,
      .kernel_h = weight.shape()[1],
      .kernel_w = weight.shape()[2],
      .input_h = extent(0),
      .input_w = extent(1),
  };
  return core::record_one(ops::conv2d_grad_input_op, {input, weight},
                          core::Attrs::of(ops::in_small_numbers(attrs)), x.at());
}

}  // namespace fusetape
