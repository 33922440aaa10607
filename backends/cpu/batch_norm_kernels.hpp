#pragma once
#include <memory>

#include "backends/backend.hpp"

/// The two kernels of batch norm: forward and backward, alone and with add and ReLU. A single node becomes
/// the same roles as a fused group, so that there is one path.
namespace fusetape::backends::cpu {

struct NormForwardRoles {
  plan::BatchNormRelu norm;
  bool relu = true;
};
NormForwardRoles norm_forward_roles(const plan::Graph& graph, const plan::Group& group);
plan::BatchNormReluGrad norm_backward_roles(const plan::Graph& graph, const plan::Group& group);

std::unique_ptr<Kernel> make_norm_forward(const plan::Graph& graph, const plan::Group& group);
std::unique_ptr<Kernel> make_norm_backward(const plan::Graph& graph, const plan::Group& group);

}  // namespace fusetape::backends::cpu
