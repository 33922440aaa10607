#pragma once
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

/// Whole networks for 32×32 images that are built of other things than ResNet-20. Their peers in PyTorch,
/// layer by layer, are in torch_zoo.py.
namespace benchmarks::zoo {

namespace ft = fusetape;

enum class Act : std::uint8_t { none, relu, relu6, silu };

/// What a convolution is followed by.
struct After {
  Act activation = Act::relu;
  bool norm = true;
};

struct Geometry {
  std::int64_t in, out, kernel, stride = 1, groups = 1;
};

/// activation(batch_norm(conv(x))), "same" padding.
struct Conv : ft::nn::Sequential {
  explicit Conv(const Geometry& g, After after = {}) {
    emplace<ft::nn::Conv2d>({.in = g.in,
                             .out = g.out,
                             .kernel = g.kernel,
                             .stride = g.stride,
                             .padding = g.kernel / 2,
                             .groups = g.groups,
                             .bias = !after.norm});
    if (after.norm) emplace<ft::nn::BatchNorm2d>(g.out);
    if (after.activation == Act::relu) emplace<ft::nn::ReLU>();
    if (after.activation == Act::relu6) emplace<ft::nn::ReLU6>();
    if (after.activation == Act::silu) emplace<ft::nn::SiLU>();
  }
};

/// [x +] body(x)
struct Inverted : ft::nn::Module {
  ft::nn::Sequential body;
  bool residual;

  Inverted(std::int64_t in, std::int64_t out, std::int64_t factor, std::int64_t stride, Act act)
      : residual(stride == 1 && in == out) {
    const std::int64_t wide = in * factor;
    if (factor > 1) body.emplace<Conv>(Geometry{in, wide, 1}, After{act});
    body.emplace<Conv>(Geometry{wide, wide, 3, stride, wide}, After{act});
    body.emplace<Conv>(Geometry{wide, out, 1}, After{Act::none});
    register_child("body", body);
  }

 protected:
  ft::Tensor forward(const ft::Tensor& x) override { return residual ? x + body(x) : body(x); }
};

/// relu(body(x) + shortcut(x)), 1×1, 3×3 and 1×1.
struct Bottleneck : ft::nn::Module {
  ft::nn::Sequential body;
  std::optional<Conv> shortcut;

  Bottleneck(std::int64_t in, std::int64_t width, std::int64_t stride) {
    body.emplace<Conv>(Geometry{in, width, 1});
    body.emplace<Conv>(Geometry{width, width, 3, stride});
    body.emplace<Conv>(Geometry{width, 4 * width, 1}, After{Act::none});
    register_child("body", body);
    if (stride == 1 && in == 4 * width) return;
    shortcut.emplace(Geometry{in, 4 * width, 1, stride}, After{Act::none});
    register_child("shortcut", *shortcut);
  }

 protected:
  ft::Tensor forward(const ft::Tensor& x) override {
    return ft::relu(body(x) + (shortcut ? (*shortcut)(x) : x));
  }
};

/// Four branches side by side: 1×1; 1×1 and 3×3; 1×1 and two of 3×3; 3×3 max pooling and 1×1. Each gives a
/// quarter of `out`.
struct Inception : ft::nn::Module {
  ft::nn::Sequential branches[4];

  Inception(std::int64_t in, std::int64_t out) {
    const std::int64_t quarter = out / 4, narrow = out / 8;
    branches[0].emplace<Conv>(Geometry{in, quarter, 1});
    branches[1].emplace<Conv>(Geometry{in, narrow, 1});
    branches[1].emplace<Conv>(Geometry{narrow, quarter, 3});
    branches[2].emplace<Conv>(Geometry{in, narrow, 1});
    branches[2].emplace<Conv>(Geometry{narrow, quarter, 3});
    branches[2].emplace<Conv>(Geometry{quarter, quarter, 3});
    branches[3].emplace<ft::nn::MaxPool2d>({.window = 3, .stride = 1, .padding = 1});
    branches[3].emplace<Conv>(Geometry{in, quarter, 1});
    for (int i = 0; i < 4; ++i) register_child("branch" + std::to_string(i), branches[i]);
  }

 protected:
  ft::Tensor forward(const ft::Tensor& x) override {
    std::vector<ft::Tensor> parts;
    for (ft::nn::Sequential& branch : branches) parts.push_back(branch(x));
    return ft::concat(parts, 3);
  }
};

/// Features, the average over all pixels, and a linear layer to ten classes.
struct Classifier : ft::nn::Module {
  ft::nn::Sequential features;
  ft::nn::GlobalAvgPool average;
  std::unique_ptr<ft::nn::Linear> fc;

  /// The linear layer is made last, as parameters are drawn in the order of the network.
  void end(std::int64_t channels) {
    fc = std::make_unique<ft::nn::Linear>(channels, 10);
    register_child("features", features);
    register_child("average", average);
    register_child("fc", *fc);
  }

 protected:
  ft::Tensor forward(const ft::Tensor& x) override { return (*fc)(average(features(x))); }
};

/// After MobileNetV2 ("MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018), for small images:
/// without the last stage, with less stride, fewer blocks and a head of half the width.
inline std::unique_ptr<Classifier> mobilenet_v2(Act act) {
  struct Stage {
    std::int64_t factor, out, count, stride;
  };
  auto net = std::make_unique<Classifier>();
  net->features.emplace<Conv>(Geometry{3, 32, 3}, After{act});
  std::int64_t in = 32;
  for (const Stage& stage : {Stage{1, 16, 1, 1}, Stage{6, 24, 2, 1}, Stage{6, 32, 3, 2}, Stage{6, 64, 3, 2},
                             Stage{6, 96, 2, 1}, Stage{6, 160, 2, 2}}) {
    for (std::int64_t i = 0; i < stage.count; ++i) {
      net->features.append(
          std::make_unique<Inverted>(in, stage.out, stage.factor, i == 0 ? stage.stride : 1, act));
      in = stage.out;
    }
  }
  net->features.emplace<Conv>(Geometry{in, 640, 1}, After{act});
  net->end(640);
  return net;
}

/// A ResNet-50 of three stages of two blocks: 64 to 1024 channels.
inline std::unique_ptr<Classifier> bottleneck() {
  auto net = std::make_unique<Classifier>();
  net->features.emplace<Conv>(Geometry{3, 64, 3});
  std::int64_t in = 64;
  for (const std::int64_t width : {64, 128, 256}) {
    net->features.emplace<Bottleneck>(in, width, std::int64_t{width == 64 ? 1 : 2});
    net->features.emplace<Bottleneck>(4 * width, width, std::int64_t{1});
    in = 4 * width;
  }
  net->end(in);
  return net;
}

/// VGG-11's convolutions ("Very Deep Convolutional Networks", 2014), all 3×3, 64 to 512 channels.
inline std::unique_ptr<Classifier> vgg(bool norm) {
  auto net = std::make_unique<Classifier>();
  std::int64_t in = 3, layer = 0;
  for (const std::int64_t out : {64, 128, 256, 256, 512, 512, 512, 512}) {
    net->features.emplace<Conv>(Geometry{in, out, 3}, After{Act::relu, norm});
    if (layer < 2 || layer % 2 == 1) net->features.emplace<ft::nn::MaxPool2d>(2);
    in = out, ++layer;
  }
  net->end(in);
  return net;
}

/// Of "Going Deeper with Convolutions", 2014: convolutions of one input side by side.
inline std::unique_ptr<Classifier> inception() {
  auto net = std::make_unique<Classifier>();
  net->features.emplace<Conv>(Geometry{3, 64, 3});
  net->features.emplace<ft::nn::MaxPool2d>(2);
  net->features.emplace<Inception>(std::int64_t{64}, std::int64_t{128});
  net->features.emplace<Inception>(std::int64_t{128}, std::int64_t{256});
  net->features.emplace<ft::nn::MaxPool2d>(2);
  net->features.emplace<Inception>(std::int64_t{256}, std::int64_t{256});
  net->features.emplace<Inception>(std::int64_t{256}, std::int64_t{512});
  net->end(512);
  return net;
}

}  // namespace benchmarks::zoo
