#include "backends/cpu/pointwise/pointwise.hpp"

/// Which nodes programs are made of, and how they see their operands.
namespace fusetape::backends::cpu::pointwise {

using plan::Graph;
using plan::Group;

namespace {

// What one node can need at most: its operands, its result and that rounded.
constexpr int blocks_of_node = 5;

}  // namespace

std::string pointwise_refusal(const Graph& graph, const Group& group) {
  std::string reason = refusal_of_nodes(graph, group);
  if (!reason.empty()) return reason;
  if (group.nodes.size() * blocks_of_node <= most_blocks) return {};
  const int blocks = compile_pointwise(graph, group).blocks;
  if (blocks <= most_blocks) return {};
  return std::to_string(blocks) + " temporaries at once, " + std::to_string(most_blocks) +
         " fit the L1 cache";
}

}  // namespace fusetape::backends::cpu::pointwise
