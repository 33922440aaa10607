#include <algorithm>
#include <array>

#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"
#include "core/plan/rules/match.hpp"
#include "core/plan/rules/norm_roles.hpp"

/// A convolution's epilogue, and the first pass of its backward.
namespace fusetape::plan {

namespace {

/// relu(norm(conv2d(x, w) + bias) + z), found from its last node backwards; nullptr and -1: not there.
struct Epilogue {
  const GraphNode *conv = nullptr, *bias = nullptr, *norm = nullptr, *add = nullptr, *relu = nullptr;
  int z = -1;
  int before_relu = -1;  ///< what the ReLU reads, where somebody else does so, too

  int y() const {
    for (const GraphNode* last : {relu, add, norm, bias}) {
      if (last != nullptr) return last->outputs[0];
    }
    return conv->outputs[0];
  }
};

/// norm(conv2d(x, w) + bias) that makes `value`; the bias is optional. Only the group may read what is
/// inside; with `shared`, the value itself may have other readers.
bool match_body(const Cover& cover, int value, bool with_norm, bool shared, Epilogue& found, NearMiss& miss) {
  const auto step_back = [&](const core::OpDef& op) {
    const GraphNode* node = cover.graph.producer_if(value, op);
    if (node != nullptr) value = node->inputs[0];
    return node;
  };
  found.norm = step_back(ops::batch_norm_inference_op);
  found.bias = step_back(ops::bias_add_op);
  found.conv = step_back(ops::conv2d_op);
  if (found.conv == nullptr || with_norm != (found.norm != nullptr)) return false;
  for (const GraphNode* node : {found.norm, found.bias, found.conv}) {
    if (node == nullptr) continue;
    const bool fits = shared ? cover.free(id_of(cover, *node))
                             : private_producer(cover, node->outputs[0], *node->op, miss) != nullptr;
    if (!fits) return false;
    shared = false;
  }
  return true;
}

/// The sum of such a body and a z of the same shape: either operand may be the body; of two, the one recorded
/// later, which can wait for the other.
bool match_sum(const Cover& cover, const GraphNode& add, bool with_norm, Epilogue& found, NearMiss& miss) {
  const int a = add.inputs[0], b = add.inputs[1];
  if (a == b || !same_shape(cover.graph, a, b)) return false;
  const bool b_is_later = cover.graph.value(b).producer > cover.graph.value(a).producer;
  for (const int body : b_is_later ? std::array{b, a} : std::array{a, b}) {
    if (!match_body(cover, body, with_norm, false, found, miss)) continue;
    found.add = &add;
    found.z = body == a ? b : a;
    return true;
  }
  return false;
}

std::optional<Group> group_of(const Cover& cover, const Epilogue& found, NearMiss& miss) {
  Group group;
  group.name = "conv2d";
  Convolution conv = convolution_of(*found.conv, id_of(cover, *found.conv));
  group.nodes = {conv.node};
  const auto add_node = [&](const GraphNode* node, const char* name) {
    if (node == nullptr) return;
    group.nodes.push_back(id_of(cover, *node));
    group.name += std::string("+") + name;
  };
  add_node(found.bias, "bias");
  add_node(found.norm, "batch_norm_inference");
  add_node(found.add, "add");
  add_node(found.relu, "relu");
  std::sort(group.nodes.begin(), group.nodes.end());
  if (found.bias != nullptr) conv.bias = found.bias->inputs[1];
  if (found.norm != nullptr) conv.folded = norm_roles(cover.graph, id_of(cover, *found.norm));
  conv.z = found.z;
  if (found.relu != nullptr) conv.activation = found.relu->op;
  conv.before_activation = found.before_relu;
  conv.y = found.y();
  group.roles = conv;
  miss = {};
  return group;
}

/// From a ReLU. What it reads may have other readers: whether a kernel can write that, too, is the device's
/// word.
std::optional<Group> match_to_relu(const Cover& cover, int node, bool with_add, bool with_norm,
                                   NearMiss& miss) {
  const Graph& graph = cover.graph;
  Epilogue found{.relu = &graph.node(node)};
  const int before = found.relu->inputs[0];
  const GraphNode* add = with_add ? free_producer(cover, before, ops::add_op) : nullptr;
  if (with_add && add == nullptr) return std::nullopt;
  const bool matched = with_add ? match_sum(cover, *add, with_norm, found, miss)
                                : match_body(cover, before, with_norm, true, found, miss);
  if (!matched) return std::nullopt;
  if (graph.value(before).keep || graph.value(before).consumers.size() > 1) found.before_relu = before;
  return group_of(cover, found, miss);
}

/// From a sum.
std::optional<Group> match_to_add(const Cover& cover, int node, bool with_norm, NearMiss& miss) {
  Epilogue found;
  if (!match_sum(cover, cover.graph.node(node), with_norm, found, miss)) return std::nullopt;
  return group_of(cover, found, miss);
}

/// From the batch norm or the bias itself.
std::optional<Group> match_to_body(const Cover& cover, int node, bool with_norm, NearMiss& miss) {
  Epilogue found;
  if (!match_body(cover, cover.graph.node(node).outputs[0], with_norm, true, found, miss))
    return std::nullopt;
  return group_of(cover, found, miss);
}

}  // namespace

std::optional<Group> match_conv(const Cover& cover, int node, Parts parts, NearMiss& miss) {
  const GraphNode& last = cover.graph.node(node);
  const bool norm = (parts & with::norm) != 0;
  if (last.is(ops::relu_op)) return match_to_relu(cover, node, (parts & with::add) != 0, norm, miss);
  return last.is(ops::add_op) ? match_to_add(cover, node, norm, miss)
                              : match_to_body(cover, node, norm, miss);
}

/// g' = g·[!(y ≤ 0)] and db = Σ g' over all but the last axis, for the convolution's (or linear layer's) own
/// gradients. Where backward was given y's mask as bits, it is the same kernel: db has the same bits.
std::optional<Group> match_bias_relu_gradient(const Cover& cover, int node, Parts, NearMiss&) {
  const Graph& graph = cover.graph;
  const GraphNode& relu_grad = graph.node(node);
  const bool bits = relu_grad.is(ops::relu_grad_mask_op);
  const int g = relu_grad.inputs[0], mask = relu_grad.inputs[1], masked = relu_grad.outputs[0];
  const int rank = graph.value(masked).shape.rank();
  if (rank == 0 || (!bits && !same_shape(graph, g, mask))) return std::nullopt;
  for (int consumer : graph.value(masked).consumers) {
    const GraphNode& sum = graph.node(consumer);
    if (!sum.is(ops::sum_op) || !cover.free(consumer)) continue;
    const auto attrs = sum.attrs.as<core::ReduceAttrs>();
    if (attrs.keep_dims != 0 || attrs.axes != (std::int64_t{1} << (rank - 1)) - 1) continue;
    Group group;
    group.name = "relu_grad+bias_grad";
    group.nodes = {node, consumer};
    group.roles = BiasReluGrad{.g = g,
                               .y = bits ? -1 : mask,
                               .mask = bits ? mask : -1,
                               .masked = masked,
                               .bias_grad = sum.outputs[0]};
    return group;
  }
  return std::nullopt;
}

/// dx = conv2d_grad_input(g, w) + other: the two gradients of a fork.
std::optional<Group> match_conv_grad_input_add(const Cover& cover, int node, Parts, NearMiss& miss) {
  const GraphNode& add = cover.graph.node(node);
  const int a = add.inputs[0], b = add.inputs[1];
  if (a == b || !same_shape(cover.graph, a, b)) return std::nullopt;
  const bool b_is_later = cover.graph.value(b).producer > cover.graph.value(a).producer;
  for (const int own : b_is_later ? std::array{b, a} : std::array{a, b}) {
    const GraphNode* conv = private_producer(cover, own, ops::conv2d_grad_input_op, miss);
    if (conv == nullptr) continue;
    Group group;
    group.name = "conv2d_grad_input+add";
    group.nodes = {id_of(cover, *conv), node};
    Convolution roles = convolution_of(*conv, group.nodes[0]);
    roles.z = own == a ? b : a;
    roles.x = add.outputs[0];
    group.roles = roles;
    miss = {};
    return group;
  }
  return std::nullopt;
}

/// A bf16 convolution's weight gradient, wanted as f32 (by an update of f32 weights).
std::optional<Group> match_conv_grad_weight_cast(const Cover& cover, int node, Parts, NearMiss& miss) {
  const GraphNode& cast = cover.graph.node(node);
  const DType narrow = cover.graph.value(cast.inputs[0]).dtype,
              wide = cover.graph.value(cast.outputs[0]).dtype;
  if (narrow != DType::bf16 || wide != DType::f32) return std::nullopt;
  const GraphNode* conv = private_producer(cover, cast.inputs[0], ops::conv2d_grad_weight_op, miss);
  if (conv == nullptr) return std::nullopt;
  Group group;
  group.name = "conv2d_grad_weight+cast";
  group.nodes = {id_of(cover, *conv), node};
  Convolution roles = convolution_of(*conv, group.nodes[0]);
  roles.w = cast.outputs[0];
  group.roles = roles;
  return group;
}

}  // namespace fusetape::plan
