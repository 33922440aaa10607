#include "fusetape/models/convnext.hpp"

#include <numeric>

#include "nn/models/common.hpp"

namespace fusetape::nn {
namespace {

constexpr double eps = 1e-6;

ConvNeXt::Options checked(ConvNeXt::Options options, Location at) {
  const auto require = requirement("ConvNeXt", at);
  check_blocks(require, options.blocks);
  check_sizes(require, options);
  check_probability("ConvNeXt", "drop_path", options.drop_path, at);
  require(options.patch >= 1 && options.patch <= 1024, "patch ≥ 1 and ≤ 1024", options.patch);
  return options;
}

std::int64_t last_width(const ConvNeXt::Options& options) {
  return options.width << (options.blocks.size() - 1);
}

}  // namespace

ConvNeXtBlock::ConvNeXtBlock(Options options, Location at)
    : scale_(register_parameter("scale", full({options.width}, 1e-6, DType::f32, at), at)),
      conv_({.in = options.width, .out = options.width, .kernel = 7, .padding = 3, .groups = options.width},
            at),
      norm_(options.width, eps, at),
      up_(options.width, 4 * options.width, at),
      down_(4 * options.width, options.width, at),
      drop_path_(options.drop_path, at) {
  register_child("conv", conv_);
  register_child("norm", norm_);
  register_child("up", up_);
  register_child("down", down_);
  register_child("drop_path", drop_path_);
}

Tensor ConvNeXtBlock::forward(const Tensor& x) {
  const Location at = here();
  const Tensor y = down_(gelu({up_(norm_(conv_(x, at), at), at), at}), at);
  return add({x, at}, {drop_path_(mul({scale_.value(), at}, {y, at}), at), at});
}

ConvNeXt::ConvNeXt(Options options, Location at)
    : norm_(last_width(checked(options, at)), eps, at), fc_(last_width(options), options.classes, at) {
  const std::int64_t last =
      std::accumulate(options.blocks.begin(), options.blocks.end(), std::int64_t{0}) - 1;
  std::int64_t number = 0;
  for (std::size_t s = 0; s < options.blocks.size(); ++s) {
    Sequential& stage = stages_.emplace<Sequential>(at);
    const std::int64_t width = options.width << s;
    if (s == 0) {
      stage.emplace<Conv2d>(
          {.in = options.channels, .out = width, .kernel = options.patch, .stride = options.patch}, at);
      stage.emplace<LayerNorm>(width, eps, at);
    } else {
      stage.emplace<LayerNorm>(width / 2, eps, at);
      stage.emplace<Conv2d>({.in = width / 2, .out = width, .kernel = 2, .stride = 2}, at);
    }
    for (std::int64_t b = 0; b < options.blocks[s]; ++b, ++number) {
      const double share = last == 0 ? 1 : static_cast<double>(number) / static_cast<double>(last);
      stage.emplace<ConvNeXtBlock>({.width = width, .drop_path = share * options.drop_path}, at);
    }
  }
  register_child("stages", stages_);
  register_child("norm", norm_);
  register_child("fc", fc_);
}

Tensor ConvNeXt::forward(const Tensor& x) {
  const Location at = here();
  return fc_(norm_(global_avg_pool({stages_(x, at), at}), at), at);
}

}  // namespace fusetape::nn
