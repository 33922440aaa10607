#include <algorithm>
#include <map>
#include <set>

#include "core/plan/report/report_format.hpp"

/// Report::require_fused: a plan as a test's expectation.
namespace fusetape {
namespace {

/// "relu_grad+batch_norm_grad, mask from x" is the ops relu_grad and batch_norm_grad.
std::set<std::string> ops_of(std::string_view name) {
  name = name.substr(0, name.find(','));
  std::set<std::string> ops;
  while (!name.empty()) {
    const std::size_t end = std::min(name.find('+'), name.size());
    ops.emplace(name.substr(0, end));
    name.remove_prefix(std::min(end + 1, name.size()));
  }
  return ops;
}

/// A rule makes groups of several names: each has the rule's ops, some of them twice, or leaves some out.
bool concerns(const RefusalReport& refusal, std::string_view name) {
  if (!refusal.group.empty()) return refusal.group == name || refusal.rule == name;
  const std::set<std::string> wanted = ops_of(name), tried = ops_of(refusal.rule);
  return std::includes(wanted.begin(), wanted.end(), tried.begin(), tried.end()) ||
         std::includes(tried.begin(), tried.end(), wanted.begin(), wanted.end());
}

/// Whether the ops of `name`, more than one, stand one after the other in `ops`.
bool has_in_a_row(const std::string& ops, std::string_view name) {
  return name.find('+') != std::string_view::npos &&
         ("+" + ops + "+").find("+" + std::string(name) + "+") != std::string::npos;
}

std::string groups_that_there_are(const std::vector<GroupReport>& groups) {
  std::map<std::string, int> counts;
  for (const GroupReport& group : groups) ++counts[group.name];
  std::string text;
  for (const auto& [name, count] : counts)
    text += (text.empty() ? "" : ", ") + std::to_string(count) + " × " + name;
  return text.empty() ? "none" : text;
}

}  // namespace

void Report::require_fused(std::string_view name, int at_least, Location at) const {
  const auto found = std::count_if(groups.begin(), groups.end(), [&](const GroupReport& group) {
    return !group.rule.empty() && (group.name == name || has_in_a_row(group.recorded, name));
  });
  if (found >= at_least) return;
  std::vector<RefusalReport> near;
  std::copy_if(refusals.begin(), refusals.end(), std::back_inserter(near),
               [&](const RefusalReport& refusal) { return concerns(refusal, name); });
  std::string what = "expected at least " + std::to_string(at_least) + " × " + std::string(name) + ", got " +
                     std::to_string(found);
  for (const plan::CountedRefusal& refusal : plan::count_refusals(near)) {
    what += "\n  not fused: " + plan::describe(refusal);
  }
  if (near.empty()) what += "; nothing came near; the groups are " + groups_that_there_are(groups);
  throw Error("require_fused", what, at);
}

}  // namespace fusetape
