#include "core/plan/passes/rewrite.hpp"

#include <algorithm>

#include "core/plan/passes/passes.hpp"

namespace fusetape::plan {

int Rewrite::new_value(const Shape& shape, DType dtype) {
  graph_.values.push_back({.shape = shape, .dtype = dtype});
  return static_cast<int>(graph_.values.size()) - 1;
}

void Rewrite::insert(int before, GraphNode node) { insertions_.emplace_back(before, std::move(node)); }

void Rewrite::apply() {
  if (insertions_.empty()) return;
  std::stable_sort(insertions_.begin(), insertions_.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<GraphNode> nodes;
  nodes.reserve(graph_.nodes.size() + insertions_.size());
  auto next = insertions_.begin();
  for (std::size_t n = 0; n <= graph_.nodes.size(); ++n) {
    for (; next != insertions_.end() && next->first == static_cast<int>(n); ++next)
      nodes.push_back(std::move(next->second));
    if (n < graph_.nodes.size()) nodes.push_back(std::move(graph_.nodes[n]));
  }
  insertions_.clear();
  graph_.nodes = std::move(nodes);
  for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
    const GraphNode& node = graph_.nodes[n];
    for (std::size_t i = 0; i < node.outputs.size(); ++i) {
      GraphValue& value = graph_.values[static_cast<std::size_t>(node.outputs[i])];
      value.producer = static_cast<int>(n);
      value.output = static_cast<int>(i);
    }
  }
  find_consumers(graph_);
}

}  // namespace fusetape::plan
