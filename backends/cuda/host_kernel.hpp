#pragma once
#include <memory>

#include "backends/backend.hpp"
#include "backends/cuda/staging.hpp"

namespace fusetape::backends::cuda {

/// A group that no kernel of the device computes: its inputs are brought to the host, its nodes run there one
/// by one by their reference loops (a custom op by its own forward), and its outputs are brought back. Slow,
/// and waits for the device.
std::unique_ptr<Kernel> make_host_kernel(const plan::Graph& graph, const plan::Group& group,
                                         Staging& staging);

}  // namespace fusetape::backends::cuda
