#include <algorithm>

#include "core/op_attrs.hpp"
#include "core/plan/match.hpp"

/// A convolution's epilogue, and the first pass of its backward.
namespace fusetape::plan {

/// y = relu(conv(x, w) + b), with or without the bias.
std::optional<Group> match_conv_bias_relu(const Cover& cover, int node, NearMiss& miss) {
  const GraphNode& relu = cover.graph.node(node);
  const GraphNode* bias = private_producer(cover, relu.inputs[0], "bias_add", miss);
  const GraphNode* conv =
      private_producer(cover, bias != nullptr ? bias->inputs[0] : relu.inputs[0], "conv2d", miss);
  if (conv == nullptr) {
    const bool near = made_by(cover.graph, relu.inputs[0], {"bias_add", "conv2d"}) ||
                      made_by(cover.graph, relu.inputs[0], {"conv2d"});
    if (!near) miss = {};
    return std::nullopt;
  }
  Group group;
  group.pattern = Pattern::convolution;
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
std::optional<Group> match_conv_bias(const Cover& cover, int node, NearMiss& miss) {
  const GraphNode& bias = cover.graph.node(node);
  const GraphNode* conv = private_producer(cover, bias.inputs[0], "conv2d", miss);
  if (conv == nullptr) return std::nullopt;
  Group group;
  group.pattern = Pattern::convolution;
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

/// g' = g·[!(y ≤ 0)] and db = Σ g' over all but the last axis, for the convolution's (or linear layer's) own
/// gradients.
std::optional<Group> match_bias_relu_gradient(const Cover& cover, int node, NearMiss&) {
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

/// A bf16 convolution's weight gradient, wanted as f32 (by an update of f32 weights).
std::optional<Group> match_conv_grad_weight_cast(const Cover& cover, int node, NearMiss& miss) {
  const GraphNode& cast = cover.graph.node(node);
  const DType narrow = cover.graph.value(cast.inputs[0]).dtype,
              wide = cover.graph.value(cast.outputs[0]).dtype;
  if (narrow != DType::bf16 || wide != DType::f32) return std::nullopt;
  const GraphNode* conv = private_producer(cover, cast.inputs[0], "conv2d_grad_weight", miss);
  if (conv == nullptr) return std::nullopt;
  Group group;
  group.pattern = Pattern::conv_grad_weight_cast;
  group.name = "conv2d_grad_weight+cast";
  group.nodes = {id_of(cover, *conv), node};
  group.conv_grad_cast = {
      .x = conv->inputs[0], .g = conv->inputs[1], .dw = cast.outputs[0], .conv_node = group.nodes[0]};
  return group;
}

}  // namespace fusetape::plan
