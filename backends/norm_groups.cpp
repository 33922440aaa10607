#include "backends/norm_groups.hpp"

#include <algorithm>
#include <string>

#include "core/op_list.hpp"
#include "core/plan/norm_roles.hpp"

namespace fusetape::backends {

using plan::Graph;
using plan::Group;
using plan::NormRoles;
using plan::Pattern;

namespace {

/// The output's id if the group writes it for anybody, else -1.
int if_written(const Group& group, int value) {
  const auto& outputs = group.outputs;
  return std::find(outputs.begin(), outputs.end(), value) != outputs.end() ? value : -1;
}

bool single_op(const Graph& graph, const Group& group, const core::OpDef& op) {
  return group.pattern == Pattern::single && graph.node(group.nodes[0]).is(op);
}

Support refuse(std::string reason) { return {.ok = false, .reason = std::move(reason)}; }

/// All present values of this dtype with as many elements as expected.
Support check(const Graph& graph, std::initializer_list<int> values, DType dtype, std::int64_t elements) {
  for (int value : values) {
    if (value < 0) continue;
    if (graph.value(value).dtype != dtype) {
      return refuse("expected " + std::string(name_of(dtype)) + ", got " +
                    std::string(name_of(graph.value(value).dtype)));
    }
    if (graph.value(value).elements() != elements) return refuse("operands broadcast");
  }
  return {};
}

/// `tensors` are those beside each norm's own.
Support check_norms(const Graph& graph, const NormRoles* norms, int count, std::initializer_list<int> tensors,
                    std::initializer_list<DType> dtypes) {
  const Shape& shape = graph.value(norms[0].x).shape;
  const DType dtype = graph.value(norms[0].x).dtype;
  if (shape.rank() == 0 || shape.elements() == 0) return refuse("no rows of channels");
  if (std::find(dtypes.begin(), dtypes.end(), dtype) == dtypes.end()) {
    std::string names;
    for (const DType allowed : dtypes) names += (names.empty() ? "" : " or ") + std::string(name_of(allowed));
    return refuse("expected " + names + ", got " + std::string(name_of(dtype)));
  }
  Support support = check(graph, tensors, dtype, shape.elements());
  for (int i = 0; i < count && support.ok; ++i) {
    const NormRoles& n = norms[i];
    support = check(graph, {n.x, n.dx, n.normed}, dtype, shape.elements());
    if (!support.ok) break;
    support = check(graph,
                    {n.gamma, n.beta, n.running_mean, n.running_var, n.mean, n.inv_std, n.new_running_mean,
                     n.new_running_var, n.dgamma, n.dbeta},
                    DType::f32, shape.back());
  }
  return support;
}

}  // namespace

bool is_norm_forward(const Graph& graph, const Group& group) {
  return group.pattern == Pattern::batch_norm_relu || single_op(graph, group, ops::batch_norm_op) ||
         single_op(graph, group, ops::batch_norm_inference_op) ||
         single_op(graph, group, ops::batch_norm_apply_op) ||
         single_op(graph, group, ops::batch_norm_statistics_op);
}

bool is_norm_backward(const Graph& graph, const Group& group) {
  return group.pattern == Pattern::batch_norm_relu_grad || single_op(graph, group, ops::batch_norm_grad_op) ||
         single_op(graph, group, ops::batch_norm_grad_sums_op) ||
         single_op(graph, group, ops::batch_norm_grad_apply_op);
}

NormForwardRoles norm_forward_roles(const Graph& graph, const Group& group) {
  NormForwardRoles roles{.norm = group.norm, .relu = true};
  if (group.pattern == Pattern::single) {
    const plan::GraphNode& node = graph.node(group.nodes[0]);
    roles = {.norm = {.statistics = plan::statistics_of(node)}, .relu = false};
    roles.norm.norm[0] = plan::norm_roles(graph, group.nodes[0]);
    if (!node.is(ops::batch_norm_statistics_op)) roles.norm.y = if_written(group, node.outputs[0]);
  }
  for (NormRoles& norm : roles.norm.norm) plan::drop_unwritten(graph, group, norm);
  return roles;
}

plan::BatchNormReluGrad norm_backward_roles(const Graph& graph, const Group& group) {
  plan::BatchNormReluGrad roles = group.norm_grad;
  if (group.pattern == Pattern::single) {
    const plan::GraphNode& node = graph.node(group.nodes[0]);
    roles = {.g = node.inputs[0], .sums_given = node.is(ops::batch_norm_grad_apply_op)};
    roles.norm[0] = plan::norm_roles(graph, group.nodes[0]);
  }
  for (NormRoles& norm : roles.norm) plan::drop_unwritten(graph, group, norm);
  return roles;
}

Support norm_operands(const Graph& graph, const plan::BatchNormRelu& roles,
                      std::initializer_list<DType> dtypes) {
  return check_norms(graph, roles.norm, roles.norms, {roles.z, roles.sum, roles.y}, dtypes);
}

Support norm_operands(const Graph& graph, const plan::BatchNormReluGrad& roles,
                      std::initializer_list<DType> dtypes) {
  if (roles.recompute && roles.norms != 1) return refuse("two normalisations need their ReLU's output");
  return check_norms(graph, roles.norm, roles.norms, {roles.g, roles.g2, roles.y, roles.masked}, dtypes);
}

}  // namespace fusetape::backends
