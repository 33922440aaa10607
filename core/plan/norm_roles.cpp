#include "core/plan/norm_roles.hpp"

#include <algorithm>
#include <span>

#include "core/check.hpp"

namespace fusetape::plan {
namespace {

using Role = int NormRoles::*;

constexpr Role x = &NormRoles::x, gamma = &NormRoles::gamma, beta = &NormRoles::beta,
               running_mean = &NormRoles::running_mean, running_var = &NormRoles::running_var,
               mean = &NormRoles::mean, inv_std = &NormRoles::inv_std,
               new_running_mean = &NormRoles::new_running_mean, new_running_var = &NormRoles::new_running_var,
               normed = &NormRoles::normed, dx = &NormRoles::dx, dgamma = &NormRoles::dgamma,
               dbeta = &NormRoles::dbeta, other = nullptr;
constexpr Role all_roles[] = {
    x,      gamma, beta,   running_mean, running_var, mean, inv_std, new_running_mean, new_running_var,
    normed, dx,    dgamma, dbeta};

/// As core/op_attrs.hpp has them. Running statistics may be absent; behind them comes the op's number, the
/// momentum.
struct Signature {
  std::string_view op;
  Role inputs[7];
  Role outputs[5];
};
constexpr Signature signatures[] = {
    {"batch_norm",
     {x, gamma, beta, running_mean, running_var},
     {other, mean, inv_std, new_running_mean, new_running_var}},
    {"batch_norm_inference", {x, gamma, beta, running_mean, running_var}, {}},
    {"batch_norm_apply", {x, gamma, beta, mean, inv_std}, {}},
    {"batch_norm_statistics",
     {x, running_mean, running_var},
     {mean, inv_std, new_running_mean, new_running_var}},
    {"batch_norm_grad", {other, x, gamma, mean, inv_std}, {dx, dgamma, dbeta}},
    {"batch_norm_grad_sums", {other, x, mean, inv_std}, {dgamma, dbeta}},
    {"batch_norm_grad_apply", {other, x, gamma, mean, inv_std, dgamma, dbeta}, {dx}},
};

}  // namespace

NormRoles norm_roles(const Graph& graph, int node) {
  const GraphNode& norm = graph.node(node);
  const auto* signature = std::find_if(std::begin(signatures), std::end(signatures),
                                       [&](const Signature& s) { return norm.op->is(s.op); });
  FUSETAPE_ASSERT(signature != std::end(signatures));
  NormRoles roles;
  roles.node = node;
  const auto take = [&](const Role* names, std::span<const int> values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (names[i] != other) roles.*names[i] = values[i];
    }
  };
  std::span<const int> inputs(norm.inputs);
  if (norm.op->numbers == 1) {
    roles.momentum = inputs.back();
    inputs = inputs.first(inputs.size() - 1);
  }
  take(signature->inputs, inputs);
  take(signature->outputs, norm.outputs);
  return roles;
}

Statistics statistics_of(const GraphNode& norm) {
  if (norm.op->is("batch_norm_inference")) return Statistics::running;
  return norm.op->is("batch_norm_apply") ? Statistics::given : Statistics::batch;
}

void drop_unwritten(const Graph& graph, const Group& group, NormRoles& roles) {
  for (const Role role : all_roles) {
    int& value = roles.*role;
    if (value < 0) continue;
    const int producer = graph.value(value).producer;
    const bool made_here = std::binary_search(group.nodes.begin(), group.nodes.end(), producer);
    const bool written = std::find(group.outputs.begin(), group.outputs.end(), value) != group.outputs.end();
    if (made_here && !written) value = -1;
  }
}

const GraphNode* forward_norm_of_mask(const Graph& graph, int y, const NormRoles& roles) {
  const GraphNode* relu = graph.producer_if(y, "relu");
  if (relu == nullptr) return nullptr;
  const GraphNode* norm = graph.producer_if(relu->inputs[0], "batch_norm");
  if (norm == nullptr) norm = graph.producer_if(relu->inputs[0], "batch_norm_apply");
  if (norm == nullptr || norm->outputs[0] != relu->inputs[0]) return nullptr;
  const NormRoles made = norm_roles(graph, graph.value(relu->inputs[0]).producer);
  const bool same = made.x == roles.x && (roles.gamma < 0 || made.gamma == roles.gamma) &&
                    made.mean == roles.mean && made.inv_std == roles.inv_std;
  return same ? norm : nullptr;
}

}  // namespace fusetape::plan
