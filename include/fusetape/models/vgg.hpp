#pragma once
#include <cstdint>

#include "fusetape/models/conv_norm.hpp"

/// Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014).
namespace fusetape::nn {

/// 3x3 convolutions with ReLU in five stages of 64, 128, 256, 512, 512 channels, 2x2 max pooling after each;
/// then global average and linear, or, where `hidden` is given, adaptive average pooling to 7x7 and three
/// linear layers, with ReLU and dropout between them. Children: layers.L, classifier.L.
class VGG : public Module {
 public:
  struct Options {
    std::int64_t depth = 16;  ///< 11, 13, 16 or 19
    bool norms = true;        ///< batch norm behind each convolution, which has a bias otherwise
    std::int64_t width = 64;  ///< of the first stage
    std::int64_t classes = 10;
    std::int64_t channels = 3;
    std::int64_t hidden = 0;  ///< published: 4096, for 224x224 images
    double dropout = 0.5;     ///< in [0, 1); of the hidden layers
  };
  explicit VGG(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Sequential layers_, classifier_;
};

}  // namespace fusetape::nn
