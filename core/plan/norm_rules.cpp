#include <algorithm>

#include "core/plan/match.hpp"

/// Batch norm with what stands around it, forward and backward.
namespace fusetape::plan {
namespace {

/// A batch_norm or batch_norm_inference whose y only the group reads.
const GraphNode* private_norm(const Cover& cover, int value, NearMiss& miss) {
  const GraphNode* norm = private_producer(cover, value, "batch_norm", miss);
  return norm != nullptr ? norm : private_producer(cover, value, "batch_norm_inference", miss);
}

bool adds_a_norm(const Graph& graph, int value) {
  const GraphNode* sum = graph.producer_if(value, "add");
  return sum != nullptr && std::any_of(sum->inputs.begin(), sum->inputs.end(), [&](int input) {
           return made_by(graph, input, {"batch_norm"}) || made_by(graph, input, {"batch_norm_inference"});
         });
}

NormRoles forward_roles(const Cover& cover, const GraphNode& norm) {
  NormRoles roles;
  roles.node = id_of(cover, norm);
  roles.x = norm.inputs[0];
  roles.gamma = norm.inputs[1];
  roles.beta = norm.inputs[2];
  if (norm.inputs.size() > 3) {
    roles.running_mean = norm.inputs[3];
    roles.running_var = norm.inputs[4];
  }
  if (norm.op->is("batch_norm")) {
    roles.mean = norm.outputs[1];
    roles.inv_std = norm.outputs[2];
    if (norm.outputs.size() > 3) {
      roles.new_running_mean = norm.outputs[3];
      roles.new_running_var = norm.outputs[4];
    }
  }
  return roles;
}

void finish_norm_group(Group& group) { std::sort(group.nodes.begin(), group.nodes.end()); }

NormRoles backward_roles(const Cover& cover, int node) {
  const GraphNode& norm = cover.graph.node(node);
  NormRoles roles;
  roles.node = node;
  roles.x = norm.inputs[1];
  roles.gamma = norm.inputs[2];
  roles.mean = norm.inputs[3];
  roles.inv_std = norm.inputs[4];
  roles.dx = only_if_used(cover.graph, norm.outputs[0]);
  roles.dgamma = norm.outputs[1];
  roles.dbeta = norm.outputs[2];
  return roles;
}

/// The forward batch_norm whose ReLU made `y` directly from the x, γ and statistics of `roles`; nullptr: the
/// mask has to be read from y.
const GraphNode* forward_norm_of_mask(const Graph& graph, int y, const NormRoles& roles) {
  const GraphNode* relu = graph.producer_if(y, "relu");
  const GraphNode* norm = relu != nullptr ? graph.producer_if(relu->inputs[0], "batch_norm") : nullptr;
  const bool same = norm != nullptr && norm->inputs[0] == roles.x && norm->inputs[1] == roles.gamma &&
                    norm->outputs[1] == roles.mean && norm->outputs[2] == roles.inv_std;
  return same ? norm : nullptr;
}

/// g' = (g [+ g2])·[mask], and the gradients of the one or two batch norms that read g'.
std::optional<Group> match_norm_gradient(const Cover& cover, int node, NearMiss& miss, bool recompute) {
  const Graph& graph = cover.graph;
  const GraphNode& mask = graph.node(node);
  const int masked = mask.outputs[0];
  Group group;
  group.pattern = Pattern::batch_norm_relu_grad;
  BatchNormReluGrad& roles = group.norm_grad;
  roles.norms = 0;
  bool read_elsewhere = graph.value(masked).keep;
  for (int consumer : graph.value(masked).consumers) {
    const GraphNode& reader = graph.node(consumer);
    const bool norm = reader.op->is("batch_norm_grad") && reader.inputs[0] == masked &&
                      cover.free(consumer) && reader.inputs[1] != masked && roles.norms < 2;
    if (norm) {
      roles.norm[roles.norms++] = backward_roles(cover, consumer);
      group.nodes.push_back(consumer);
    } else {
      read_elsewhere = true;
    }
  }
  if (roles.norms == 0) return std::nullopt;

  roles.g = mask.inputs[0];
  roles.y = mask.inputs[1];
  roles.masked = read_elsewhere ? masked : -1;
  if (recompute) {
    const GraphNode* forward =
        roles.norms == 1 && !read_elsewhere ? forward_norm_of_mask(graph, roles.y, roles.norm[0]) : nullptr;
    if (forward == nullptr) return std::nullopt;
    roles.recompute = true;
    roles.norm[0].beta = forward->inputs[2];
    roles.y = -1;
  }
  group.name = "relu_grad";
  NearMiss unused;
  if (const GraphNode* fork = private_producer(cover, roles.g, "add", unused)) {
    if (same_shape(graph, fork->inputs[0], fork->inputs[1]) && fork->inputs[0] != fork->inputs[1]) {
      roles.g = fork->inputs[0];
      roles.g2 = fork->inputs[1];
      group.nodes.push_back(id_of(cover, *fork));
      group.name = "add+relu_grad";
    }
  }
  for (int i = 0; i < roles.norms; ++i) group.name += "+batch_norm_grad";
  group.nodes.push_back(node);
  finish_norm_group(group);
  miss = {};
  return group;
}

}  // namespace

/// y = relu(norm(x))
std::optional<Group> match_batch_norm_relu(const Cover& cover, int node, NearMiss& miss) {
  const GraphNode& relu = cover.graph.node(node);
  const GraphNode* norm = private_norm(cover, relu.inputs[0], miss);
  if (norm == nullptr) return std::nullopt;
  Group group;
  group.pattern = Pattern::batch_norm_relu;
  group.name = std::string(norm->op->name) + "+relu";
  group.nodes = {id_of(cover, *norm), node};
  group.norm.norm[0] = forward_roles(cover, *norm);
  group.norm.statistics = norm->op->is("batch_norm") ? Statistics::batch : Statistics::running;
  group.norm.y = relu.outputs[0];
  return group;
}

/// y = relu(norm(x) + z), and with both summands normalised the same way: relu(norm₁(x₁) + norm₂(x₂)).
std::optional<Group> match_batch_norm_add_relu(const Cover& cover, int node, NearMiss& miss) {
  const GraphNode& relu = cover.graph.node(node);
  const GraphNode* sum = private_producer(cover, relu.inputs[0], "add", miss);
  if (sum == nullptr) {
    if (!adds_a_norm(cover.graph, relu.inputs[0])) miss = {};
    return std::nullopt;
  }
  const int a = sum->inputs[0], b = sum->inputs[1];
  const GraphNode* first = private_norm(cover, a, miss);
  const GraphNode* second = private_norm(cover, b, miss);
  if (a == b || (first == nullptr && second == nullptr)) return std::nullopt;
  if (!same_shape(cover.graph, a, b)) {
    const GraphNode& norm = first != nullptr ? *first : *second;
    miss = broadcast_operand(cover.graph, first != nullptr ? b : a, id_of(cover, norm));
    return std::nullopt;
  }

  Group group;
  group.pattern = Pattern::batch_norm_relu;
  if (first != nullptr && second != nullptr && first->op == second->op) {
    group.norm.norms = 2;
    group.norm.norm[1] = forward_roles(cover, *second);
    group.nodes.push_back(id_of(cover, *second));
    group.name = std::string(second->op->name) + "+";
  } else if (first != nullptr) {
    group.norm.z = b;
  } else {
    std::swap(first, second);
    group.norm.z = a;
  }
  group.name += std::string(first->op->name) + "+add+relu";
  group.norm.norm[0] = forward_roles(cover, *first);
  group.norm.statistics = first->op->is("batch_norm") ? Statistics::batch : Statistics::running;
  group.norm.y = relu.outputs[0];
  group.nodes.insert(group.nodes.end(), {id_of(cover, *first), id_of(cover, *sum), node});
  finish_norm_group(group);
  return group;
}

std::optional<Group> match_norm_gradient_recomputed(const Cover& cover, int node, NearMiss& miss) {
  return match_norm_gradient(cover, node, miss, true);
}

std::optional<Group> match_norm_gradient_from_y(const Cover& cover, int node, NearMiss& miss) {
  return match_norm_gradient(cover, node, miss, false);
}

}  // namespace fusetape::plan
