#pragma once
#include <cstdint>

#include "fusetape/models/conv_norm.hpp"

namespace fusetape::nn {

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
  ConvNorm prep_, layer1_;
  Sequential residual1_;
  ConvNorm layer2_, layer3_;
  Sequential residual3_;
  Linear fc_;
};

}  // namespace fusetape::nn
