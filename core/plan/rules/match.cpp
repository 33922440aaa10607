#include "core/plan/rules/match.hpp"

#include <algorithm>

namespace fusetape::plan {
namespace {

/// "bias_add, sum": in recorded order.
std::string readers_of(const Graph& graph, int value) {
  std::string names;
  for (int reader : graph.value(value).consumers)
    names += (names.empty() ? "" : ", ") + std::string(graph.node(reader).op->name);
  return names;
}

}  // namespace

/// The free node that makes `value` for this one reader only; nullptr otherwise. A value that somebody can
/// name is a near miss.
const GraphNode* private_producer(const Cover& cover, int value, const core::OpDef& op, NearMiss& miss) {
  const GraphNode* node = cover.graph.producer_if(value, op);
  if (node == nullptr || !cover.free(cover.graph.value(value).producer)) return nullptr;
  if (cover.graph.value(value).keep) {
    miss = {"the output of " + std::string(op.name) + " is kept by a live handle", value};
    return nullptr;
  }
  if (cover.graph.value(value).consumers.size() != 1) {
    miss = {"the output of " + std::string(op.name) +
                " has another reader: " + readers_of(cover.graph, value) + " read it",
            value};
    return nullptr;
  }
  return node;
}

NearMiss broadcast_operand(const Graph& graph, int operand, int outside) {
  return {"an operand of shape " + to_string(graph.value(operand).shape) + " is broadcast", operand, outside};
}

const GraphNode* free_producer(const Cover& cover, int value, const core::OpDef& op) {
  const GraphNode* node = cover.graph.producer_if(value, op);
  return node != nullptr && cover.free(cover.graph.value(value).producer) ? node : nullptr;
}

int id_of(const Cover& cover, const GraphNode& node) {
  return static_cast<int>(&node - cover.graph.nodes.data());
}

bool same_shape(const Graph& graph, int a, int b) { return graph.value(a).shape == graph.value(b).shape; }

void take_numbers(const GraphNode& node, int (&numbers)[2]) {
  std::copy(node.inputs.end() - node.op->numbers, node.inputs.end(), numbers);
}

int only_if_used(const Graph& graph, int value) {
  return graph.value(value).keep || !graph.value(value).consumers.empty() ? value : -1;
}

}  // namespace fusetape::plan
