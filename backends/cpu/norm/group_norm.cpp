#include "backends/cpu/norm/group_norm.hpp"

#include "backends/cpu/candidates.hpp"
#include "core/op/op_list.hpp"

/// Which groups the group norm kernels take.
namespace fusetape::backends::cpu::norm {
namespace {

using plan::Graph;
using plan::Group;

Support supports(const Graph& graph, const Group& group) {
  const auto* const forward = group.as<plan::NormForward>();
  const auto* const backward = group.as<plan::NormBackward>();
  const bool is_forward = forward != nullptr && forward->statistics == plan::Statistics::sample;
  const bool is_backward =
      backward != nullptr && graph.node(backward->norm[0].node).is(ops::group_norm_grad_op);
  if (!is_forward && !is_backward) return {.ok = false, .reason = {}};
  const plan::NormRoles& norm = is_forward ? forward->norm[0] : backward->norm[0];
  const DType dtype = graph.value(norm.x).dtype;
  if (!is_f32_or_half(dtype)) return {.ok = false, .reason = "f32 and 16 bits only, not f64"};
  if ((is_forward ? forward->mask : backward->mask) >= 0)
    return {.ok = false, .reason = "group norm's ReLU has no mask as bits"};
  const Shape& shape = graph.value(norm.x).shape;
  const int others[] = {is_forward ? forward->z : backward->g2, is_forward ? forward->y : backward->g};
  for (const int value : others) {
    if (value < 0) continue;
    if (graph.value(value).shape != shape || graph.value(value).dtype != dtype)
      return {.ok = false, .reason = "an operand of another shape or dtype"};
  }
  return {};
}

std::unique_ptr<Kernel> make(const Graph& graph, const Group& group) {
  if (const auto* forward = group.as<plan::NormForward>()) return make_group_norm_forward(graph, *forward);
  return make_group_norm_backward(graph, *group.as<plan::NormBackward>());
}

constexpr Candidate candidates[] = {{"cpu:group_norm", supports, make}};

}  // namespace

std::span<const Candidate> group_norms() { return candidates; }

}  // namespace fusetape::backends::cpu::norm
