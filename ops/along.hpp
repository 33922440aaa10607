#pragma once
#include "fusetape/ops.hpp"

namespace fusetape::ops {

/// Zeros of `places` on the axis, with each value added at its index, in order: the gradient of gather.
Tensor add_at(const Tensor& values, const Tensor& index, int axis, std::int64_t places, Location at);

}  // namespace fusetape::ops
