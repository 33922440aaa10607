#pragma once
#include "fusetape/tensor.hpp"

namespace fusetape::optim {

/// Computes `norm` with everything that is pending. Where it is not finite, the cells that the pending ops
/// rebound, running statistics among them, get back what they held before those.
bool is_finite_or_put_back(const Tensor& norm, Location at);

}  // namespace fusetape::optim
