#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"
#include "backends/cpu/norm/batch_norm_kernels.hpp"
#include "backends/norm_groups.hpp"

/// Which groups the batch norm kernels take.
namespace fusetape::backends::cpu::norm {
namespace {

using plan::Graph;
using plan::Group;

constexpr auto dtypes = {DType::f32, DType::bf16};

/// A block of rows writes whole bytes of a mask.
Support check_mask(const Graph& graph, int mask, int x) {
  if (mask < 0) return {};
  const Shape& shape = graph.value(x).shape;
  if (ChannelRows(shape.elements() / shape.back(), shape.back(), 1).width() % 8 == 0) return {};
  return {.ok = false,
          .reason = "rows of " + std::to_string(shape.back()) + " channels share bytes of the mask"};
}

Support supports_forward(const Graph& graph, const Group& group) {
  const auto* roles = group.as<plan::NormForward>();
  if (roles == nullptr) return {.ok = false, .reason = {}};
  const Support support = norm_operands(graph, *roles, dtypes);
  return support.ok ? check_mask(graph, roles->mask, roles->norm[0].x) : support;
}

Support supports_backward(const Graph& graph, const Group& group) {
  const auto* roles = group.as<plan::NormBackward>();
  if (roles == nullptr) return {.ok = false, .reason = {}};
  const Support support = norm_operands(graph, *roles, dtypes);
  return support.ok ? check_mask(graph, roles->mask, roles->norm[0].x) : support;
}

constexpr Candidate candidates[] = {
    {"highway:batch_norm", supports_forward, make_norm_forward},
    {"highway:batch_norm_grad", supports_backward, make_norm_backward},
};

}  // namespace

std::span<const Candidate> batch_norms() { return candidates; }

}  // namespace fusetape::backends::cpu::norm
