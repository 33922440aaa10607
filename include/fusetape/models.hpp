#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "fusetape/nn.hpp"

/// Residual networks for small images, as in "Deep Residual Learning for Image Recognition", with projection
/// shortcuts.
namespace fusetape::nn {

/// The 1x1 convolution and batch norm of a block that changes the shape.
class Shortcut : public Module {
 public:
  Shortcut(std::int64_t in, std::int64_t out, std::int64_t stride, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Conv2d conv_;
  BatchNorm2d bn_;
};

/// relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))
class BasicBlock : public Module {
 public:
  struct Options {
    std::int64_t in = 0, out = 0;
    std::int64_t stride = 1;
    bool zero_gamma = false;  ///< the last norm's γ starts at 0: the block begins as its shortcut
  };
  explicit BasicBlock(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Conv2d conv1_;
  BatchNorm2d bn1_;
  Conv2d conv2_;
  BatchNorm2d bn2_;
  std::unique_ptr<Shortcut> shortcut_;  ///< null: the identity
};

/// A 3x3 stem, stages of basic blocks of width·2^stage channels (stride 2 from the second on), global
/// average, linear. Children: conv1, bn1, stages.S.B.(conv1, bn1, conv2, bn2, shortcut.conv, shortcut.bn),
/// fc.
class ResNet : public Module {
 public:
  struct Options {
    std::vector<std::int64_t> blocks = {3, 3, 3};
    std::int64_t width = 16;
    std::int64_t classes = 10;
    std::int64_t channels = 3;  ///< of the images
    bool zero_gamma = false;    ///< of the blocks (Goyal et al. 2017)
  };
  explicit ResNet(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Conv2d conv1_;
  BatchNorm2d bn1_;
  Sequential stages_;
  Linear fc_;
};

struct ResNetCifarOptions {
  std::int64_t depth = 20;  ///< 6n + 2
  std::int64_t classes = 10;
  std::int64_t width = 16;  ///< of the first stage; the paper's is 16
  std::int64_t channels = 3;
};
ResNet resnet_cifar(ResNetCifarOptions options, Location at = Location::current());

struct ResNetOptions {
  std::int64_t classes = 10;
  std::int64_t channels = 3;
};
ResNet resnet20(ResNetOptions options = {}, Location at = Location::current());  ///< 272,474 parameters
ResNet resnet32(ResNetOptions options = {}, Location at = Location::current());
ResNet resnet44(ResNetOptions options = {}, Location at = Location::current());
ResNet resnet56(ResNetOptions options = {}, Location at = Location::current());
ResNet resnet110(ResNetOptions options = {}, Location at = Location::current());
/// For 32x32 images: a 3x3 stem, four stages of two blocks, 64 to 512 channels.
ResNet resnet18(ResNetOptions options = {}, Location at = Location::current());

/// relu(bn(pool(conv(x)))), 3x3 with stride 1; the 2x2 max pooling is optional, and before the norm, which
/// has a quarter of the elements left then.
class ConvNormReLU : public Module {
 public:
  struct Options {
    std::int64_t in = 0, out = 0;
    bool pool = false;
  };
  explicit ConvNormReLU(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Conv2d conv_;
  BatchNorm2d bn_;
  bool pool_;
};

/// The short, wide residual network of Page, "How to Train Your ResNet" (2018), for 32x32 images: little time
/// to a good model. Channels width, 2·width, 4·width, 8·width; a residual pair of convolutions behind the
/// second and the fourth; 4x4 max pooling, linear without bias, times 1/8. All convolutions are 3x3 with
/// stride 1. Children: prep, layer1, residual1.(0, 1), layer2, layer3, residual3.(0, 1), fc.
class ResNet9 : public Module {
 public:
  struct Options {
    std::int64_t width = 64;
    std::int64_t classes = 10;
    std::int64_t channels = 3;  ///< of the images
  };
  explicit ResNet9(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  ConvNormReLU prep_, layer1_;
  Sequential residual1_;
  ConvNormReLU layer2_, layer3_;
  Sequential residual3_;
  Linear fc_;
};

}  // namespace fusetape::nn
