#pragma once
#include <cstdint>

#include "fusetape/models/conv_norm.hpp"

/// Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018).
namespace fusetape::nn {

/// 1x1 to expand·in channels (left out where expand is 1), 3x3 depthwise, both with ReLU6, 1x1 to out
/// channels without activation; + x where neither channels nor size change. Child: layers.(0, 1, 2).
class InvertedResidual : public Module {
 public:
  struct Options {
    std::int64_t in = 0, out = 0;
    std::int64_t stride = 1;
    std::int64_t expand = 6;
    Function activation = relu6;
  };
  explicit InvertedResidual(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Sequential layers_;
  bool adds_;
};

/// A 3x3 stem of 32 channels, 17 inverted residuals, 1x1 to 1280 channels, global average, dropout, linear.
/// Children: stem, blocks.B, last, dropout, fc.
class MobileNetV2 : public Module {
 public:
  struct Options {
    double width = 1;  ///< times all channels, which are then rounded to multiples of 8
    std::int64_t classes = 1000;
    std::int64_t channels = 3;  ///< of the images
    bool small_images = false;  ///< 32x32: stem and second stage have stride 1
    double dropout = 0.2;       ///< in [0, 1)
    Function activation = relu6;
  };
  explicit MobileNetV2(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  ConvNorm stem_;
  Sequential blocks_;
  ConvNorm last_;
  Dropout dropout_;
  Linear fc_;
};

}  // namespace fusetape::nn
