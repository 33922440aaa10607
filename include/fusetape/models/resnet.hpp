#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "fusetape/nn.hpp"

/// He et al., "Deep Residual Learning for Image Recognition" (2015), with projection shortcuts.
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

/// relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), or with another activation.
class BasicBlock : public Module {
 public:
  struct Options {
    std::int64_t in = 0, out = 0;
    std::int64_t stride = 1;
    bool zero_gamma = false;     ///< the last norm's γ starts at 0: the block begins as its shortcut
    Function activation = relu;  ///< null: none, as in all that follows
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
  Function activation_;
};

/// relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut(x)): 1x1 to out/4 channels, 3x3 with the
/// stride (as in Goyal et al. 2017), 1x1 to out channels.
class Bottleneck : public Module {
 public:
  using Options = BasicBlock::Options;  ///< out: a multiple of 4
  explicit Bottleneck(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Conv2d conv1_;
  BatchNorm2d bn1_;
  Conv2d conv2_;
  BatchNorm2d bn2_;
  Conv2d conv3_;
  BatchNorm2d bn3_;
  std::unique_ptr<Shortcut> shortcut_;  ///< null: the identity
  Function activation_;
};

/// A stem, stages of blocks of width·2^stage channels (stride 2 from the second on), four times as many with
/// bottlenecks, global average, linear. Children: conv1, bn1, pool (of large images), stages.S.B.(conv1, bn1,
/// conv2, bn2, conv3, bn3, shortcut.conv, shortcut.bn), fc.
class ResNet : public Module {
 public:
  struct Options {
    std::vector<std::int64_t> blocks = {3, 3, 3};
    std::int64_t width = 16;
    std::int64_t classes = 10;
    std::int64_t channels = 3;  ///< of the images
    bool zero_gamma = false;    ///< of the blocks (Goyal et al. 2017)
    bool bottleneck = false;
    /// The stem: a 3x3 convolution; or, for images of 224x224, 7x7 with stride 2, and behind the activation
    /// 3x3 max pooling with stride 2.
    bool large_images = false;
    Function activation = relu;
  };
  explicit ResNet(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Conv2d conv1_;
  BatchNorm2d bn1_;
  std::optional<MaxPool2d> pool_;
  Sequential stages_;
  Linear fc_;
  Function activation_;
};

struct ResNetCifarOptions {
  std::int64_t depth = 20;  ///< 6n + 2
  std::int64_t classes = 10;
  std::int64_t width = 16;  ///< of the first stage; the paper's is 16
  std::int64_t channels = 3;
  Function activation = relu;
};
ResNet resnet_cifar(ResNetCifarOptions options, Location at = Location::current());

struct ResNetOptions {
  std::int64_t classes = 10;
  std::int64_t channels = 3;
  Function activation = relu;
};
ResNet resnet20(ResNetOptions options = {}, Location at = Location::current());  ///< 272,474 parameters
ResNet resnet32(ResNetOptions options = {}, Location at = Location::current());
ResNet resnet44(ResNetOptions options = {}, Location at = Location::current());
ResNet resnet56(ResNetOptions options = {}, Location at = Location::current());
ResNet resnet110(ResNetOptions options = {}, Location at = Location::current());
/// For 32x32 images: a 3x3 stem, four stages of two blocks, 64 to 512 channels.
ResNet resnet18(ResNetOptions options = {}, Location at = Location::current());

struct ImageNetOptions {
  std::int64_t classes = 1000;
  std::int64_t channels = 3;
  Function activation = relu;
};
/// For 224x224 images: 11,689,512, 21,797,672 and 25,557,032 parameters.
ResNet imagenet_resnet18(ImageNetOptions options = {}, Location at = Location::current());
ResNet imagenet_resnet34(ImageNetOptions options = {}, Location at = Location::current());
ResNet imagenet_resnet50(ImageNetOptions options = {}, Location at = Location::current());

}  // namespace fusetape::nn
