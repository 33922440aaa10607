#pragma once
#include <cstdint>
#include <vector>

#include "fusetape/nn.hpp"

/// Liu et al., "A ConvNet for the 2020s" (2022).
namespace fusetape::nn {

/// x + droppath(scale·down(gelu(up(norm(conv(x)))))): a depthwise 7x7 convolution, layer norm, linear to
/// 4·width and back; scale {width} starts at 1e-6. Children:
/// conv, norm, up, down, drop_path.
class ConvNeXtBlock : public Module {
 public:
  struct Options {
    std::int64_t width = 0;
    double drop_path = 0;  ///< in [0, 1)
  };
  explicit ConvNeXtBlock(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Parameter scale_;
  Conv2d conv_;
  LayerNorm norm_;
  Linear up_, down_;
  DropPath drop_path_;
};

/// Patches {patch, patch} to width channels and layer norm; stages of blocks, before each but the first layer
/// norm and a 2x2 convolution with stride 2 to twice the channels; global average, layer norm, linear.
/// Children: stages.S.(0, 1: what is before the blocks; 2…), norm, fc.
class ConvNeXt : public Module {
 public:
  struct Options {
    std::vector<std::int64_t> blocks = {2, 2, 6};  ///< for 32x32 images; ConvNeXt-T: 3, 3, 9, 3
    std::int64_t width = 64;                       ///< of the first stage; ConvNeXt-T: 96
    std::int64_t patch = 2;                        ///< ConvNeXt-T: 4
    std::int64_t classes = 10;
    std::int64_t channels = 3;
    double drop_path = 0;  ///< of the last block; from 0 on, evenly more with each
  };
  explicit ConvNeXt(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Sequential stages_;
  LayerNorm norm_;
  Linear fc_;
};

}  // namespace fusetape::nn
