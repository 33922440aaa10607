#pragma once
#include <string>
#include <vector>

#include "core/plan/rules/rules.hpp"
#include "fusetape/report.hpp"

namespace fusetape::plan {

/// What rules nearly made. Whether it is worth telling shows only when every node has its group.
class Refusals {
 public:
  void note(const Rule& rule, int anchor, NearMiss miss);
  /// `group` matched and cannot be.
  void note(const Rule& rule, int anchor, const Group& group, std::string reason);

  /// Those whose nodes stayed apart: a later rule may have taken them after all.
  std::vector<RefusalReport> report(const Graph& graph, const std::vector<int>& group_of) const;

 private:
  struct Refusal {
    std::string_view rule;
    std::string group, reason;
    int anchor = -1;
    int value = -1;
    std::vector<int> nodes;  ///< that the anchor wanted beside itself
  };
  std::vector<Refusal> noted_;
};

}  // namespace fusetape::plan
