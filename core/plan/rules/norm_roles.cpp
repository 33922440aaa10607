#include "core/plan/rules/norm_roles.hpp"

#include <span>

#include "core/check.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::plan {
namespace {

using core::NormRole;

/// The role's place.
int* value_of(NormRoles& roles, NormRole role) {
  switch (role) {
    case NormRole::none:
      return nullptr;
    case NormRole::x:
      return &roles.x;
    case NormRole::gamma:
      return &roles.gamma;
    case NormRole::beta:
      return &roles.beta;
    case NormRole::running_mean:
      return &roles.running_mean;
    case NormRole::running_var:
      return &roles.running_var;
    case NormRole::mean:
      return &roles.mean;
    case NormRole::inv_std:
      return &roles.inv_std;
    case NormRole::new_running_mean:
      return &roles.new_running_mean;
    case NormRole::new_running_var:
      return &roles.new_running_var;
    case NormRole::dx:
      return &roles.dx;
    case NormRole::dgamma:
      return &roles.dgamma;
    case NormRole::dbeta:
      return &roles.dbeta;
  }
  return nullptr;
}

}  // namespace

NormRoles norm_roles(const Graph& graph, int node) {
  const GraphNode& norm = graph.node(node);
  FUSETAPE_ASSERT(norm.op->norm != nullptr);
  NormRoles roles;
  roles.node = node;
  const auto take = [&](const NormRole* names, std::span<const int> values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (int* const value = value_of(roles, names[i])) *value = values[i];
    }
  };
  std::span<const int> inputs(norm.inputs);
  if (norm.op->numbers == 1) {
    roles.momentum = inputs.back();
    inputs = inputs.first(inputs.size() - 1);
  }
  take(norm.op->norm->inputs, inputs);
  take(norm.op->norm->outputs, norm.outputs);
  return roles;
}

Statistics statistics_of(const GraphNode& norm) {
  if (norm.is(ops::batch_norm_inference_op)) return Statistics::running;
  if (norm.is(ops::group_norm_op)) return Statistics::sample;
  return norm.is(ops::batch_norm_apply_op) ? Statistics::given : Statistics::batch;
}

bool is_norm_gradient(const GraphNode& norm) {
  return norm.is(ops::batch_norm_grad_op) || norm.is(ops::batch_norm_grad_sums_op) ||
         norm.is(ops::batch_norm_grad_apply_op) || norm.is(ops::group_norm_grad_op);
}

const GraphNode* norm_before(const Graph& graph, const GraphNode& gradient) {
  const OpDef& activation = *gradient.op->gradient_of;
  int value = gradient.inputs[1];
  if (activation.saves_outputs != 0) {
    const GraphNode* made = graph.producer_if(value, activation);
    if (made == nullptr) return nullptr;
    value = made->inputs[0];
  }
  for (const OpDef* op : {&ops::batch_norm_op, &ops::batch_norm_apply_op, &ops::group_norm_op}) {
    const GraphNode* norm = graph.producer_if(value, *op);
    if (norm != nullptr && norm->outputs[0] == value) return norm;
  }
  return nullptr;
}

const GraphNode* norm_before(const Graph& graph, const GraphNode& gradient, const NormRoles& roles) {
  const GraphNode* norm = norm_before(graph, gradient);
  if (norm == nullptr) return nullptr;
  const NormRoles made = norm_roles(graph, graph.value(norm->outputs[0]).producer);
  const bool same = made.x == roles.x && (roles.gamma < 0 || made.gamma == roles.gamma) &&
                    made.mean == roles.mean && made.inv_std == roles.inv_std;
  return same ? norm : nullptr;
}

}  // namespace fusetape::plan
