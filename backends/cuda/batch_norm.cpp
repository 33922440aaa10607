#include "backends/cuda/batch_norm.hpp"

#include "backends/cuda/candidates.hpp"

/// Which groups the batch norm kernels take.
namespace fusetape::backends::cuda {
namespace {

using plan::Graph;
using plan::Group;

constexpr auto dtypes = {DType::f32, DType::bf16, DType::f16};

Support supports_forward(const Graph& graph, const Group& group, Device&) {
  if (!is_norm_forward(graph, group)) return {.ok = false, .reason = {}};
  return norm_operands(graph, norm_forward_roles(graph, group).norm, dtypes);
}

Support supports_backward(const Graph& graph, const Group& group, Device&) {
  if (!is_norm_backward(graph, group)) return {.ok = false, .reason = {}};
  return norm_operands(graph, norm_backward_roles(graph, group), dtypes);
}

constexpr Candidate candidates[] = {
    {"cuda:batch_norm", supports_forward, make_norm_forward},
    {"cuda:batch_norm_grad", supports_backward, make_norm_backward},
};

}  // namespace

std::span<const Candidate> batch_norms() { return candidates; }

}  // namespace fusetape::backends::cuda
