#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/plan/rules/group.hpp"

/// Groups of pointwise nodes, as every device sees them.
namespace fusetape::backends {

/// How many of the node's inputs are elements; those behind them are numbers, f64 scalars.
std::size_t tensors_of(const plan::GraphNode& node);

/// Why these nodes cannot be computed as one, element by element in f32; empty: they can. The
/// reduction at the end of a chain is not looked at.
std::string refusal_of_nodes(const plan::Graph& graph, const plan::Group& group);

/// The shape of every pointwise node of the group.
const Shape& chain_shape(const plan::Graph& graph, const plan::Group& group);

/// A broadcast of any kind, by axes that are joined where that is possible: extents, and strides in elements
/// (0: repeated).
struct BroadcastView {
  int rank = 0;
  std::array<std::int64_t, Shape::max_rank> extent{}, stride{};
};
/// How `from` is read by broadcasting to `to`.
BroadcastView broadcast_view(const Shape& from, const Shape& to);

/// The group's inputs that nobody needs after it.
std::vector<int> dying_inputs(const plan::Graph& graph, const plan::Group& group);

}  // namespace fusetape::backends
