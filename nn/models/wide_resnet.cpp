#include "fusetape/models/wide_resnet.hpp"

#include "nn/models/common.hpp"

namespace fusetape::nn {
namespace {

WideResNet::Options checked(WideResNet::Options options, Location at) {
  const auto require = requirement("WideResNet", at);
  require(options.depth >= 10 && options.depth % 6 == 4 && options.depth <= 6 * most_blocks,
          "a depth of 6n + 4 ≥ 10", options.depth);
  require(options.widen >= 1 && options.widen <= most_channels / 64, "widen ≥ 1 and ≤ 2^18", options.widen);
  check_ends(require, options);
  return options;
}

}  // namespace

WideBlock::WideBlock(Options options, Location at)
    : bn1_(options.in, {}, at),
      conv1_(convolution(options.in, options.out, 3, options.stride), at),
      bn2_(options.out, {}, at),
      conv2_(convolution(options.out, options.out, 3), at) {
  register_child("bn1", bn1_);
  register_child("conv1", conv1_);
  register_child("bn2", bn2_);
  register_child("conv2", conv2_);
  register_conv_norm(conv1_, bn2_);
  if (options.stride != 1 || options.in != options.out) {
    const Conv2d::Options projection = convolution(options.in, options.out, 1, options.stride);
    register_child("shortcut", shortcut_.emplace(projection, at));
  }
  if (options.dropout != 0) register_child("dropout", dropout_.emplace(options.dropout, at));
}

Tensor WideBlock::forward(const Tensor& x) {
  const Location at = here();
  const Tensor first = relu({bn1_(x, at), at});
  Tensor y = relu({bn2_(conv1_(first, at), at), at});
  if (dropout_) y = (*dropout_)(y, at);
  return add({conv2_(y, at), at}, {shortcut_ ? (*shortcut_)(first, at) : x, at});
}

WideResNet::WideResNet(Options options, Location at)
    : conv1_(convolution(checked(options, at).channels, 16, 3), at),
      bn_(64 * options.widen, {}, at),
      fc_(64 * options.widen, options.classes, at) {
  std::int64_t in = 16;
  for (std::int64_t s = 0; s < 3; ++s) {
    Sequential& stage = stages_.emplace<Sequential>(at);
    const std::int64_t out = (16 * options.widen) << s;
    for (std::int64_t b = 0; b < (options.depth - 4) / 6; ++b) {
      stage.emplace<WideBlock>(
          {.in = in, .out = out, .stride = s > 0 && b == 0 ? 2 : 1, .dropout = options.dropout}, at);
      in = out;
    }
  }
  register_child("conv1", conv1_);
  register_child("stages", stages_);
  register_child("bn", bn_);
  register_child("fc", fc_);
}

Tensor WideResNet::forward(const Tensor& x) {
  const Location at = here();
  const Tensor y = relu({bn_(stages_(conv1_(x, at), at), at), at});
  return fc_(global_avg_pool({y, at}), at);
}

}  // namespace fusetape::nn
