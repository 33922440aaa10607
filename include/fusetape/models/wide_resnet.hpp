#pragma once
#include <cstdint>
#include <optional>

#include "fusetape/nn.hpp"

/// Zagoruyko and Komodakis, "Wide Residual Networks" (2016), for small images.
namespace fusetape::nn {

/// conv2(dropout(relu(bn2(conv1(relu(bn1(x))))))) + x; where the shape changes, + shortcut(relu(bn1(x))), a
/// 1x1 convolution.
class WideBlock : public Module {
 public:
  struct Options {
    std::int64_t in = 0, out = 0;
    std::int64_t stride = 1;
    double dropout = 0;  ///< in [0, 1)
  };
  explicit WideBlock(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  BatchNorm2d bn1_;
  Conv2d conv1_;
  BatchNorm2d bn2_;
  Conv2d conv2_;
  std::optional<Conv2d> shortcut_;
  std::optional<Dropout> dropout_;
};

/// A 3x3 convolution to 16 channels, three stages of (depth − 4)/6 blocks of 16, 32, 64 times `widen`
/// channels (stride 2 from the second on), relu(bn), global average, linear. Children: conv1,
/// stages.S.B.(bn1, conv1, bn2, conv2, shortcut, dropout), bn, fc.
class WideResNet : public Module {
 public:
  struct Options {
    std::int64_t depth = 28;  ///< 6n + 4
    std::int64_t widen = 10;
    std::int64_t classes = 10;
    std::int64_t channels = 3;
    double dropout = 0;
  };
  explicit WideResNet(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Conv2d conv1_;
  Sequential stages_;
  BatchNorm2d bn_;
  Linear fc_;
};

}  // namespace fusetape::nn
