#include "fusetape/models/resnet.hpp"

#include "nn/models/common.hpp"

namespace fusetape::nn {
namespace {

ResNet::Options checked(ResNet::Options options, Location at) {
  const auto require = requirement("ResNet", at);
  check_blocks(require, options.blocks);
  check_sizes(require, options);
  return options;
}

Bottleneck::Options checked(Bottleneck::Options options, Location at) {
  requirement("Bottleneck", at)(options.out >= 4 && options.out % 4 == 0, "out to be a multiple of 4",
                                options.out);
  return options;
}

std::int64_t stage_width(const ResNet::Options& options, std::size_t stage) {
  return (options.bottleneck ? 4 : 1) * (options.width << stage);
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
      bn2_(options.out, {}, at),
      activation_(options.activation) {
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
  const Tensor y = bn2_(conv2_(activated(activation_, bn1_(conv1_(x, at), at), at), at), at);
  return activated(activation_, add({y, at}, {shortcut_ ? (*shortcut_)(x, at) : x, at}), at);
}

Bottleneck::Bottleneck(Options options, Location at)
    : conv1_(convolution(checked(options, at).in, options.out / 4, 1), at),
      bn1_(options.out / 4, {}, at),
      conv2_(convolution(options.out / 4, options.out / 4, 3, options.stride), at),
      bn2_(options.out / 4, {}, at),
      conv3_(convolution(options.out / 4, options.out, 1), at),
      bn3_(options.out, {}, at),
      activation_(options.activation) {
  register_child("conv1", conv1_);
  register_child("bn1", bn1_);
  register_child("conv2", conv2_);
  register_child("bn2", bn2_);
  register_child("conv3", conv3_);
  register_child("bn3", bn3_);
  if (options.zero_gamma) bn3_.weight().set_data(zeros({options.out}, DType::f32, at), at);
  register_conv_norm(conv1_, bn1_);
  register_conv_norm(conv2_, bn2_);
  register_conv_norm(conv3_, bn3_);
  if (options.stride != 1 || options.in != options.out) {
    shortcut_ = std::make_unique<Shortcut>(options.in, options.out, options.stride, at);
    register_child("shortcut", *shortcut_);
  }
}

Tensor Bottleneck::forward(const Tensor& x) {
  const Location at = here();
  Tensor y = activated(activation_, bn1_(conv1_(x, at), at), at);
  y = activated(activation_, bn2_(conv2_(y, at), at), at);
  y = bn3_(conv3_(y, at), at);
  return activated(activation_, add({y, at}, {shortcut_ ? (*shortcut_)(x, at) : x, at}), at);
}

ResNet::ResNet(Options options, Location at)
    : conv1_(checked(options, at).large_images ? convolution(options.channels, options.width, 7, 2)
                                               : convolution(options.channels, options.width, 3),
             at),
      bn1_(options.width, {}, at),
      fc_(stage_width(options, options.blocks.size() - 1), options.classes, at),
      activation_(options.activation) {
  register_child("conv1", conv1_);
  register_child("bn1", bn1_);
  register_conv_norm(conv1_, bn1_);
  if (options.large_images)
    register_child("pool", pool_.emplace(Pool2dOptions{.window = 3, .stride = 2, .padding = 1}));
  std::int64_t in = options.width;
  for (std::size_t s = 0; s < options.blocks.size(); ++s) {
    Sequential& stage = stages_.emplace<Sequential>(at);
    const std::int64_t out = stage_width(options, s);
    for (std::int64_t b = 0; b < options.blocks[s]; ++b) {
      const BasicBlock::Options block{.in = in,
                                      .out = out,
                                      .stride = s > 0 && b == 0 ? 2 : 1,
                                      .zero_gamma = options.zero_gamma,
                                      .activation = options.activation};
      if (options.bottleneck) {
        stage.emplace<Bottleneck>(block, at);
      } else {
        stage.emplace<BasicBlock>(block, at);
      }
      in = out;
    }
  }
  register_child("stages", stages_);
  register_child("fc", fc_);
}

Tensor ResNet::forward(const Tensor& x) {
  const Location at = here();
  Tensor stem = activated(activation_, bn1_(conv1_(x, at), at), at);
  if (pool_) stem = (*pool_)(stem, at);
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
                 .channels = options.channels,
                 .activation = options.activation},
                at);
}

namespace {

ResNet cifar_of_depth(std::int64_t depth, const ResNetOptions& options, Location at) {
  return resnet_cifar({.depth = depth,
                       .classes = options.classes,
                       .channels = options.channels,
                       .activation = options.activation},
                      at);
}

}  // namespace

ResNet resnet20(ResNetOptions options, Location at) { return cifar_of_depth(20, options, at); }
ResNet resnet32(ResNetOptions options, Location at) { return cifar_of_depth(32, options, at); }
ResNet resnet44(ResNetOptions options, Location at) { return cifar_of_depth(44, options, at); }
ResNet resnet56(ResNetOptions options, Location at) { return cifar_of_depth(56, options, at); }
ResNet resnet110(ResNetOptions options, Location at) { return cifar_of_depth(110, options, at); }
ResNet resnet18(ResNetOptions options, Location at) {
  return ResNet({.blocks = {2, 2, 2, 2},
                 .width = 64,
                 .classes = options.classes,
                 .channels = options.channels,
                 .activation = options.activation},
                at);
}

namespace {

ResNet imagenet_resnet(std::vector<std::int64_t> blocks, bool bottleneck, const ImageNetOptions& options,
                       Location at) {
  return ResNet({.blocks = std::move(blocks),
                 .width = 64,
                 .classes = options.classes,
                 .channels = options.channels,
                 .bottleneck = bottleneck,
                 .large_images = true,
                 .activation = options.activation},
                at);
}

}  // namespace

ResNet imagenet_resnet18(ImageNetOptions options, Location at) {
  return imagenet_resnet({2, 2, 2, 2}, false, options, at);
}
ResNet imagenet_resnet34(ImageNetOptions options, Location at) {
  return imagenet_resnet({3, 4, 6, 3}, false, options, at);
}
ResNet imagenet_resnet50(ImageNetOptions options, Location at) {
  return imagenet_resnet({3, 4, 6, 3}, true, options, at);
}

}  // namespace fusetape::nn
