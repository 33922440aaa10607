#pragma once
#include <memory>
#include <span>

#include "backends/backend.hpp"
#include "backends/cuda/library_cache.hpp"

/// The device's kernels as one ordered list: the first candidate that supports a group makes its kernel;
/// where none does, the group runs on the host.
namespace fusetape::backends::cuda {

/// What kernels are made on.
struct Device {
  DeviceApi& api;
  LibraryCache& libraries;
};

/// `supports` answers with an empty reason where the group is simply not its kind: such refusals are not
/// shown.
struct Candidate {
  const char* name;
  Support (*supports)(const plan::Graph& graph, const plan::Group& group, Device& device);
  std::unique_ptr<Kernel> (*make)(const plan::Graph& graph, const plan::Group& group, Device& device);
};

/// The floating dtypes that a device computes in; f64 is the host's.
inline Support supports_dtype(DType dtype) {
  if (dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16) return {};
  return {.ok = false, .reason = "expected f32, bf16 or f16, got " + std::string(name_of(dtype))};
}

// Each file of kernels offers its own.
namespace conv {
std::span<const Candidate> convolutions();  ///< conv2d and its gradients, conv+bias+add+relu: cuDNN
}  // namespace conv
namespace matmul {
std::span<const Candidate> products();  ///< matmul, alone and with bias and activation: cuBLASLt
}  // namespace matmul
namespace norm {
std::span<const Candidate> batch_norms();  ///< batch_norm and its gradient, alone and with add and ReLU
std::span<const Candidate> bias_relu_gradients();  ///< g·[y>0] and its sum over pixels
std::span<const Candidate> relu_masks();           ///< a ReLU's mask as bits, and its gradient
}  // namespace norm
namespace reduce {
std::span<const Candidate> poolings();         ///< max and average pooling, forward and backward
std::span<const Candidate> reductions();       ///< sum, mean, max over axes; argmax
std::span<const Candidate> softmaxes();        ///< softmax, log_softmax, and gradients
std::span<const Candidate> cross_entropies();  ///< cross_entropy and its gradient
}  // namespace reduce
namespace update {
std::span<const Candidate> optimizers();  ///< updates of parameters, one or all; the norm of gradients
}  // namespace update
namespace move {
std::span<const Candidate> random_draws();  ///< rand, randn, dropout
std::span<const Candidate> movements();     ///< transpose, concat, slice, pad
}  // namespace move
namespace pointwise {
std::span<const Candidate> pointwise_programs();  ///< every pointwise node, alone and in chains
}  // namespace pointwise

}  // namespace fusetape::backends::cuda
