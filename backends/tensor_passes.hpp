#pragma once
#include "core/plan/graph.hpp"

/// How often a kernel reads or writes a whole tensor, counted on the graph: what explain() shows for kernels
/// that nobody measured.
namespace fusetape::backends {

/// Of one node, run alone. Vectors and scalars beside larger operands do not count, nor do a convolution's
/// weights.
double tensor_passes(const plan::Graph& graph, const plan::GraphNode& node);
/// Of a group as one fused kernel.
double tensor_passes(const plan::Graph& graph, const plan::Group& group);
/// What a kernel of so many passes moves: every operand once, and what it passes over again at the size of
/// its largest.
std::int64_t bytes_moved(const plan::Graph& graph, const std::vector<int>& inputs,
                         const std::vector<int>& outputs, double passes);

}  // namespace fusetape::backends
