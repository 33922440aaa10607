#include <cmath>
#include <limits>

#include "core/numerics/checked.hpp"
#include "core/numerics/number_text.hpp"
#include "fusetape/nn.hpp"

/// Each layer hands on here(): an error names the user's call, not this file.
namespace fusetape::nn {
namespace {

[[noreturn]] void fail(const char* layer, const std::string& expected, const std::string& got, Location at) {
  throw Error(layer, "expected " + expected + ", got " + got, at);
}

void require_positive(const char* layer, const char* what, std::int64_t value, Location at) {
  if (value < 1) fail(layer, std::string(what) + " ≥ 1", std::to_string(value), at);
}

void require_eps(const char* layer, double eps, Location at) {
  if (!(eps > 0 && std::isfinite(eps))) fail(layer, "eps > 0 and finite", core::number_text(eps), at);
}

void require_probability(const char* layer, double p, Location at) {
  if (!(p >= 0 && p < 1)) fail(layer, "p in [0, 1)", core::number_text(p), at);
}

void require_pair(const char* layer, const char* what, Size2d value, std::int64_t least, Location at) {
  if (value.height < least || value.width < least) {
    fail(layer, std::string(what) + " ≥ " + std::to_string(least),
         "{" + std::to_string(value.height) + ", " + std::to_string(value.width) + "}", at);
  }
}

/// What overflows is too large for a tensor, too: kaiming_normal says so.
std::int64_t fan_out(std::int64_t channels, Size2d kernel) {
  const core::Checked fan = core::Checked(channels) * kernel.height * kernel.width;
  return fan.fits() ? fan.value() : std::numeric_limits<std::int64_t>::max();
}

template <class Options>
void check_convolution(const char* layer, const Options& options, Location at) {
  require_positive(layer, "in", options.in, at);
  require_positive(layer, "out", options.out, at);
  require_positive(layer, "groups", options.groups, at);
  require_pair(layer, "kernel", options.kernel, 1, at);
  require_pair(layer, "stride", options.stride, 1, at);
  require_pair(layer, "padding", options.padding.before(), 0, at);
  require_pair(layer, "padding", options.padding.after, 0, at);
  require_pair(layer, "dilation", options.dilation, 1, at);
  if (options.in % options.groups != 0 || options.out % options.groups != 0) {
    fail(layer, "in and out to be multiples of groups",
         "in " + std::to_string(options.in) + ", out " + std::to_string(options.out) + ", groups " +
             std::to_string(options.groups),
         at);
  }
}

/// x times a mask of its first and, where `channels`, its last axis.
Tensor dropped(const char* layer, const Tensor& x, int least_rank, bool channels, double p, Location at) {
  if (x.rank(at) < least_rank)
    fail(layer, std::to_string(least_rank) + " axes or more", to_string(x.shape()), at);
  Shape shape = x.shape();
  for (int axis = 1; axis < shape.rank() - (channels ? 1 : 0); ++axis) shape[axis] = 1;
  return mul({x, at}, {dropout({ones(shape, x.dtype(), at), at}, p), at});
}

}  // namespace

Linear::Linear(Options options, Location at) {
  require_positive("Linear", "in", options.in, at);
  require_positive("Linear", "out", options.out, at);
  const double bound = 1.0 / std::sqrt(static_cast<double>(options.in));
  weight_ = register_parameter("weight", uniform({options.out, options.in}, -bound, bound, at), at);
  if (options.bias) bias_ = register_parameter("bias", uniform({options.out}, -bound, bound, at), at);
}

Tensor Linear::forward(const Tensor& x) {
  return bias_.defined() ? linear({x, here()}, weight_, bias_) : linear({x, here()}, weight_);
}

Conv2d::Conv2d(Options options, Location at) {
  check_convolution("Conv2d", options, at);
  options_ = {options.stride, options.padding, options.dilation, options.groups};
  const auto [height, width] = options.kernel;
  const Shape shape{options.out, height, width, options.in / options.groups};
  weight_ = register_parameter("weight", kaiming_normal(shape, fan_out(options.out, options.kernel), at), at);
  if (options.bias) bias_ = register_parameter("bias", zeros({options.out}, DType::f32, at), at);
}

Tensor Conv2d::forward(const Tensor& x) {
  return bias_.defined() ? conv2d({x, here()}, weight_, bias_, options_)
                         : conv2d({x, here()}, weight_, options_);
}

ConvTranspose2d::ConvTranspose2d(Options options, Location at) {
  check_convolution("ConvTranspose2d", options, at);
  require_pair("ConvTranspose2d", "output_padding", options.output_padding, 0, at);
  options_ = {options.stride, options.padding, options.output_padding, options.dilation, options.groups};
  const auto [height, width] = options.kernel;
  const Shape shape{options.in, height, width, options.out / options.groups};
  // Each output sums over `in` channels and the kernel places that a stride leaves: fan out of the
  // convolution it reverses.
  weight_ = register_parameter("weight", kaiming_normal(shape, fan_out(options.in, options.kernel), at), at);
  if (options.bias) bias_ = register_parameter("bias", zeros({options.out}, DType::f32, at), at);
}

Tensor ConvTranspose2d::forward(const Tensor& x) {
  const Tensor y = conv_transpose2d({x, here()}, weight_, options_);
  return bias_.defined() ? bias_add({y, here()}, bias_) : y;
}

BatchNorm2d::BatchNorm2d(std::int64_t channels, BatchNormOptions options, Location at) : options_(options) {
  require_positive("BatchNorm2d", "channels", channels, at);
  require_eps("BatchNorm2d", options.eps, at);
  if (!(options.momentum >= 0 && options.momentum <= 1)) {
    fail("BatchNorm2d", "momentum in [0, 1]", core::number_text(options.momentum), at);
  }
  weight_ = register_parameter("weight", ones({channels}, DType::f32, at), at);
  bias_ = register_parameter("bias", zeros({channels}, DType::f32, at), at);
  running_mean_ = register_buffer("running_mean", zeros({channels}, DType::f32, at), at);
  running_var_ = register_buffer("running_var", ones({channels}, DType::f32, at), at);
}

Tensor BatchNorm2d::forward(const Tensor& x) {
  if (folded_ && is_training()) {
    throw Error("BatchNorm2d", "expected evaluation mode after fold_batch_norm, got training mode", here(),
                path());
  }
  if (folded_) return x;
  if (!is_training() || frozen_) {
    return batch_norm_inference({x, here()}, weight_, bias_, running_mean_.value(), running_var_.value(),
                                options_);
  }
  BatchNormOptions options = options_;
  if (averaged_ >= 0) options.momentum = 1 / static_cast<double>(averaged_ + 1);
  BatchNormResult result =
      batch_norm({x, here()}, weight_, bias_, running_mean_.value(), running_var_.value(), options);
  if (averaged_ >= 0 && x.elements() > 0) ++averaged_;  // an empty batch moves no statistic
  running_mean_.set_data(result.running_mean, here());
  running_var_.set_data(result.running_var, here());
  return result.y;
}

LayerNorm::LayerNorm(std::int64_t width, double eps, Location at) : eps_(eps) {
  require_positive("LayerNorm", "width", width, at);
  require_eps("LayerNorm", eps, at);
  weight_ = register_parameter("weight", ones({width}, DType::f32, at), at);
  bias_ = register_parameter("bias", zeros({width}, DType::f32, at), at);
}

Tensor LayerNorm::forward(const Tensor& x) { return layer_norm({x, here()}, weight_, bias_, eps_); }

GroupNorm::GroupNorm(std::int64_t groups, std::int64_t channels, double eps, Location at)
    : groups_(groups), eps_(eps) {
  require_positive("GroupNorm", "groups", groups, at);
  require_positive("GroupNorm", "channels", channels, at);
  if (channels % groups != 0) {
    fail("GroupNorm", "channels to be a multiple of groups",
         "groups " + std::to_string(groups) + ", channels " + std::to_string(channels), at);
  }
  require_eps("GroupNorm", eps, at);
  weight_ = register_parameter("weight", ones({channels}, DType::f32, at), at);
  bias_ = register_parameter("bias", zeros({channels}, DType::f32, at), at);
}

Tensor GroupNorm::forward(const Tensor& x) { return group_norm({x, here()}, groups_, weight_, bias_, eps_); }

Embedding::Embedding(std::int64_t entries, std::int64_t width, Location at) {
  require_positive("Embedding", "entries", entries, at);
  require_positive("Embedding", "width", width, at);
  weight_ = register_parameter("weight", normal({entries, width}, 0, 1, at), at);
}

Tensor Embedding::forward(const Tensor& indices) { return embedding({weight_, here()}, indices); }

Tensor LeakyReLU::forward(const Tensor& x) { return leaky_relu({x, here()}, slope_); }
Tensor ELU::forward(const Tensor& x) { return elu({x, here()}, alpha_); }

Dropout::Dropout(double p, Location at) : p_(p) { require_probability("Dropout", p, at); }
Dropout2d::Dropout2d(double p, Location at) : p_(p) { require_probability("Dropout2d", p, at); }
DropPath::DropPath(double p, Location at) : p_(p) { require_probability("DropPath", p, at); }

Tensor Dropout::forward(const Tensor& x) { return is_training() && p_ > 0 ? dropout({x, here()}, p_) : x; }

Tensor Dropout2d::forward(const Tensor& x) {
  return is_training() && p_ > 0 ? dropped("Dropout2d", x, 2, true, p_, here()) : x;
}
Tensor DropPath::forward(const Tensor& x) {
  return is_training() && p_ > 0 ? dropped("DropPath", x, 1, false, p_, here()) : x;
}

Upsample::Upsample(std::int64_t factor, Upsampling by, Location at) : factor_(factor), by_(by) {
  require_positive("Upsample", "factor", factor, at);
}

Tensor AdaptiveAvgPool2d::forward(const Tensor& x) { return adaptive_avg_pool2d({x, here()}, size_); }
Tensor PixelShuffle::forward(const Tensor& x) { return pixel_shuffle({x, here()}, factor_); }
Tensor Upsample::forward(const Tensor& x) {
  if (x.rank(here()) != 4) fail("Upsample", "images {N, H, W, C}", to_string(x.shape()), here());
  const core::Checked height = core::Checked(x.shape()[1]) * factor_,
                      width = core::Checked(x.shape()[2]) * factor_;
  if (!height.fits() || !width.fits())
    fail("Upsample", "sizes that can be counted", std::to_string(factor_) + " times " + to_string(x.shape()),
         here());
  return upsample({x, here()}, Size2d(height.value(), width.value()), by_);
}

Tensor MaxPool2d::forward(const Tensor& x) { return max_pool2d({x, here()}, options_); }
Tensor AvgPool2d::forward(const Tensor& x) { return avg_pool2d({x, here()}, options_); }
Tensor GlobalAvgPool::forward(const Tensor& x) { return global_avg_pool({x, here()}); }
Tensor Flatten::forward(const Tensor& x) { return flatten({x, here()}, from_axis_); }

}  // namespace fusetape::nn
