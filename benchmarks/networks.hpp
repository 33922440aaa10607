#pragma once
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <memory>
#include <stdexcept>
#include <string>

#include "benchmarks/zoo.hpp"

/// The networks for images that are measured. Those that end in _small are a block or two, for tests of
/// plans.
namespace benchmarks {

namespace ft = fusetape;

inline ft::nn::Conv2d::Options convolution(std::int64_t in, std::int64_t out, std::int64_t kernel) {
  return {.in = in, .out = out, .kernel = kernel, .padding = kernel / 2, .bias = false};
}

/// relu(x + bn(conv(relu(bn(conv(relu(bn(conv(x)))))))), 1×1, 3×3 and 1×1: the block of ResNet-50.
struct Bottleneck : ft::nn::Module {
  ft::nn::Conv2d conv1, conv2, conv3;
  ft::nn::BatchNorm2d bn1, bn2, bn3;
  std::unique_ptr<ft::nn::Shortcut> shortcut;

  Bottleneck(std::int64_t in, std::int64_t middle, std::int64_t out)
      : conv1(convolution(in, middle, 1)),
        conv2(convolution(middle, middle, 3)),
        conv3(convolution(middle, out, 1)),
        bn1(middle),
        bn2(middle),
        bn3(out) {
    register_child("conv1", conv1);
    register_child("bn1", bn1);
    register_child("conv2", conv2);
    register_child("bn2", bn2);
    register_child("conv3", conv3);
    register_child("bn3", bn3);
    if (in == out) return;
    shortcut = std::make_unique<ft::nn::Shortcut>(in, out, 1);
    register_child("shortcut", *shortcut);
  }
  ft::Tensor forward(const ft::Tensor& x) override {
    const ft::Tensor y = ft::relu(bn2(conv2(ft::relu(bn1(conv1(x))))));
    return ft::relu(bn3(conv3(y)) + (shortcut ? (*shortcut)(x) : x));
  }
};

/// x + bn(conv(relu6(bn(conv(relu6(bn(conv(x)))))))), 1×1, 3×3 channel by channel and 1×1: the block of
/// MobileNetV2.
struct InvertedResidual : ft::nn::Module {
  ft::nn::Conv2d expand, depthwise, project;
  ft::nn::BatchNorm2d bn1, bn2, bn3;

  InvertedResidual(std::int64_t channels, std::int64_t wide)
      : expand(convolution(channels, wide, 1)),
        depthwise({.in = wide, .out = wide, .kernel = 3, .padding = 1, .groups = wide, .bias = false}),
        project(convolution(wide, channels, 1)),
        bn1(wide),
        bn2(wide),
        bn3(channels) {
    register_child("expand", expand);
    register_child("bn1", bn1);
    register_child("depthwise", depthwise);
    register_child("bn2", bn2);
    register_child("project", project);
    register_child("bn3", bn3);
  }
  ft::Tensor forward(const ft::Tensor& x) override {
    const ft::Tensor y = ft::clamp(bn2(depthwise(ft::clamp(bn1(expand(x)), 0, 6))), 0, 6);
    return x + bn3(project(y));
  }
};

/// A 3×3 stem of 16 channels, blocks, global average, linear.
struct SmallNetwork : ft::nn::Module {
  ft::nn::Conv2d stem{convolution(3, 16, 3)};
  ft::nn::BatchNorm2d bn{16};
  ft::nn::Sequential blocks;
  ft::nn::Linear fc;

  explicit SmallNetwork(std::int64_t out) : fc(out, 10) {
    register_child("stem", stem);
    register_child("bn", bn);
    register_child("blocks", blocks);
    register_child("fc", fc);
  }
  ft::Tensor forward(const ft::Tensor& x) override {
    return fc(ft::global_avg_pool(blocks(ft::relu(bn(stem(x))))));
  }
};

inline std::unique_ptr<ft::nn::Module> network(const std::string& name) {
  using ft::nn::ResNet;
  if (name == "resnet20") return std::unique_ptr<ResNet>(new ResNet(ft::nn::resnet20()));
  if (name == "resnet56") return std::unique_ptr<ResNet>(new ResNet(ft::nn::resnet56()));
  if (name == "resnet18") return std::unique_ptr<ResNet>(new ResNet(ft::nn::resnet18()));
  if (name == "mobilenet_v2") return zoo::mobilenet_v2(zoo::Act::relu6);
  if (name == "mobilenet_v2_silu") return zoo::mobilenet_v2(zoo::Act::silu);
  if (name == "bottleneck") return zoo::bottleneck();
  if (name == "vgg") return zoo::vgg(true);
  if (name == "vgg_without_norms") return zoo::vgg(false);
  if (name == "inception") return zoo::inception();
  if (name == "vit") return std::make_unique<ft::nn::ViT>(ft::nn::ViT::Options{});
  if (name == "convnext") return std::make_unique<ft::nn::ConvNeXt>(ft::nn::ConvNeXt::Options{});
  if (name == "bottleneck_small") {
    auto net = std::make_unique<SmallNetwork>(64);
    net->blocks.emplace<Bottleneck>(16, 16, 64);
    net->blocks.emplace<Bottleneck>(64, 16, 64);
    return net;
  }
  if (name == "mobilenet_v2_small") {
    auto net = std::make_unique<SmallNetwork>(16);
    net->blocks.emplace<InvertedResidual>(16, 96);
    return net;
  }
  throw std::runtime_error("there is no network " + name);
}

}  // namespace benchmarks
