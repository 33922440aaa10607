#pragma once
#include <functional>
#include <utility>
#include <vector>

#include "core/plan/graph.hpp"

namespace fusetape::plan {

/// Inputs of a slice, as Graph::inputs counts them: the first of a pair holds the same number as the second.
using EqualInputs = std::vector<std::pair<int, int>>;

/// Lets one input stand for all scalars that are equal and are first read at the same place of the same op,
/// so that nodes whose options are equal are equal nodes. `same`: whether two inputs hold the same number.
/// Returns what the plan then relies on.
EqualInputs share_equal_numbers(Graph& graph, const std::function<bool(int, int)>& same);

}  // namespace fusetape::plan
