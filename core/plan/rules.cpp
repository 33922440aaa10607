#include "core/plan/rules.hpp"

#include <algorithm>

#include "core/op_attrs.hpp"

namespace fusetape::plan {
namespace {

/// The free node that makes `value` for this one reader only; nullptr otherwise. A value that somebody can
/// name is a near miss.
const GraphNode* private_producer(const Cover& cover, int value, std::string_view op, std::string& why) {
  const GraphNode* node = cover.graph.producer_if(value, op);
  if (node == nullptr || !cover.free(cover.graph.value(value).producer)) return nullptr;
  if (cover.graph.value(value).keep) {
    why = "the output of " + std::string(op) + " is kept by a live handle";
    return nullptr;
  }
  if (cover.graph.value(value).consumers.size() != 1) {
    why = "the output of " + std::string(op) + " has another reader";
    return nullptr;
  }
  return node;
}

int id_of(const Cover& cover, const GraphNode& node) {
  return static_cast<int>(&node - cover.graph.nodes.data());
}

bool same_shape(const Graph& graph, int a, int b) { return graph.value(a).shape == graph.value(b).shape; }

int only_if_used(const Graph& graph, int value) {
  return graph.value(value).keep || !graph.value(value).consumers.empty() ? value : -1;
}

// ---- forward
// ---------------------------------------------------------------------------------------------------------

/// A batch_norm or batch_norm_inference whose y only the group reads.
const GraphNode* private_norm(const Cover& cover, int value, std::string& why) {
  const GraphNode* norm = private_producer(cover, value, "batch_norm", why);
  return norm != nullptr ? norm : private_producer(cover, value, "batch_norm_inference", why);
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

/// y = relu(norm(x))
std::optional<Group> match_batch_norm_relu(const Cover& cover, int node, std::string& why) {
  const GraphNode& relu = cover.graph.node(node);
  const GraphNode* norm = private_norm(cover, relu.inputs[0], why);
  if (norm == nullptr) return std::nullopt;
  Group group;
  group.pattern = Pattern::batch_norm_relu;
  group.name = std::string(norm->op->name) + "+relu";
  group.nodes = {id_of(cover, *norm), node};
  group.norm.norm[0] = forward_roles(cover, *norm);
  group.norm.training = norm->op->is("batch_norm");
  group.norm.y = relu.outputs[0];
  return group;
}

/// y = relu(norm(x) + z), and with both summands normalised the same way: relu(norm₁(x₁) + norm₂(x₂)).
std::optional<Group> match_batch_norm_add_relu(const Cover& cover, int node, std::string& why) {
  const GraphNode& relu = cover.graph.node(node);
  const GraphNode* sum = private_producer(cover, relu.inputs[0], "add", why);
  if (sum == nullptr) return std::nullopt;
  const int a = sum->inputs[0], b = sum->inputs[1];
  if (a == b || !same_shape(cover.graph, a, b)) return std::nullopt;
  const GraphNode* first = private_norm(cover, a, why);
  const GraphNode* second = private_norm(cover, b, why);
  if (first == nullptr && second == nullptr) return std::nullopt;

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
  group.norm.training = first->op->is("batch_norm");
  group.norm.y = relu.outputs[0];
  group.nodes.insert(group.nodes.end(), {id_of(cover, *first), id_of(cover, *sum), node});
  finish_norm_group(group);
  return group;
}

/// y = relu(conv(x, w) + b), with or without the bias.
std::optional<Group> match_conv_bias_relu(const Cover& cover, int node, std::string& why) {
  const GraphNode& relu = cover.graph.node(node);
  const GraphNode* bias = private_producer(cover, relu.inputs[0], "bias_add", why);
  const GraphNode* conv =
      private_producer(cover, bias != nullptr ? bias->inputs[0] : relu.inputs[0], "conv2d", why);
  if (conv == nullptr) return std::nullopt;
  Group group;
  group.pattern = Pattern::conv_bias_relu;
  group.name = bias != nullptr ? "conv2d+bias+relu" : "conv2d+relu";
  group.nodes.push_back(id_of(cover, *conv));
  if (bias != nullptr) group.nodes.push_back(id_of(cover, *bias));
  group.nodes.push_back(node);
  group.conv = {.x = conv->inputs[0],
                .w = conv->inputs[1],
                .bias = bias != nullptr ? bias->inputs[1] : -1,
                .y = relu.outputs[0],
                .relu = true,
                .conv_node = group.nodes[0]};
  return group;
}

/// y = conv(x, w) + b
std::optional<Group> match_conv_bias(const Cover& cover, int node, std::string& why) {
  const GraphNode& bias = cover.graph.node(node);
  const GraphNode* conv = private_producer(cover, bias.inputs[0], "conv2d", why);
  if (conv == nullptr) return std::nullopt;
  Group group;
  group.pattern = Pattern::conv_bias_relu;
  group.name = "conv2d+bias";
  group.nodes = {id_of(cover, *conv), node};
  group.conv = {.x = conv->inputs[0],
                .w = conv->inputs[1],
                .bias = bias.inputs[1],
                .y = bias.outputs[0],
                .relu = false,
                .conv_node = group.nodes[0]};
  return group;
}

// ---- backward
// --------------------------------------------------------------------------------------------------------

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
std::optional<Group> match_norm_gradient(const Cover& cover, int node, std::string& why, bool recompute) {
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
  std::string unused;
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
  why.clear();
  return group;
}

std::optional<Group> match_norm_gradient_recomputed(const Cover& cover, int node, std::string& why) {
  return match_norm_gradient(cover, node, why, true);
}

std::optional<Group> match_norm_gradient_from_y(const Cover& cover, int node, std::string& why) {
  return match_norm_gradient(cover, node, why, false);
}

/// g' = g·[!(y ≤ 0)] and db = Σ g' over all but the last axis, for the convolution's (or linear layer's) own
/// gradients.
std::optional<Group> match_bias_relu_gradient(const Cover& cover, int node, std::string&) {
  const Graph& graph = cover.graph;
  const GraphNode& mask = graph.node(node);
  const int masked = mask.outputs[0];
  const int rank = graph.value(masked).shape.rank();
  if (rank == 0 || !same_shape(graph, mask.inputs[0], mask.inputs[1])) return std::nullopt;
  for (int consumer : graph.value(masked).consumers) {
    const GraphNode& sum = graph.node(consumer);
    if (!sum.op->is("sum") || !cover.free(consumer)) continue;
    const auto attrs = sum.attrs.as<core::ReduceAttrs>();
    if (attrs.keep_dims != 0 || attrs.axes != (std::int64_t{1} << (rank - 1)) - 1) continue;
    Group group;
    group.pattern = Pattern::bias_relu_grad;
    group.name = "relu_grad+bias_grad";
    group.nodes = {node, consumer};
    group.bias_grad = {
        .g = mask.inputs[0], .y = mask.inputs[1], .masked = masked, .bias_grad = sum.outputs[0]};
    return group;
  }
  return std::nullopt;
}

// ---- update
// ----------------------------------------------------------------------------------------------------------

/// Every update of the slice with the same attributes and the same scalars (learning rate, momentum, …).
std::optional<Group> match_updates(const Cover& cover, int node, std::span<const int> scalar_inputs) {
  const GraphNode& first = cover.graph.node(node);
  Group group;
  group.pattern = Pattern::optimizer;
  group.name = std::string(first.op->name);
  for (std::size_t n = static_cast<std::size_t>(node); n < cover.graph.nodes.size(); ++n) {
    const GraphNode& other = cover.graph.nodes[n];
    if (other.dead || other.op != first.op || !cover.free(static_cast<int>(n)) ||
        !(other.attrs == first.attrs) || other.inputs.size() != first.inputs.size()) {
      continue;
    }
    const bool same_scalars = std::all_of(scalar_inputs.begin(), scalar_inputs.end(), [&](int i) {
      const auto index = static_cast<std::size_t>(i);
      return index >= other.inputs.size() || other.inputs[index] == first.inputs[index];
    });
    if (same_scalars) group.nodes.push_back(static_cast<int>(n));
  }
  if (group.nodes.size() < 2) return std::nullopt;
  return group;
}

std::optional<Group> match_sgd(const Cover& cover, int node, std::string&) {
  static constexpr int scalars[] = {2, 3, 5};
  return match_updates(cover, node, scalars);
}

std::optional<Group> match_adam(const Cover& cover, int node, std::string&) {
  static constexpr int scalars[] = {4, 5, 6, 7, 8, 9, 10};
  return match_updates(cover, node, scalars);
}

constexpr Rule rules[] = {
    {"batch_norm+add+relu", "relu", match_batch_norm_add_relu},
    {"batch_norm+relu", "relu", match_batch_norm_relu},
    {"conv2d+bias+relu", "relu", match_conv_bias_relu},
    {"conv2d+bias", "bias_add", match_conv_bias},
    {"relu_grad+batch_norm_grad, mask from x", "relu_grad", match_norm_gradient_recomputed},
    {"relu_grad+batch_norm_grad, mask from y", "relu_grad", match_norm_gradient_from_y},
    {"relu_grad+bias_grad", "relu_grad", match_bias_relu_gradient},
    {"sgd_update", "sgd_update", match_sgd},
    {"adam_update", "adam_update", match_adam},
};

}  // namespace

std::span<const Rule> fusion_rules() { return rules; }

}  // namespace fusetape::plan
