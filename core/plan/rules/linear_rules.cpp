#include "core/op/op_attrs.hpp"
#include "core/op/op_list.hpp"
#include "core/plan/rules/match.hpp"

/// A matrix product with what follows it: bias, activation, a cast to f32; and max pooling's gradient.
namespace fusetape::plan {
namespace {

/// A group of the product that makes `value` for one reader only, with the bias in between where there is
/// one.
std::optional<Group> product_behind(const Cover& cover, int value, NearMiss& miss) {
  const GraphNode* bias = cover.graph.producer_if(value, ops::bias_add_op);
  if (bias != nullptr && !cover.free(id_of(cover, *bias))) return std::nullopt;
  const GraphNode* product = bias != nullptr ? private_producer(cover, bias->inputs[0], ops::matmul_op, miss)
                                             : cover.graph.producer_if(value, ops::matmul_op);
  if (product == nullptr || !cover.free(id_of(cover, *product))) return std::nullopt;
  Group group;
  group.name = bias != nullptr ? "matmul+bias" : "matmul";
  group.nodes.push_back(id_of(cover, *product));
  if (bias != nullptr) group.nodes.push_back(id_of(cover, *bias));
  group.roles = MatrixProduct{.node = group.nodes[0],
                              .a = product->inputs[0],
                              .b = product->inputs[1],
                              .bias = bias != nullptr ? bias->inputs[1] : -1,
                              .y = value};
  return group;
}

}  // namespace

/// y = activation(matmul(a, b) [+ bias]). What the activation reads becomes one more output where somebody
/// else wants it, as GELU's gradient does.
std::optional<Group> match_linear_activation(const Cover& cover, int node, Parts, NearMiss& miss) {
  const GraphNode& last = cover.graph.node(node);
  const int before = last.inputs[0];
  std::optional<Group> group = product_behind(cover, before, miss);
  if (!group) return std::nullopt;
  group->name += "+" + std::string(last.op->name);
  group->nodes.push_back(node);
  auto& product = std::get<MatrixProduct>(group->roles);
  product.activation = last.op;
  product.y = last.outputs[0];
  const GraphValue& value = cover.graph.value(before);
  if (value.keep || value.consumers.size() > 1) product.before_activation = before;
  return group;
}

/// y = matmul(a, b) + bias
std::optional<Group> match_linear_bias(const Cover& cover, int node, Parts, NearMiss& miss) {
  return product_behind(cover, cover.graph.node(node).outputs[0], miss);
}

/// A 16-bit product that only its conversion to f32 reads, as weight gradients are: rounded to f32 at once.
std::optional<Group> match_matmul_cast(const Cover& cover, int node, Parts, NearMiss& miss) {
  const GraphNode& cast = cover.graph.node(node);
  const int y = cast.outputs[0];
  if (cover.graph.value(y).dtype != DType::f32) return std::nullopt;
  if (size_of(cover.graph.value(cast.inputs[0]).dtype) != 2) return std::nullopt;
  const GraphNode* product = private_producer(cover, cast.inputs[0], ops::matmul_op, miss);
  if (product == nullptr) return std::nullopt;
  Group group;
  group.name = "matmul+cast";
  group.nodes = {id_of(cover, *product), node};
  group.roles =
      MatrixProduct{.node = group.nodes[0], .a = product->inputs[0], .b = product->inputs[1], .y = y};
  return group;
}

/// dx = max_pool2d_grad(g, index)·[!(y ≤ 0)]: max pooling behind a ReLU.
std::optional<Group> match_max_pool_relu_gradient(const Cover& cover, int node, Parts, NearMiss& miss) {
  const GraphNode& mask = cover.graph.node(node);
  const GraphNode* pool = private_producer(cover, mask.inputs[0], ops::max_pool2d_grad_op, miss);
  if (pool == nullptr) return std::nullopt;
  Group group;
  group.name = "max_pool2d_grad+relu_grad";
  group.nodes = {id_of(cover, *pool), node};
  group.roles = MaxPoolGrad{.node = group.nodes[0],
                            .g = pool->inputs[0],
                            .index = pool->inputs[1],
                            .y = mask.inputs[1],
                            .dx = mask.outputs[0]};
  return group;
}

}  // namespace fusetape::plan
