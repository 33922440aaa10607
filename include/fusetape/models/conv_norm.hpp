#pragma once
#include <cstdint>
#include <optional>

#include "fusetape/nn.hpp"

namespace fusetape::nn {

/// activation(norm(pool(conv(x)))): what convolutional networks consist of. The convolution's result is as
/// large as x, over the stride. Children: conv, bn.
class ConvNorm : public Module {
 public:
  struct Options {
    std::int64_t in = 0, out = 0;
    std::int64_t kernel = 3;  ///< odd
    std::int64_t stride = 1;
    std::int64_t groups = 1;
    bool norm = true;   ///< batch norm; false: the convolution has a bias instead
    bool pool = false;  ///< 2x2 max pooling, before the norm, which has a quarter of the elements left
    Function activation = relu;  ///< null: none
  };
  explicit ConvNorm(Options options, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Conv2d conv_;
  std::optional<BatchNorm2d> bn_;
  bool pool_;
  Function activation_;
};

}  // namespace fusetape::nn
