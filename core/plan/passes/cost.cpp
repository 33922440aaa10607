#include "core/plan/passes/cost.hpp"

#include <algorithm>

#include "core/tape/inline_vector.hpp"

namespace fusetape::plan {

double flops_of(const Graph& graph, const GraphNode& node) {
  if (node.op->flops == nullptr) return 0;
  core::InlineVector<core::TensorInfo, 12> in;
  core::InlineVector<core::TensorInfo, 6> out;
  for (int id : node.inputs) in.push_back({graph.value(id).shape, graph.value(id).dtype});
  for (int id : node.outputs) out.push_back({graph.value(id).shape, graph.value(id).dtype});
  return node.op->flops({in.begin(), in.size()}, {out.begin(), out.size()}, node.attrs);
}

double seconds_of(const Graph& graph, const GraphNode& node, const Speed& speed) {
  if (node.dead || node.op->view) return 0;
  double bytes = 0;
  for (int id : node.inputs) bytes += static_cast<double>(graph.value(id).bytes());
  for (int id : node.outputs) bytes += static_cast<double>(graph.value(id).bytes());
  const bool halves = !node.inputs.empty() && size_of(graph.value(node.inputs[0]).dtype) == 2;
  return std::max(flops_of(graph, node) / (halves ? speed.half_flops : speed.flops), bytes / speed.bytes);
}

double seconds_of(const Graph& graph, const Speed& speed) {
  double seconds = 0;
  for (const GraphNode& node : graph.nodes) seconds += seconds_of(graph, node, speed);
  return seconds;
}

}  // namespace fusetape::plan
