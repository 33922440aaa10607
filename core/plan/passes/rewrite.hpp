#pragma once
#include <utility>
#include <vector>

#include "core/plan/graph.hpp"

/// New nodes for a graph whose nodes stand in an order that means something.
namespace fusetape::plan {

class Rewrite {
 public:
  explicit Rewrite(Graph& graph) : graph_(graph) {}

  /// A value like `like` that a node still to be inserted will make.
  int new_value(const Shape& shape, DType dtype);
  /// The node takes its place before node `before`, after those inserted there earlier.
  void insert(int before, GraphNode node);
  /// Puts the nodes in; renumbers nodes (not values), and finds producers and consumers anew.
  void apply();

 private:
  Graph& graph_;
  std::vector<std::pair<int, GraphNode>> insertions_;
};

}  // namespace fusetape::plan
