#include "fusetape/models/conv_norm.hpp"

namespace fusetape::nn {

ConvNorm::ConvNorm(Options options, Location at)
    : conv_({.in = options.in,
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
  return activation_ != nullptr ? activation_({y, at}) : y;
}

}  // namespace fusetape::nn
