#pragma once
#include "core/numerics/host_device.hpp"

/// The arithmetic of cross entropy (op_attrs.hpp, CrossEntropyAttrs): one source for the kernels of every
/// backend.
namespace fusetape::core {

/// The loss of a row from −log softmax at its label, and Σ −log softmax over all classes: (1 − s)·hard +
/// s/C·all.
FUSETAPE_HD inline double smoothed_loss(double hard, double all, double smoothing, double classes) {
  return (1 - smoothing) * hard + smoothing / classes * all;
}

}  // namespace fusetape::core
