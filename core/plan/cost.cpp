#include "core/plan/cost.hpp"

#include <algorithm>

#include "core/inline_vector.hpp"

namespace fusetape::plan {

double seconds_of(const Graph& graph, const GraphNode& node, const backends::Speed& speed) {
  if (node.dead || node.op->view) return 0;
  core::InlineVector<core::TensorInfo, 12> in;
  core::InlineVector<core::TensorInfo, 6> out;
  double bytes = 0;
  for (int id : node.inputs) {
    in.push_back({graph.value(id).shape, graph.value(id).dtype});
    bytes += static_cast<double>(graph.value(id).bytes());
  }
  for (int id : node.outputs) {
    out.push_back({graph.value(id).shape, graph.value(id).dtype});
    bytes += static_cast<double>(graph.value(id).bytes());
  }
  const double flops = node.op->flops != nullptr
                           ? node.op->flops({in.begin(), in.size()}, {out.begin(), out.size()}, node.attrs)
                           : 0;
  const bool halves = !in.empty() && size_of(in[0].dtype) == 2;
  return std::max(flops / (halves ? speed.half_flops : speed.flops), bytes / speed.bytes);
}

double seconds_of(const Graph& graph, const backends::Speed& speed) {
  double seconds = 0;
  for (const GraphNode& node : graph.nodes) seconds += seconds_of(graph, node, speed);
  return seconds;
}

}  // namespace fusetape::plan
