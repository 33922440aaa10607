#pragma once
#include <memory>
#include <span>

#include "backends/backend.hpp"
#include "backends/cuda/device_api.hpp"

/// The device's kernels as one ordered list: the first candidate that supports a group makes its kernel;
/// where none does, the group runs on the host.
namespace fusetape::backends::cuda {

/// `supports` answers with an empty reason where the group is simply not its kind: such refusals are not
/// shown.
struct Candidate {
  const char* name;
  Support (*supports)(const plan::Graph& graph, const plan::Group& group, DeviceApi& device);
  std::unique_ptr<Kernel> (*make)(const plan::Graph& graph, const plan::Group& group, DeviceApi& device);
};

// Each file of kernels offers its own.
std::span<const Candidate> batch_norms();      ///< batch_norm and its gradient, alone and with add and ReLU
std::span<const Candidate> reductions();       ///< sum, mean, max over axes; argmax
std::span<const Candidate> softmaxes();        ///< softmax, log_softmax, and gradients
std::span<const Candidate> cross_entropies();  ///< cross_entropy and its gradient
std::span<const Candidate> optimizers();       ///< sgd_update, adam_update, one or all; grad_norm
std::span<const Candidate> random_draws();     ///< rand, randn, dropout
std::span<const Candidate> movements();        ///< transpose, concat, slice, pad

}  // namespace fusetape::backends::cuda
