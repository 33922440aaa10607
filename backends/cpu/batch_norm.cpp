#include <algorithm>
#include <initializer_list>

#include "backends/cpu/batch_norm_kernels.hpp"
#include "backends/cpu/candidates.hpp"
#include "backends/cpu/channel_rows.hpp"

/// Which groups the batch norm kernels take, and their roles.
namespace fusetape::backends::cpu {
namespace {

using plan::Graph;
using plan::Group;
using plan::NormRoles;
using plan::Pattern;

/// The output's id if the group writes it for anybody, else -1.
int if_written(const Group& group, int value) {
  const auto& outputs = group.outputs;
  return std::find(outputs.begin(), outputs.end(), value) != outputs.end() ? value : -1;
}

void drop_unwritten(const Group& group, NormRoles& norm) {
  for (int* output : {&norm.new_running_mean, &norm.new_running_var, &norm.dx, &norm.dgamma, &norm.dbeta}) {
    *output = if_written(group, *output);
  }
}

bool single_op(const Graph& graph, const Group& group, std::string_view name) {
  return group.pattern == Pattern::single && graph.node(group.nodes[0]).op->is(name);
}

/// Of a node that makes statistics: its running ones from input `in`, what it makes from output `out` on.
void take_statistics(const Group& group, const plan::GraphNode& node, std::size_t in, std::size_t out,
                     NormRoles& norm) {
  norm.mean = if_written(group, node.outputs[out]);
  norm.inv_std = if_written(group, node.outputs[out + 1]);
  if (node.inputs.size() <= in) return;
  norm.running_mean = node.inputs[in];
  norm.running_var = node.inputs[in + 1];
  norm.new_running_mean = if_written(group, node.outputs[out + 2]);
  norm.new_running_var = if_written(group, node.outputs[out + 3]);
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
Support check_norms(const Graph& graph, const NormRoles* norms, int count,
                    std::initializer_list<int> tensors) {
  const Shape& shape = graph.value(norms[0].x).shape;
  const DType dtype = graph.value(norms[0].x).dtype;
  if (shape.rank() == 0 || shape.elements() == 0) return refuse("no rows of channels");
  if (dtype != DType::f32 && dtype != DType::bf16) {
    return refuse("expected f32 or bf16, got " + std::string(name_of(dtype)));
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

/// A block of rows writes whole bytes of a mask.
Support check_mask(const Graph& graph, int mask, int x) {
  if (mask < 0) return {};
  const Shape& shape = graph.value(x).shape;
  if (ChannelRows(shape.elements() / shape.back(), shape.back(), 1).width() % 8 == 0) return {};
  return refuse("rows of " + std::to_string(shape.back()) + " channels share bytes of the mask");
}

Support supports_forward(const Graph& graph, const Group& group) {
  const bool ours = group.pattern == Pattern::batch_norm_relu || single_op(graph, group, "batch_norm") ||
                    single_op(graph, group, "batch_norm_inference") ||
                    single_op(graph, group, "batch_norm_apply") ||
                    single_op(graph, group, "batch_norm_statistics");
  if (!ours) return refuse("");
  const plan::BatchNormRelu roles = norm_forward_roles(graph, group).norm;
  const Support support = check_norms(graph, roles.norm, roles.norms, {roles.z, roles.sum, roles.y});
  return support.ok ? check_mask(graph, roles.mask, roles.norm[0].x) : support;
}

Support supports_backward(const Graph& graph, const Group& group) {
  const bool ours =
      group.pattern == Pattern::batch_norm_relu_grad || single_op(graph, group, "batch_norm_grad") ||
      single_op(graph, group, "batch_norm_grad_sums") || single_op(graph, group, "batch_norm_grad_apply");
  if (!ours) return refuse("");
  const plan::BatchNormReluGrad roles = norm_backward_roles(graph, group);
  if (roles.recompute && roles.norms != 1) return refuse("two normalisations need their ReLU's output");
  const Support support =
      check_norms(graph, roles.norm, roles.norms, {roles.g, roles.g2, roles.y, roles.masked});
  return support.ok ? check_mask(graph, roles.mask, roles.norm[0].x) : support;
}

constexpr Candidate candidates[] = {
    {"highway:batch_norm", supports_forward, make_norm_forward},
    {"highway:batch_norm_grad", supports_backward, make_norm_backward},
};

}  // namespace

NormForwardRoles norm_forward_roles(const Graph& graph, const Group& group) {
  if (group.pattern != Pattern::single) {
    NormForwardRoles roles{.norm = group.norm, .relu = true};
    for (NormRoles& norm : roles.norm.norm) {
      drop_unwritten(group, norm);
      if (roles.norm.statistics != plan::Statistics::batch) continue;
      norm.mean = if_written(group, norm.mean);
      norm.inv_std = if_written(group, norm.inv_std);
    }
    return roles;
  }
  const plan::GraphNode& node = graph.node(group.nodes[0]);
  NormForwardRoles roles{.norm = {}, .relu = false};
  NormRoles& norm = roles.norm.norm[0];
  norm.node = group.nodes[0];
  norm.x = node.inputs[0];
  if (node.op->is("batch_norm_statistics")) {
    take_statistics(group, node, 1, 0, norm);
    return roles;
  }
  roles.norm.y = if_written(group, node.outputs[0]);
  norm.gamma = node.inputs[1];
  norm.beta = node.inputs[2];
  if (node.op->is("batch_norm_apply")) {
    roles.norm.statistics = plan::Statistics::given;
    norm.mean = node.inputs[3];
    norm.inv_std = node.inputs[4];
    return roles;
  }
  if (node.op->is("batch_norm_inference")) {
    roles.norm.statistics = plan::Statistics::running;
    norm.running_mean = node.inputs[3];
    norm.running_var = node.inputs[4];
    return roles;
  }
  take_statistics(group, node, 3, 1, norm);
  return roles;
}

plan::BatchNormReluGrad norm_backward_roles(const Graph& graph, const Group& group) {
  if (group.pattern != Pattern::single) {
    plan::BatchNormReluGrad roles = group.norm_grad;
    for (NormRoles& norm : roles.norm) drop_unwritten(group, norm);
    return roles;
  }
  const plan::GraphNode& node = graph.node(group.nodes[0]);
  plan::BatchNormReluGrad roles;
  roles.g = node.inputs[0];
  NormRoles& norm = roles.norm[0];
  norm.node = group.nodes[0];
  norm.x = node.inputs[1];
  if (node.op->is("batch_norm_grad_sums")) {
    norm.mean = node.inputs[2];
    norm.inv_std = node.inputs[3];
    norm.dgamma = if_written(group, node.outputs[0]);
    norm.dbeta = if_written(group, node.outputs[1]);
    return roles;
  }
  norm.gamma = node.inputs[2];
  norm.mean = node.inputs[3];
  norm.inv_std = node.inputs[4];
  norm.dx = if_written(group, node.outputs[0]);
  if (node.op->is("batch_norm_grad_apply")) {
    roles.sums_given = true;
    norm.dgamma = node.inputs[5];
    norm.dbeta = node.inputs[6];
    return roles;
  }
  norm.dgamma = if_written(group, node.outputs[1]);
  norm.dbeta = if_written(group, node.outputs[2]);
  return roles;
}

std::span<const Candidate> batch_norms() { return candidates; }

}  // namespace fusetape::backends::cpu
