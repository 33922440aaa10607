#pragma once
#include <memory>

#include "backends/backend.hpp"
#include "backends/cuda/candidates.hpp"

namespace fusetape::backends::cuda::update {

/// The joint norm of any number of gradients. Offered beside the optimizers.
Support supports_grad_norm(const plan::Graph& graph, const plan::Group& group, Device& device);
std::unique_ptr<Kernel> make_grad_norm(const plan::Graph& graph, const plan::Group& group, Device& device);

}  // namespace fusetape::backends::cuda::update
