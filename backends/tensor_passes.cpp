#include "backends/tensor_passes.hpp"
#include "core/op_list.hpp"

#include <algorithm>
#include <iterator>

namespace fusetape::backends {
namespace {

using plan::Graph;
using plan::GraphNode;
using plan::Group;
using plan::Pattern;

double count_whole(const Graph& graph, const std::vector<int>& inputs, const std::vector<int>& outputs) {
  std::int64_t largest = 0;
  for (int id : inputs) largest = std::max(largest, graph.value(id).elements());
  for (int id : outputs) largest = std::max(largest, graph.value(id).elements());
  const auto whole = [&](int id) {
    return graph.value(id).shape.rank() >= 2 || graph.value(id).elements() == largest;
  };
  return static_cast<double>(std::count_if(inputs.begin(), inputs.end(), whole) +
                             std::count_if(outputs.begin(), outputs.end(), whole));
}

/// A mask of bits is no whole tensor.
double passes_of(const plan::BatchNormRelu& roles) {
  const int outputs[] = {roles.y, roles.sum, roles.norm[0].normed, roles.norm[1].normed};
  return roles.norms * (roles.statistics == plan::Statistics::batch ? 2 : 1) + (roles.z >= 0 ? 1 : 0) +
         static_cast<double>(
             std::count_if(std::begin(outputs), std::end(outputs), [](int id) { return id >= 0; }));
}

/// Two passes: the sums, then dx. Where g' takes y to make, or is written anyway, the first leaves it for the
/// second.
double passes_of(const plan::BatchNormReluGrad& roles) {
  const int incoming = roles.g2 >= 0 ? 2 : 1;
  if (roles.y < 0 && roles.masked < 0) return 2 * (incoming + roles.norms) + roles.norms;
  const int first = incoming + (roles.y >= 0 ? 1 : 0) + roles.norms + 1;
  return first + 1 + 2 * roles.norms;
}

}  // namespace

double tensor_passes(const Graph& graph, const GraphNode& node) {
  if (node.is(ops::grad_norm_op)) return 1;  // over all gradients, as an update's are over all parameters
  return count_whole(graph, node.inputs, node.outputs) + node.op->extra_passes;
}

double tensor_passes(const Graph& graph, const Group& group) {
  switch (group.pattern) {
    case Pattern::single:
      return tensor_passes(graph, graph.node(group.nodes[0]));
    case Pattern::pointwise:
    case Pattern::matrix_product:
    case Pattern::max_pool_relu_grad:
      return count_whole(graph, group.inputs, group.outputs);
    case Pattern::convolution:
      return group.conv.z >= 0 ? 3 : 2;
    case Pattern::carried:  // beside the weights, or their gradient
      return count_whole(graph, group.inputs, group.outputs) - 1;
    case Pattern::conv_grad_input_add:
      return 3;
    case Pattern::conv_grad_weight_cast:
      return 2;
    case Pattern::conv_siblings:
    case Pattern::conv_grad_weight_siblings:
    case Pattern::conv_grad_input_siblings:
      return 1 + static_cast<double>(group.conv_siblings.members.size());
    case Pattern::bias_relu_grad:
      return group.bias_grad.y >= 0 ? 3 : 2;
    case Pattern::batch_norm_relu:
      return passes_of(group.norm);
    case Pattern::batch_norm_relu_grad:
      return passes_of(group.norm_grad);
    case Pattern::optimizer:
      return tensor_passes(graph, graph.node(group.nodes.back()));
  }
  return 0;
}

std::int64_t bytes_moved(const Graph& graph, const std::vector<int>& inputs, const std::vector<int>& outputs,
                         double passes) {
  std::int64_t once = 0, largest = 0;
  for (const std::vector<int>* values : {&inputs, &outputs}) {
    for (int id : *values) {
      once += graph.value(id).bytes();
      largest = std::max(largest, graph.value(id).bytes());
    }
  }
  const double again = std::max(0.0, passes - count_whole(graph, inputs, outputs));
  return once + static_cast<std::int64_t>(again * static_cast<double>(largest));
}

}  // namespace fusetape::backends
