#include "core/plan/rules/refusals.hpp"

#include <algorithm>
#include <utility>

#include "core/plan/passes/passes.hpp"

namespace fusetape::plan {
namespace {

std::string module_of(const GraphNode& node) { return node.module_path != nullptr ? *node.module_path : ""; }

}  // namespace

void Refusals::note(const Rule& rule, int anchor, NearMiss miss) {
  Refusal& refusal = noted_.emplace_back();
  refusal.rule = rule.name;
  refusal.reason = std::move(miss.reason);
  refusal.anchor = anchor;
  refusal.value = miss.value;
  if (miss.outside >= 0) refusal.nodes.push_back(miss.outside);
}

void Refusals::note(const Rule& rule, int anchor, const Group& group, std::string reason) {
  noted_.push_back({.rule = rule.name,
                    .group = group.name,
                    .reason = std::move(reason),
                    .anchor = anchor,
                    .nodes = group.nodes});
}

std::vector<RefusalReport> Refusals::report(const Graph& graph, const std::vector<int>& group_of) const {
  std::vector<RefusalReport> out;
  for (const Refusal& refusal : noted_) {
    std::vector<int> wanted = refusal.nodes;
    const int producer = refusal.value >= 0 ? graph.value(refusal.value).producer : -1;
    if (wanted.empty() && producer >= 0) wanted.push_back(producer);
    const int group = group_of[static_cast<std::size_t>(refusal.anchor)];
    const bool together = !wanted.empty() && std::all_of(wanted.begin(), wanted.end(), [&](int node) {
      return group_of[static_cast<std::size_t>(node)] == group || graph.node(node).op->view;
    });
    if (together) continue;
    const GraphNode& anchor = graph.node(refusal.anchor);
    RefusalReport& told = out.emplace_back();
    told.rule = refusal.rule;
    told.group = refusal.group;
    told.reason = refusal.reason;
    told.source = place_of(anchor);
    told.module_path = module_of(anchor);
    if (producer >= 0) {
      told.value_source = place_of(graph.node(producer));
      told.value_module_path = module_of(graph.node(producer));
    }
  }
  return out;
}

}  // namespace fusetape::plan
