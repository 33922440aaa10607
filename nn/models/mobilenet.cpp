#include "fusetape/models/mobilenet.hpp"

#include <algorithm>
#include <cmath>

#include "core/numerics/number_text.hpp"
#include "nn/models/common.hpp"

namespace fusetape::nn {
namespace {

struct Stage {
  std::int64_t expand, channels, blocks, stride;
};
constexpr Stage stages[] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                            {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};

MobileNetV2::Options checked(MobileNetV2::Options options, Location at) {
  if (!(options.width > 0 && options.width <= 1000))
    throw Error("MobileNetV2", "expected width > 0 and ≤ 1000, got " + core::number_text(options.width), at);
  check_ends(requirement("MobileNetV2", at), options);
  return options;
}

/// The nearest multiple of 8, but no less than 0.9 of it (as in the authors' code).
std::int64_t scaled(double channels, double width) {
  const double wanted = channels * width;
  const auto nearest = std::max<std::int64_t>(8, static_cast<std::int64_t>(wanted + 4) / 8 * 8);
  return static_cast<double>(nearest) < 0.9 * wanted ? nearest + 8 : nearest;
}

std::int64_t last_width(double width) { return scaled(1280, std::max(width, 1.0)); }

}  // namespace

InvertedResidual::InvertedResidual(Options options, Location at)
    : adds_(options.stride == 1 && options.in == options.out) {
  const auto require = requirement("InvertedResidual", at);
  require(is_count_of_channels(options.in), "in ≥ 1 and ≤ 2^24", options.in);
  require(options.expand >= 1 && options.expand <= 1024, "expand ≥ 1 and ≤ 1024", options.expand);
  const std::int64_t hidden = options.in * options.expand;
  if (options.expand != 1) {
    layers_.emplace<ConvNorm>(
        {.in = options.in, .out = hidden, .kernel = 1, .activation = options.activation}, at);
  }
  layers_.emplace<ConvNorm>({.in = hidden,
                             .out = hidden,
                             .stride = options.stride,
                             .groups = hidden,
                             .activation = options.activation},
                            at);
  layers_.emplace<ConvNorm>({.in = hidden, .out = options.out, .kernel = 1, .activation = nullptr}, at);
  register_child("layers", layers_);
}

Tensor InvertedResidual::forward(const Tensor& x) {
  const Location at = here();
  const Tensor y = layers_(x, at);
  return adds_ ? add({y, at}, {x, at}) : y;
}

MobileNetV2::MobileNetV2(Options options, Location at)
    : stem_({.in = checked(options, at).channels,
             .out = scaled(32, options.width),
             .stride = options.small_images ? 1 : 2,
             .activation = options.activation},
            at),
      last_({.in = scaled(320, options.width),
             .out = last_width(options.width),
             .kernel = 1,
             .activation = options.activation},
            at),
      dropout_(options.dropout, at),
      fc_(last_width(options.width), options.classes, at) {
  std::int64_t in = scaled(32, options.width);
  for (const Stage& stage : stages) {
    const bool keeps_size = options.small_images && stage.channels == 24;
    const std::int64_t out = scaled(static_cast<double>(stage.channels), options.width);
    for (std::int64_t b = 0; b < stage.blocks; ++b) {
      blocks_.emplace<InvertedResidual>({.in = in,
                                         .out = out,
                                         .stride = b == 0 && !keeps_size ? stage.stride : 1,
                                         .expand = stage.expand,
                                         .activation = options.activation},
                                        at);
      in = out;
    }
  }
  register_child("stem", stem_);
  register_child("blocks", blocks_);
  register_child("last", last_);
  register_child("dropout", dropout_);
  register_child("fc", fc_);
}

Tensor MobileNetV2::forward(const Tensor& x) {
  const Location at = here();
  const Tensor y = last_(blocks_(stem_(x, at), at), at);
  return fc_(dropout_(global_avg_pool({y, at}), at), at);
}

}  // namespace fusetape::nn
