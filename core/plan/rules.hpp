#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/plan/graph.hpp"

/// The fusion table: what may fuse. Whether a device can run it is the backend's word (`Backend::supports`).
namespace fusetape::plan {

/// Which nodes are taken already: a rule may only use free ones.
struct Cover {
  const Graph& graph;
  const std::vector<int>& group_of;  ///< by node; -1: free
  bool free(int node) const { return group_of[static_cast<std::size_t>(node)] < 0; }
};

struct Rule {
  std::string_view name;
  /// The op at which the rule is tried.
  std::string_view anchor;
  /// Fills pattern, name, nodes and roles. nullopt with `why` set: a near miss, worth telling; with `why`
  /// empty: no match at all.
  std::optional<Group> (*match)(const Cover& cover, int node, std::string& why);
};

/// In order: the first rule that matches and is supported takes the nodes.
std::span<const Rule> fusion_rules();

}  // namespace fusetape::plan
