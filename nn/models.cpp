#include "fusetape/models.hpp"

namespace fusetape::nn {
namespace {

Conv2d::Options convolution(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride = 1) {
  return {.in = in, .out = out, .kernel = kernel, .stride = stride, .padding = kernel / 2, .bias = false};
}

/// Throws, as `op`, what is not so.
auto requirement(const char* op, Location at) {
  return [op, at](bool ok, const char* expected, std::int64_t got) {
    if (!ok) throw Error(op, std::string("expected ") + expected + ", got " + std::to_string(got), at);
  };
}

// Beyond these, numbers of channels and parameters could overflow; no network comes near them.
constexpr std::size_t most_stages = 32;
constexpr std::int64_t most_blocks = 10000;
constexpr std::int64_t most_channels = std::int64_t{1} << 24;

template <class Require, class Options>
void check_sizes(const Require& require, const Options& options) {
  const auto in_range = [](std::int64_t count) { return count >= 1 && count <= most_channels; };
  require(in_range(options.width), "width ≥ 1 and ≤ 2^24", options.width);
  require(in_range(options.classes), "classes ≥ 1 and ≤ 2^24", options.classes);
  require(in_range(options.channels), "channels ≥ 1 and ≤ 2^24", options.channels);
}

ResNet::Options checked(ResNet::Options options, Location at) {
  const auto require = requirement("ResNet", at);
  require(!options.blocks.empty(), "at least one stage", 0);
  for (std::int64_t count : options.blocks) {
    require(count >= 1 && count <= most_blocks, "1 to 10000 blocks in each stage", count);
  }
  require(options.blocks.size() <= most_stages, "at most 32 stages",
          static_cast<std::int64_t>(options.blocks.size()));
  check_sizes(require, options);
  return options;
}

ResNet9::Options checked(ResNet9::Options options, Location at) {
  check_sizes(requirement("ResNet9", at), options);
  return options;
}

std::int64_t last_width(const ResNet::Options& options) {
  return options.width << (options.blocks.size() - 1);
}

}  // namespace

Shortcut::Shortcut(std::int64_t in, std::int64_t out, std::int64_t stride, Location at)
    : conv_(convolution(in, out, 1, stride), at), bn_(out, {}, at) {
  register_child("conv", conv_);
  register_child("bn", bn_);
  register_conv_norm(conv_, bn_);
}

Tensor Shortcut::forward(const Tensor& x) { return bn_(conv_(x, here()), here()); }

BasicBlock::BasicBlock(Options options, Location at)
    : conv1_(convolution(options.in, options.out, 3, options.stride), at),
      bn1_(options.out, {}, at),
      conv2_(convolution(options.out, options.out, 3), at),
      bn2_(options.out, {}, at) {
  register_child("conv1", conv1_);
  register_child("bn1", bn1_);
  register_child("conv2", conv2_);
  register_child("bn2", bn2_);
  if (options.zero_gamma) bn2_.weight().set_data(zeros({options.out}, DType::f32, at), at);
  register_conv_norm(conv1_, bn1_);
  register_conv_norm(conv2_, bn2_);
  if (options.stride != 1 || options.in != options.out) {
    shortcut_ = std::make_unique<Shortcut>(options.in, options.out, options.stride, at);
    register_child("shortcut", *shortcut_);
  }
}

Tensor BasicBlock::forward(const Tensor& x) {
  const Location at = here();
  const Tensor y = bn2_(conv2_(relu({bn1_(conv1_(x, at), at), at}), at), at);
  return relu({add({y, at}, {shortcut_ ? (*shortcut_)(x, at) : x, at}), at});
}

ResNet::ResNet(Options options, Location at)
    : conv1_(convolution(checked(options, at).channels, options.width, 3), at),
      bn1_(options.width, {}, at),
      fc_(last_width(options), options.classes, at) {
  register_child("conv1", conv1_);
  register_child("bn1", bn1_);
  register_conv_norm(conv1_, bn1_);
  std::int64_t in = options.width;
  for (std::size_t s = 0; s < options.blocks.size(); ++s) {
    Sequential& stage = stages_.emplace<Sequential>(at);
    const std::int64_t out = options.width << s;
    for (std::int64_t b = 0; b < options.blocks[s]; ++b) {
      stage.emplace<BasicBlock>(
          {.in = in, .out = out, .stride = s > 0 && b == 0 ? 2 : 1, .zero_gamma = options.zero_gamma}, at);
      in = out;
    }
  }
  register_child("stages", stages_);
  register_child("fc", fc_);
}

Tensor ResNet::forward(const Tensor& x) {
  const Location at = here();
  const Tensor stem = relu({bn1_(conv1_(x, at), at), at});
  return fc_(global_avg_pool({stages_(stem, at), at}), at);
}

ResNet resnet_cifar(ResNetCifarOptions options, Location at) {
  if (options.depth < 8 || (options.depth - 2) % 6 != 0) {
    throw Error("resnet_cifar", "expected a depth of 6n + 2 ≥ 8, got " + std::to_string(options.depth), at);
  }
  const std::int64_t blocks = (options.depth - 2) / 6;
  return ResNet({.blocks = {blocks, blocks, blocks},
                 .width = options.width,
                 .classes = options.classes,
                 .channels = options.channels},
                at);
}

ResNet resnet20(ResNetOptions options, Location at) {
  return resnet_cifar({.depth = 20, .classes = options.classes, .channels = options.channels}, at);
}
ResNet resnet32(ResNetOptions options, Location at) {
  return resnet_cifar({.depth = 32, .classes = options.classes, .channels = options.channels}, at);
}
ResNet resnet44(ResNetOptions options, Location at) {
  return resnet_cifar({.depth = 44, .classes = options.classes, .channels = options.channels}, at);
}
ResNet resnet56(ResNetOptions options, Location at) {
  return resnet_cifar({.depth = 56, .classes = options.classes, .channels = options.channels}, at);
}
ResNet resnet110(ResNetOptions options, Location at) {
  return resnet_cifar({.depth = 110, .classes = options.classes, .channels = options.channels}, at);
}
ResNet resnet18(ResNetOptions options, Location at) {
  return ResNet(
      {.blocks = {2, 2, 2, 2}, .width = 64, .classes = options.classes, .channels = options.channels}, at);
}

ConvNormReLU::ConvNormReLU(Options options, Location at)
    : conv_(convolution(options.in, options.out, 3), at), bn_(options.out, {}, at), pool_(options.pool) {
  register_child("conv", conv_);
  register_child("bn", bn_);
  if (!pool_) register_conv_norm(conv_, bn_);
}

Tensor ConvNormReLU::forward(const Tensor& x) {
  const Location at = here();
  const Tensor y = conv_(x, at);
  return relu({bn_(pool_ ? max_pool2d({y, at}, 2) : y, at), at});
}

ResNet9::ResNet9(Options options, Location at)
    : prep_({.in = checked(options, at).channels, .out = options.width}, at),
      layer1_({.in = options.width, .out = 2 * options.width, .pool = true}, at),
      layer2_({.in = 2 * options.width, .out = 4 * options.width, .pool = true}, at),
      layer3_({.in = 4 * options.width, .out = 8 * options.width, .pool = true}, at),
      fc_({.in = 8 * options.width, .out = options.classes, .bias = false}, at) {
  for (int i = 0; i < 2; ++i) {
    residual1_.emplace<ConvNormReLU>({.in = 2 * options.width, .out = 2 * options.width}, at);
    residual3_.emplace<ConvNormReLU>({.in = 8 * options.width, .out = 8 * options.width}, at);
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
