#include "fusetape/models/airbench.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "nn/models/common.hpp"

namespace fusetape::nn {
namespace {

constexpr double variance_floor = 5e-4;  // of a whitened direction, as published

Airbench::Options checked(Airbench::Options options, Location at) {
  check_sizes(requirement("Airbench", at), options);
  return options;
}

/// {out, 3, 3, in}
Tensor partly_identity(const Shape& shape, Location at) {
  const std::int64_t out = shape[0], taps = shape[1] * shape[2], in = shape[3];
  const double bound = 1 / std::sqrt(static_cast<double>(taps * in));
  std::vector<float> values = uniform(shape, -bound, bound, at).to_vector();
  for (std::int64_t o = 0; o < std::min(in, out); ++o) {
    const auto filter = values.begin() + o * taps * in;
    std::fill(filter, filter + taps * in, 0.0f);
    filter[taps / 2 * in + o] = 1;
  }
  return from_vector(values, shape, at);
}

}  // namespace

AirbenchBlock::AirbenchBlock(std::int64_t in, std::int64_t out, Location at)
    : conv1_(convolution(in, out, 3), at),
      norm1_(out, {.eps = 1e-12, .momentum = 0.4}, at),
      conv2_(convolution(out, out, 3), at),
      norm2_(out, {.eps = 1e-12, .momentum = 0.4}, at) {
  register_child("conv1", conv1_);
  register_child("norm1", norm1_);
  register_child("conv2", conv2_);
  register_child("norm2", norm2_);
  register_conv_norm(conv2_, norm2_, at);
  for (const Conv2d* conv : {&conv1_, &conv2_})
    conv->weight().set_data(partly_identity(conv->weight().shape(), at), at);
  for (BatchNorm2d* norm : {&norm1_, &norm2_}) norm->weight().set_requires_grad(false);
}

Tensor AirbenchBlock::forward(const Tensor& x) {
  const Location at = here();
  const Tensor y = gelu({norm1_(max_pool2d({conv1_(x, at), at}, 2), at), at});
  return gelu({norm2_(conv2_(y, at), at), at});
}

Airbench::Airbench(Options options, Location at)
    : whitening_({.in = checked(options, at).channels, .out = 8 * options.channels, .kernel = 2}, at),
      fc_({.in = 4 * options.width, .out = options.classes, .bias = false}, at) {
  blocks_.emplace<AirbenchBlock>(8 * options.channels, options.width, at);
  blocks_.emplace<AirbenchBlock>(options.width, 4 * options.width, at);
  blocks_.emplace<AirbenchBlock>(4 * options.width, 4 * options.width, at);
  register_child("whitening", whitening_);
  register_child("blocks", blocks_);
  register_child("fc", fc_);
  whitening_.weight().set_requires_grad(false);
}

void Airbench::whiten(const Tensor& images, Location at) {
  whitening_.weight().set_data(whitening(images, 2, variance_floor, at), at);
}

Tensor Airbench::forward(const Tensor& x) {
  const Location at = here();
  const Tensor y = blocks_(gelu({whitening_(x, at), at}), at);
  return mul({fc_(flatten({max_pool2d({y, at}, 3), at}), at), at}, {1.0 / 9, at});
}

}  // namespace fusetape::nn
