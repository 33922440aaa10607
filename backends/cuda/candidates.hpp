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
std::span<const Candidate> batch_norms();  ///< batch_norm and its gradient, alone and with add and ReLU
std::span<const Candidate> pointwise_programs();  ///< every pointwise node, alone and in chains

}  // namespace fusetape::backends::cuda
