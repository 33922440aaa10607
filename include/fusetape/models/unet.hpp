#pragma once
#include <cstdint>

#include "fusetape/models/conv_norm.hpp"

/// Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015), with
/// batch norm, and with padding, so that an image's result has its size.
namespace fusetape::nn {

/// Images {N, H, W, channels} → logits {N, H, W, classes}; H and W are multiples of 2^depth. Two 3x3
/// ConvNorms at each size, 2x2 max pooling between them, width·2^d channels after d poolings; on the way back
/// a 2x2 transposed convolution with stride 2, whose result goes, behind that of the same size on the way
/// down, into two ConvNorms. Children: down.D.(0, 1), join.D, which are transposed, up.D.(0, 1), head (1x1).
class UNet : public Module {
 public:
  struct Options {
    std::int64_t channels = 3;
    std::int64_t classes = 2;
    std::int64_t width = 64;
    std::int64_t depth = 4;  ///< poolings
    bool norms = true;
  };
  explicit UNet(Options options, Location at = Location::current());

 protected:
  /// Throws where a size cannot be halved so often.
  Tensor forward(const Tensor& x) override;

 private:
  ModuleList down_, join_, up_;
  Conv2d head_;
};

}  // namespace fusetape::nn
