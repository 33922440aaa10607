#pragma once
#include <optional>

#include "backends/backend.hpp"
#include "backends/cpu/winograd/winograd.hpp"
#include "core/op_attrs.hpp"

/// Winograd convolutions as kernels of the CPU: which groups they take, and what rides in their transforms.
namespace fusetape::backends::cpu {

/// Every group that contains one convolution (or gradient of one) as the same roles.
struct WinogradRoles {
  plan::Carried parts;
  bool relu = false;                          ///< y = relu(…)
  const plan::Convolution* folded = nullptr;  ///< with the batch norm of these roles in the weights
};
/// nullopt: the group is none of a convolution, or asks for what no transform does.
std::optional<WinogradRoles> winograd_roles(const plan::Graph& graph, const plan::Group& group);

/// The forward convolution that the node is, or is a gradient of; nullopt: not 3×3 with stride 1 and the
/// like.
std::optional<winograd::Problem> winograd_problem(const plan::Graph& graph, const plan::GraphNode& conv);

/// Whether Winograd is sound and, by shape, faster than a direct convolution for the node.
Support winograd_serves(const plan::Graph& graph, const plan::GraphNode& conv);

std::unique_ptr<Kernel> make_winograd_convolution(const plan::Graph& graph, const plan::Group& group);
std::unique_ptr<Kernel> make_winograd_grad_weight(const plan::Graph& graph, const plan::Group& group);

}  // namespace fusetape::backends::cpu
