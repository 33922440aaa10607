#pragma once
#include <initializer_list>

#include "backends/backend.hpp"

/// Which groups batch norm kernels are for, and their roles. A single node becomes the same roles as a fused
/// group, so that there is one path.
namespace fusetape::backends {

bool is_norm_forward(const plan::Graph& graph, const plan::Group& group);
bool is_norm_backward(const plan::Graph& graph, const plan::Group& group);

struct NormForwardRoles {
  plan::BatchNormRelu norm;
  bool relu = true;
};
NormForwardRoles norm_forward_roles(const plan::Graph& graph, const plan::Group& group);
plan::BatchNormReluGrad norm_backward_roles(const plan::Graph& graph, const plan::Group& group);

/// Refuses, with the reason, what is empty, broadcast, or of other dtypes than `dtypes` (the statistics and
/// parameters are f32).
Support norm_operands(const plan::Graph& graph, const plan::BatchNormRelu& roles,
                      std::initializer_list<DType> dtypes);
Support norm_operands(const plan::Graph& graph, const plan::BatchNormReluGrad& roles,
                      std::initializer_list<DType> dtypes);

}  // namespace fusetape::backends
