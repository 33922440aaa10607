#pragma once
#include <memory>

#include "backends/backend.hpp"

namespace fusetape::backends::cpu::update {

/// grad_norm: √Σ g² over all elements of all gradients, in one kernel.
Support supports_grad_norm(const plan::Graph& graph, const plan::Group& group);
std::unique_ptr<Kernel> make_grad_norm(const plan::Graph& graph, const plan::Group& group);

}  // namespace fusetape::backends::cpu::update
