#include "backends/cpu/pointwise.hpp"
#include "backends/cpu/pointwise_ops.hpp"

/// Which nodes programs are made of, and how they see their operands.
namespace fusetape::backends::cpu {

using plan::Graph;
using plan::GraphNode;
using plan::Group;

namespace {

// What one node can need at most: its operands, its result and that rounded.
constexpr int blocks_of_node = 5;

}  // namespace

std::string pointwise_refusal(const Graph& graph, const Group& group, bool& foreign) {
  const Shape& shape = chain_shape(graph, group);
  foreign = false;
  for (const int id : group.nodes) {
    if (id == group.chain.reduction_node) continue;
    const GraphNode& node = graph.node(id);
    const std::string_view name = node.op->name;
    const PointwiseOp* op = find_pointwise_op(name);
    if (op == nullptr) {
      foreign = true;
      return std::string(name) + " is not pointwise";
    }
    const Shape& result = graph.value(node.outputs[0]).shape;
    if (!(result == shape))
      return std::string(name) + " has shape " + to_string(result) + ", not " + to_string(shape);
    std::string reason = refusal_of_dtypes(graph, node, op->elements);
    if (!reason.empty()) return reason;
  }
  if (group.nodes.size() * blocks_of_node <= most_blocks) return {};
  const int blocks = compile_pointwise(graph, group).blocks;
  if (blocks <= most_blocks) return {};
  return std::to_string(blocks) + " temporaries at once, " + std::to_string(most_blocks) +
         " fit the L1 cache";
}

}  // namespace fusetape::backends::cpu
