#pragma once
#include "fusetape/image_ops.hpp"

/// Padding that kernels do not know of: not symmetric, or known only beside the image.
namespace fusetape::ops {

/// Where padding is not symmetric, x with a border of `value` around it, and in `padding` what is left to the
/// kernel: the part that both ends have.
struct Bordered {
  Tensor x;
  Size2d padding;
};
Bordered bordered(const char* op, const Tensor& x, const Padding2d& padding, Size2d window, Size2d stride,
                  Size2d dilation, double value, Location at);
/// The padding in numbers: that of `same()` for images x {N, H, W, C}.
Padding2d resolved(const Padding2d& padding, const Shape& x, Size2d window, Size2d stride, Size2d dilation);

/// The least finite number of a floating dtype.
double lowest(DType dtype);

}  // namespace fusetape::ops
