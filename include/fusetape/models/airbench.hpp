#pragma once
#include <cstdint>

#include "fusetape/nn.hpp"

/// The network of Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024).
namespace fusetape::nn {

/// gelu(norm2(conv2(gelu(norm1(pool(conv1(x))))))): 3x3 convolutions without bias, 2x2 max pooling, batch
/// norms whose γ stays 1 and whose running statistics follow fast (momentum 0.4). The first `in` filters of a
/// convolution start as the identity, the others uniformly in ±1/√(9·in).
class AirbenchBlock : public Module {
 public:
  AirbenchBlock(std::int64_t in, std::int64_t out, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Conv2d conv1_;
  BatchNorm2d norm1_;
  Conv2d conv2_;
  BatchNorm2d norm2_;
};

/// For 32x32 images: a 2x2 convolution with bias whose filters stay what whiten() makes them, gelu, three
/// blocks of width, 4·width, 4·width channels, 3x3 max pooling, linear without bias, times 1/9. Children:
/// whitening, blocks.B.(conv1, norm1, conv2, norm2), fc.
class Airbench : public Module {
 public:
  struct Options {
    std::int64_t width = 64;
    std::int64_t classes = 10;
    std::int64_t channels = 3;  ///< of the images
  };
  explicit Airbench(Options options, Location at = Location::current());

  /// Makes the first filters those that decorrelate the 2x2 patches of such images: some thousands of the
  /// training set, as the loader gives them without augmentation. See whitening().
  void whiten(const Tensor& images, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Conv2d whitening_;
  Sequential blocks_;
  Linear fc_;
};

}  // namespace fusetape::nn
