#include "core/plan/passes/numbers.hpp"

#include <algorithm>
#include <map>
#include <unordered_map>

namespace fusetape::plan {
namespace {

/// An op and its operand.
using Place = std::pair<const OpDef*, std::size_t>;

std::unordered_map<int, Place> first_places(const Graph& graph) {
  std::unordered_map<int, Place> places;
  for (const GraphNode& node : graph.nodes) {
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      if (graph.value(node.inputs[i]).scalar) places.emplace(node.inputs[i], Place{node.op, i});
    }
  }
  return places;
}

}  // namespace

EqualInputs share_equal_numbers(Graph& graph, const std::function<bool(int, int)>& same) {
  EqualInputs equal;
  std::unordered_map<int, int> replaced;
  std::map<Place, std::vector<int>> known;  // by place, an input of each number
  const std::unordered_map<int, Place> places = first_places(graph);
  for (int i = 0; i < static_cast<int>(graph.inputs.size()); ++i) {
    const int value = graph.inputs[static_cast<std::size_t>(i)];
    const auto place = places.find(value);
    if (place == places.end()) continue;
    std::vector<int>& others = known[place->second];
    const auto twin = std::find_if(others.begin(), others.end(), [&](int other) { return same(i, other); });
    if (twin == others.end()) {
      others.push_back(i);
      continue;
    }
    equal.emplace_back(i, *twin);
    replaced.emplace(value, graph.inputs[static_cast<std::size_t>(*twin)]);
  }
  for (GraphNode& node : graph.nodes) {
    for (int& input : node.inputs) {
      const auto found = replaced.find(input);
      if (found != replaced.end()) input = found->second;
    }
  }
  return equal;
}

}  // namespace fusetape::plan
