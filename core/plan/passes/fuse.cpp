#include <algorithm>
#include <queue>
#include <tuple>

#include "core/check.hpp"
#include "core/plan/passes/passes.hpp"
#include "core/plan/rules/refusals.hpp"

namespace fusetape::plan {
namespace {

class Fuser {
 public:
  Fuser(const Graph& graph, const Backend& backend)
      : graph_(graph), backend_(backend), group_of_(graph.nodes.size(), -1), reach_(graph.nodes.size(), 0) {}

  void apply_rules(RuleSet rules) {
    const std::span<const Rule> table = fusion_rules();
    for (std::size_t r = 0; r < table.size(); ++r) {
      const Rule& rule = table[r];
      if (rule.match == nullptr || (rules >> r & 1) == 0) continue;
      for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
        const GraphNode& node = graph_.nodes[n];
        if (node.dead || !rule.anchor.fits(*node.op) || group_of_[n] >= 0) continue;
        NearMiss miss;
        std::optional<Group> group = rule.match({graph_, group_of_}, static_cast<int>(n), rule.parts, miss);
        if (!group.has_value()) {
          if (!miss.reason.empty()) refusals_.note(rule, static_cast<int>(n), std::move(miss));
          continue;
        }
        group->rule = rule.name;
        if (std::string reason = refusal(*group); !reason.empty()) {
          if ((rule.parts & with::pair) != 0) continue;
          refusals_.note(rule, static_cast<int>(n), *group, std::move(reason));
        } else {
          take(std::move(*group));
          // A larger group was near, perhaps.
          if (!miss.reason.empty()) refusals_.note(rule, static_cast<int>(n), std::move(miss));
        }
      }
    }
  }

  void chain_pointwise() {
    for (Group& chain : find_chains(graph_, backend_, groups_, group_of_, refusals_)) take(std::move(chain));
  }

  void cover_rest() {
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
      const GraphNode& node = graph_.nodes[n];
      if (node.dead || node.op->view || group_of_[n] >= 0) continue;
      take(single_group(graph_, static_cast<int>(n)));
    }
  }

  std::vector<RefusalReport> refusals() const { return refusals_.report(graph_, group_of_); }
  std::vector<Group> groups() && { return std::move(groups_); }

 private:
  /// Why the group cannot be; empty: it can.
  std::string refusal(Group& group) {
    close_group(graph_, group);
    if (leads_back(group)) return "another op between its members needs one of them first";
    const Support support = backend_.supports(graph_, group);
    return support.ok ? std::string() : support.reason;
  }

  void take(Group group) {
    const int id = static_cast<int>(groups_.size());
    for (int node : group.nodes) group_of_[static_cast<std::size_t>(node)] = id;
    const int last = group.nodes.back();
    for (int n = group.nodes.front(); n < last; ++n) {
      int& reach = reach_[static_cast<std::size_t>(n)];
      reach = std::max(reach, last);
    }
    groups_.push_back(std::move(group));
  }

  /// Whether a path leaves the group and comes back: then its members cannot run as one. Paths run through
  /// whole groups, since those run as one, too. Edges lead to later nodes, so a path beyond the last member
  /// is lost, unless a group with members on both sides can bring it back.
  bool leads_back(const Group& group) {
    ++epoch_;
    last_ = group.nodes.back();
    while (reach_[static_cast<std::size_t>(last_)] > last_) last_ = reach_[static_cast<std::size_t>(last_)];
    group_seen_.resize(groups_.size(), 0);
    node_seen_.resize(graph_.nodes.size(), 0);
    in_group_.resize(graph_.nodes.size(), 0);
    for (int node : group.nodes) in_group_[static_cast<std::size_t>(node)] = epoch_;
    std::vector<int> stack;
    for (int node : group.nodes) push_readers(node, false, stack);
    while (!stack.empty()) {
      const int node = stack.back();
      stack.pop_back();
      if (in_group_[static_cast<std::size_t>(node)] == epoch_) return true;
      const int other = group_of_[static_cast<std::size_t>(node)];
      if (other < 0) {
        if (std::exchange(node_seen_[static_cast<std::size_t>(node)], epoch_) != epoch_)
          push_readers(node, true, stack);
      } else if (std::exchange(group_seen_[static_cast<std::size_t>(other)], epoch_) != epoch_) {
        for (int member : groups_[static_cast<std::size_t>(other)].nodes) push_readers(member, true, stack);
      }
    }
    return false;
  }

  void push_readers(int node, bool outside, std::vector<int>& stack) const {
    for (int output : graph_.node(node).outputs) {
      for (int reader : graph_.value(output).consumers) {
        if (reader > last_) continue;
        if (outside || in_group_[static_cast<std::size_t>(reader)] != epoch_) stack.push_back(reader);
      }
    }
  }

  const Graph& graph_;
  const Backend& backend_;
  Refusals refusals_;
  std::vector<int> group_of_;
  std::vector<Group> groups_;
  std::vector<int> reach_;  ///< by node: the last member of all groups with members up to it and after it
  // Scratch of leads_back: marked with the number of the search.
  std::uint32_t epoch_ = 0;
  int last_ = 0;
  std::vector<std::uint32_t> group_seen_, node_seen_, in_group_;
};

}  // namespace

std::vector<Group> fuse(const Graph& graph, const Backend& backend, RuleSet rules,
                        std::vector<RefusalReport>& refusals) {
  Fuser fuser(graph, backend);
  fuser.apply_rules(rules);
  if (has_rule(rules, "pointwise")) fuser.chain_pointwise();
  fuser.cover_rest();
  refusals = fuser.refusals();
  return std::move(fuser).groups();
}

void leave_unread_unwritten(Graph& graph, std::vector<Group>& groups) {
  bool any = false;
  for (const Group& group : groups) {
    const NormRoles* const again = mask_norm(group);
    if (again == nullptr) continue;
    for (int id : group.nodes) {
      GraphNode& node = graph.nodes[static_cast<std::size_t>(id)];
      if (node.op->gradient_of == nullptr) continue;
      node.inputs[1] = again->x;
      any = true;
    }
  }
  if (!any) return;
  drop_dead_nodes(graph);
  find_consumers(graph);
  for (Group& group : groups) {
    std::erase_if(group.nodes, [&](int id) { return graph.node(id).dead; });
    close_group(graph, group);
  }
  std::erase_if(groups, [](const Group& group) { return group.nodes.empty(); });
}

void schedule(const Graph& graph, std::vector<Group>& groups) {
  // Kahn's algorithm; among the ready groups the one whose last op was recorded first, updates after all
  // else.
  std::vector<int> group_of(graph.nodes.size(), -1);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (int node : groups[g].nodes) group_of[static_cast<std::size_t>(node)] = static_cast<int>(g);
  }
  std::vector<std::vector<int>> readers(groups.size());
  std::vector<int> waits_for(groups.size(), 0);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (int input : groups[g].inputs) {
      const int producer = graph.value(root_of(graph, input)).producer;
      if (producer < 0) continue;
      readers[static_cast<std::size_t>(group_of[static_cast<std::size_t>(producer)])].push_back(
          static_cast<int>(g));
      ++waits_for[g];
    }
  }
  using Ready = std::tuple<bool, int, int>;  // an update, last node, group
  std::priority_queue<Ready, std::vector<Ready>, std::greater<>> ready;
  const auto enqueue = [&](int g) {
    const int last = groups[static_cast<std::size_t>(g)].nodes.back();
    ready.emplace(graph.node(last).phase == Phase::update, last, g);
  };
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (waits_for[g] == 0) enqueue(static_cast<int>(g));
  }
  std::vector<Group> ordered;
  ordered.reserve(groups.size());
  while (!ready.empty()) {
    const auto g = static_cast<std::size_t>(std::get<2>(ready.top()));
    ready.pop();
    for (int reader : readers[g]) {
      if (--waits_for[static_cast<std::size_t>(reader)] == 0) enqueue(reader);
    }
    ordered.push_back(std::move(groups[g]));
  }
  FUSETAPE_ASSERT(ordered.size() == groups.size());
  groups = std::move(ordered);
}

}  // namespace fusetape::plan
