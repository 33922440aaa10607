#pragma once
#include "core/plan/backend.hpp"
#include "core/plan/graph.hpp"

/// Estimates of time, for choices between plans: arithmetic at the device's peak or bytes at its bandwidth,
/// whichever takes longer.
namespace fusetape::plan {

/// Two for every multiply-add of a convolution or matrix product, computed directly; 0 of other ops.
double flops_of(const Graph& graph, const GraphNode& node);

/// Of one node run alone, in seconds.
double seconds_of(const Graph& graph, const GraphNode& node, const Speed& speed);
/// Of all living nodes.
double seconds_of(const Graph& graph, const Speed& speed);

}  // namespace fusetape::plan
