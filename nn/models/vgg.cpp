#include "fusetape/models/vgg.hpp"

#include <algorithm>

#include "nn/models/common.hpp"

namespace fusetape::nn {
namespace {

VGG::Options checked(VGG::Options options, Location at) {
  const auto require = requirement("VGG", at);
  require(options.depth == 11 || options.depth == 13 || options.depth == 16 || options.depth == 19,
          "a depth of 11, 13, 16 or 19", options.depth);
  require(options.hidden >= 0 && options.hidden <= most_channels, "hidden ≥ 0 and ≤ 2^24", options.hidden);
  check_probability("VGG", "dropout", options.dropout, at);
  check_sizes(require, options);
  return options;
}

/// 11 has 1, 1, 2, 2, 2 convolutions in its stages, 13 has two in each, 16 and 19 one and two more in the
/// last three.
std::int64_t convolutions(std::int64_t depth, std::int64_t stage) {
  if (stage < 2) return depth == 11 ? 1 : 2;
  return depth <= 13 ? 2 : depth == 16 ? 3 : 4;
}

}  // namespace

VGG::VGG(Options given, Location at) {
  const Options options = checked(given, at);
  std::int64_t in = options.channels;
  for (std::int64_t stage = 0; stage < 5; ++stage) {
    const std::int64_t out = options.width << std::min<std::int64_t>(stage, 3);
    for (std::int64_t c = 0; c < convolutions(options.depth, stage); ++c) {
      layers_.emplace<ConvNorm>({.in = in, .out = out, .norm = options.norms}, at);
      in = out;
    }
    layers_.emplace<MaxPool2d>(Size2d(2), at);
  }
  register_child("layers", layers_);
  if (options.hidden == 0) {
    classifier_.emplace<GlobalAvgPool>(at);
    classifier_.emplace<Linear>(in, options.classes, at);
  } else {
    classifier_.emplace<AdaptiveAvgPool2d>(Size2d(7), at);
    classifier_.emplace<Flatten>(at);
    for (const std::int64_t from : {in * 7 * 7, options.hidden}) {
      classifier_.emplace<Linear>(from, options.hidden, at);
      classifier_.emplace<ReLU>(at);
      classifier_.emplace<Dropout>(options.dropout, at);
    }
    classifier_.emplace<Linear>(options.hidden, options.classes, at);
  }
  register_child("classifier", classifier_);
}

Tensor VGG::forward(const Tensor& x) {
  const Location at = here();
  return classifier_(layers_(x, at), at);
}

}  // namespace fusetape::nn
