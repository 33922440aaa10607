#pragma once
#include <memory>

#include "backends/norm_groups.hpp"

/// The two kernels of batch norm: forward and backward, alone and with add and ReLU.
namespace fusetape::backends::cpu::norm {

std::unique_ptr<Kernel> make_norm_forward(const plan::Graph& graph, const plan::Group& group);
std::unique_ptr<Kernel> make_norm_backward(const plan::Graph& graph, const plan::Group& group);

}  // namespace fusetape::backends::cpu::norm
