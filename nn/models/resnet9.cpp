#include "fusetape/models/resnet9.hpp"

#include "nn/models/common.hpp"

namespace fusetape::nn {
namespace {

ResNet9::Options checked(ResNet9::Options options, Location at) {
  check_sizes(requirement("ResNet9", at), options);
  return options;
}

}  // namespace

ResNet9::ResNet9(Options options, Location at)
    : prep_({.in = checked(options, at).channels, .out = options.width}, at),
      layer1_({.in = options.width, .out = 2 * options.width, .pool = true}, at),
      layer2_({.in = 2 * options.width, .out = 4 * options.width, .pool = true}, at),
      layer3_({.in = 4 * options.width, .out = 8 * options.width, .pool = true}, at),
      fc_({.in = 8 * options.width, .out = options.classes, .bias = false}, at) {
  for (int i = 0; i < 2; ++i) {
    residual1_.emplace<ConvNorm>({.in = 2 * options.width, .out = 2 * options.width}, at);
    residual3_.emplace<ConvNorm>({.in = 8 * options.width, .out = 8 * options.width}, at);
  }
  register_child("prep", prep_);
  register_child("layer1", layer1_);
  register_child("residual1", residual1_);
  register_child("layer2", layer2_);
  register_child("layer3", layer3_);
  register_child("residual3", residual3_);
  register_child("fc", fc_);
}

Tensor ResNet9::forward(const Tensor& x) {
  const Location at = here();
  const Tensor first = layer1_(prep_(x, at), at);
  const Tensor y = add({first, at}, {residual1_(first, at), at});
  const Tensor last = layer3_(layer2_(y, at), at);
  const Tensor z = add({last, at}, {residual3_(last, at), at});
  const Tensor pooled = flatten({max_pool2d({z, at}, 4), at});
  return mul({fc_(pooled, at), at}, {0.125, at});
}

}  // namespace fusetape::nn
