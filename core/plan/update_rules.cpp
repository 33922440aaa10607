#include <algorithm>

#include "core/plan/match.hpp"

/// All updates of a step in one kernel.
namespace fusetape::plan {
namespace {

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

}  // namespace

std::optional<Group> match_sgd(const Cover& cover, int node, NearMiss&) {
  static constexpr int scalars[] = {2, 3, 5};
  return match_updates(cover, node, scalars);
}

std::optional<Group> match_adam(const Cover& cover, int node, NearMiss&) {
  static constexpr int scalars[] = {4, 5, 6, 7, 8, 9, 10};
  return match_updates(cover, node, scalars);
}

}  // namespace fusetape::plan
