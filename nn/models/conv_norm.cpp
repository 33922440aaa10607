#include "fusetape/models/conv_norm.hpp"

#include "nn/models/common.hpp"

namespace fusetape::nn {
namespace {

ConvNorm::Options checked(ConvNorm::Options options, Location at) {
  requirement("ConvNorm", at)(options.kernel >= 1 && options.kernel % 2 == 1, "an odd kernel",
                              options.kernel);
  return options;
}

}  // namespace

ConvNorm::ConvNorm(Options options, Location at)
    : conv_({.in = checked(options, at).in,
             .out = options.out,
             .kernel = options.kernel,
             .stride = options.stride,
             .padding = options.kernel / 2,
             .groups = options.groups,
             .bias = !options.norm},
            at),
      pool_(options.pool),
      activation_(options.activation) {
  register_child("conv", conv_);
  if (!options.norm) return;
  register_child("bn", bn_.emplace(options.out, BatchNormOptions{}, at));
  if (!pool_) register_conv_norm(conv_, *bn_);
}

Tensor ConvNorm::forward(const Tensor& x) {
  const Location at = here();
  Tensor y = conv_(x, at);
  if (pool_) y = max_pool2d({y, at}, 2);
  if (bn_) y = (*bn_)(y, at);
  return activated(activation_, y, at);
}

}  // namespace fusetape::nn
