#include <algorithm>
#include <unordered_map>

#include "core/plan/passes/passes.hpp"

namespace fusetape::plan {
namespace {

std::size_t hash_of(const GraphNode& node) {
  std::size_t hash = std::hash<const void*>{}(node.op);
  const auto mix = [&](std::size_t word) { hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL; };
  for (int input : node.inputs) mix(static_cast<std::size_t>(input));
  for (std::int64_t word : node.attrs.words()) mix(static_cast<std::size_t>(word));
  return hash;
}

}  // namespace

void find_consumers(Graph& graph) {
  for (GraphValue& value : graph.values) value.consumers.clear();
  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    if (graph.nodes[n].dead) continue;
    for (int input : graph.nodes[n].inputs) {
      graph.values[static_cast<std::size_t>(input)].consumers.push_back(static_cast<int>(n));
    }
  }
}

/// Ops are functions of their inputs: random counters, running statistics and optimizer state are inputs too,
/// so equal nodes compute equal values. A node whose values somebody can name keeps its own.
void merge_equal_nodes(Graph& graph) {
  std::unordered_multimap<std::size_t, int> seen;
  std::vector<int> replaced_by(graph.values.size());
  for (std::size_t v = 0; v < replaced_by.size(); ++v) replaced_by[v] = static_cast<int>(v);

  for (std::size_t n = 0; n < graph.nodes.size(); ++n) {
    GraphNode& node = graph.nodes[n];
    for (int& input : node.inputs) input = replaced_by[static_cast<std::size_t>(input)];
    const bool kept = std::any_of(node.outputs.begin(), node.outputs.end(),
                                  [&](int output) { return graph.value(output).keep; });
    if (node.recomputed) continue;
    const std::size_t hash = hash_of(node);
    const auto [first, last] = seen.equal_range(hash);
    const auto twin = std::find_if(first, last, [&](const auto& entry) {
      const GraphNode& other = graph.node(entry.second);
      return other.op == node.op && other.inputs == node.inputs && other.attrs == node.attrs;
    });
    if (twin != last && !kept) {
      const GraphNode& other = graph.node(twin->second);
      for (std::size_t i = 0; i < node.outputs.size(); ++i) {
        replaced_by[static_cast<std::size_t>(node.outputs[i])] = other.outputs[i];
      }
      node.dead = true;
    } else {
      seen.emplace(hash, static_cast<int>(n));
    }
  }
}

void drop_dead_nodes(Graph& graph) {
  std::vector<int> readers(graph.values.size(), 0);
  for (const GraphNode& node : graph.nodes) {
    if (node.dead) continue;
    for (int input : node.inputs) ++readers[static_cast<std::size_t>(input)];
  }
  for (std::size_t n = graph.nodes.size(); n-- > 0;) {
    GraphNode& node = graph.nodes[n];
    if (node.dead) continue;
    const bool needed = std::any_of(node.outputs.begin(), node.outputs.end(), [&](int output) {
      return graph.value(output).keep || readers[static_cast<std::size_t>(output)] > 0;
    });
    if (needed) continue;
    node.dead = true;
    for (int input : node.inputs) --readers[static_cast<std::size_t>(input)];
  }
}

int root_of(const Graph& graph, int value) {
  while (graph.value(value).producer >= 0 && graph.node(graph.value(value).producer).op->view) {
    value = graph.node(graph.value(value).producer).inputs[0];
  }
  return value;
}

}  // namespace fusetape::plan
