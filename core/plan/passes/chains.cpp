#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "core/op/op_list.hpp"
#include "core/plan/passes/passes.hpp"
#include "core/plan/rules/refusals.hpp"

namespace fusetape::plan {
namespace {

// A longer chain is named by its first ops and its last.
constexpr std::size_t longest_name = 24;
constexpr std::size_t named_first = 8;

std::size_t index(int i) { return static_cast<std::size_t>(i); }

/// Pointwise chains in time proportional to the graph. A free pointwise node has a *kind*, its phase and
/// shape, and a *level*: how often a path to it has to change from one kind to another. Neighbours of one
/// kind and level run as one. An edge from one chain to another kernel then leads to a higher level (or,
/// between the pieces of a chain that was cut, to a later node), so none can wait for its own result, and no
/// path has to be searched for.
class Chains {
 public:
  Chains(const Graph& graph, const Backend& backend, const std::vector<Group>& groups,
         const std::vector<int>& group_of, Refusals& refusals)
      : graph_(graph),
        backend_(backend),
        groups_(groups),
        group_of_(group_of),
        refusals_(refusals),
        nodes_(static_cast<int>(graph.nodes.size())),
        kind_(graph.nodes.size(), no_kind),
        level_(graph.nodes.size() + groups.size(), 0) {}

  std::vector<Group> find() {
    find_kinds();
    find_levels();
    wait_for_late_readers();
    std::vector<bool> seen(graph_.nodes.size(), false);
    for (int n = 0; n < nodes_; ++n) {
      if (kind_[index(n)] != no_kind && !seen[index(n)]) cut(neighbourhood(n, seen));
    }
    return std::move(chains_);
  }

 private:
  static constexpr int no_kind = -1;

  // ---- kinds ----

  void find_kinds() {
    std::map<std::vector<std::int64_t>, int> known;
    std::vector<int> wanted(graph_.nodes.size(), no_kind);
    std::vector<std::pair<int, std::string>> refused;
    for (int n = 0; n < nodes_; ++n) {
      const GraphNode& node = graph_.node(n);
      if (node.dead || node.op->view || node.op->pointwise == nullptr || group_of_[index(n)] >= 0) continue;
      const Shape& shape = graph_.value(node.outputs[0]).shape;
      std::vector<std::int64_t> key(shape.begin(), shape.end());
      key.push_back(static_cast<std::int64_t>(node.phase));
      wanted[index(n)] = known.emplace(std::move(key), static_cast<int>(known.size())).first->second;
      Group alone = chain_of({n});
      std::string reason = refusal(alone);
      if (reason.empty()) {
        kind_[index(n)] = wanted[index(n)];
      } else {
        refused.emplace_back(n, std::move(reason));
      }
    }
    for (const auto& [node, reason] : refused) {
      if (has_neighbour(node, wanted)) note_refusal(node, reason);
    }
  }

  /// Whether a chain would have gone through this node.
  bool has_neighbour(int id, const std::vector<int>& kind) const {
    const auto same = [&](int other) { return other >= 0 && kind[index(other)] == kind[index(id)]; };
    const GraphNode& node = graph_.node(id);
    const std::vector<int>& readers = graph_.value(node.outputs[0]).consumers;
    return std::any_of(readers.begin(), readers.end(), same) ||
           std::any_of(node.inputs.begin(), node.inputs.end(),
                       [&](int input) { return same(graph_.value(input).producer); });
  }

  bool same_kind(int a, int b) const {
    return kind_[index(a)] != no_kind && kind_[index(a)] == kind_[index(b)];
  }

  // ---- levels ----

  /// What runs as one already counts as one: a free node, or a whole group that a rule made.
  int unit_of(int node) const {
    const int group = group_of_[index(node)];
    return group < 0 ? node : nodes_ + group;
  }
  std::span<const int> members(const int& unit) const {
    if (unit < nodes_) return {&unit, 1};
    return groups_[index(unit - nodes_)].nodes;
  }
  int level_of(int node) const { return level_[index(unit_of(node))]; }
  int step(int from, int to) const { return same_kind(from, to) ? 0 : 1; }

  /// Calls f(member, reader) for every edge that leaves the unit.
  template <class F>
  void for_edges(const int& unit, F&& f) const {
    for (int member : members(unit)) {
      for (int output : graph_.node(member).outputs) {
        for (int reader : graph_.value(output).consumers) {
          if (unit_of(reader) != unit) f(member, reader);
        }
      }
    }
  }

  /// Kahn's algorithm: every unit is as early as its operands allow.
  void find_levels() {
    std::vector<int> waits_for(level_.size(), 0);
    const auto is_unit = [&](int unit) {
      return unit >= nodes_ || (!graph_.node(unit).dead && group_of_[index(unit)] < 0);
    };
    for (int unit = 0; unit < static_cast<int>(level_.size()); ++unit) {
      if (is_unit(unit)) for_edges(unit, [&](int, int reader) { ++waits_for[index(unit_of(reader))]; });
    }
    for (int unit = 0; unit < static_cast<int>(level_.size()); ++unit) {
      if (is_unit(unit) && waits_for[index(unit)] == 0) order_.push_back(unit);
    }
    for (std::size_t i = 0; i < order_.size(); ++i) {
      const int unit = order_[i];
      for_edges(unit, [&](int member, int reader) {
        const int to = unit_of(reader);
        level_[index(to)] = std::max(level_[index(to)], level_[index(unit)] + step(member, reader));
        if (--waits_for[index(to)] == 0) order_.push_back(to);
      });
    }
  }

  /// A node whose readers all come later joins the first of them, if that is of its kind: its result need not
  /// wait in memory then, as long as what it reads instead is no more.
  void wait_for_late_readers() {
    std::vector<int> last_read(graph_.values.size(), 0);
    for (std::size_t v = 0; v < last_read.size(); ++v) {
      for (int reader : graph_.values[v].consumers) last_read[v] = std::max(last_read[v], level_of(reader));
    }
    for (std::size_t i = order_.size(); i-- > 0;) {
      const int node = order_[i];
      if (node >= nodes_ || kind_[index(node)] == no_kind) continue;
      const int result = graph_.node(node).outputs[0];
      const std::vector<int>& readers = graph_.value(result).consumers;
      if (graph_.value(result).keep || readers.empty()) continue;
      int latest = level_of(readers[0]);
      for (int reader : readers) latest = std::min(latest, level_of(reader) - step(node, reader));
      const bool joins = std::any_of(readers.begin(), readers.end(), [&](int reader) {
        return same_kind(node, reader) && level_of(reader) == latest;
      });
      if (latest == level_[index(node)] || !joins) continue;
      if (bytes_held_until(latest, node, last_read) <= graph_.value(result).bytes())
        level_[index(node)] = latest;
    }
  }

  /// Of the node's operands, the bytes that nobody else needs until then.
  std::int64_t bytes_held_until(int level, int node, const std::vector<int>& last_read) const {
    std::int64_t bytes = 0;
    for (int input : graph_.node(node).inputs) {
      const GraphValue& value = graph_.value(input);
      const bool stays =
          value.keep || (value.producer < 0 && !value.donated) || last_read[index(input)] >= level;
      if (!stays) bytes += value.bytes();
    }
    return bytes;
  }

  // ---- chains ----

  /// All nodes of one kind and level that edges connect to this one, in recorded order.
  std::vector<int> neighbourhood(int first, std::vector<bool>& seen) const {
    std::vector<int> nodes;
    const auto visit = [&](int node) {
      if (node < 0 || seen[index(node)] || !same_kind(node, first)) return;
      if (level_[index(node)] != level_[index(first)]) return;
      seen[index(node)] = true;
      nodes.push_back(node);
    };
    visit(first);
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const GraphNode& node = graph_.node(nodes[i]);
      for (int input : node.inputs) visit(graph_.value(input).producer);
      for (int reader : graph_.value(node.outputs[0]).consumers) visit(reader);
    }
    std::sort(nodes.begin(), nodes.end());
    return nodes;
  }

  /// As many chains as the backend needs, each as long as it can run.
  void cut(std::vector<int> nodes) {
    const std::size_t whole = nodes.size();
    while (!nodes.empty()) {
      std::string reason;
      const std::size_t length = longest_supported(nodes, reason);
      if (length < nodes.size()) {
        note_refusal(nodes[length], "chain of " + std::to_string(whole) + " ops cut before its " +
                                        std::string(graph_.node(nodes[length]).op->name) + ": " + reason);
      }
      const auto end = nodes.begin() + static_cast<std::ptrdiff_t>(length);
      add_chain({nodes.begin(), end});
      nodes.erase(nodes.begin(), end);
    }
  }

  /// Doubles the length until the backend refuses, then halves the difference.
  std::size_t longest_supported(const std::vector<int>& nodes, std::string& reason) const {
    const auto supported = [&](std::size_t length) {
      Group group = chain_of({nodes.begin(), nodes.begin() + static_cast<std::ptrdiff_t>(length)});
      const std::string why = refusal(group);
      if (!why.empty()) reason = why;
      return why.empty();
    };
    if (nodes.size() == 1 || supported(nodes.size())) return nodes.size();
    std::size_t good = 1, bad = 2;
    while (bad < nodes.size() && supported(bad)) {
      good = bad;
      bad *= 2;
    }
    bad = std::min(bad, nodes.size());
    while (bad - good > 1) {
      const std::size_t middle = good + (bad - good) / 2;
      (supported(middle) ? good : bad) = middle;
    }
    return good;
  }

  void add_chain(std::vector<int> nodes) {
    Group chain = chain_of(std::move(nodes));
    const int reduction = reduction_after(chain);
    if (reduction >= 0) {
      Group longer = chain_of(chain.nodes, reduction);
      const std::string reason = refusal(longer);
      if (reason.empty()) return chains_.push_back(std::move(longer));
      note_refusal(reduction, reason);
    }
    if (chain.nodes.size() > 1) chains_.push_back(std::move(chain));
  }

  /// The sum or mean that may run with the chain: the last, or rather the last of a value that is then not
  /// written. It reads nothing else, so it adds no wait. -1: none.
  int reduction_after(const Group& chain) const {
    int found = -1;
    for (auto member = chain.nodes.rbegin(); member != chain.nodes.rend(); ++member) {
      const GraphValue& value = graph_.value(graph_.node(*member).outputs[0]);
      const bool alone = !value.keep && value.consumers.size() == 1;
      if (found >= 0 && !alone) continue;
      for (int reader : value.consumers) {
        const GraphNode& node = graph_.node(reader);
        const bool fits = (node.is(ops::sum_op) || node.is(ops::mean_op)) && group_of_[index(reader)] < 0 &&
                          node.phase == graph_.node(*member).phase;
        if (!fits) continue;
        found = reader;
        if (alone) return found;
      }
    }
    return found;
  }

  // ---- groups ----

  Group chain_of(std::vector<int> nodes, int reduction = -1) const {
    Group group;
    group.roles = Chain{.reduction_node = reduction};
    group.rule = "pointwise";
    group.name = name_of(nodes, reduction);
    if (reduction >= 0) nodes.insert(std::upper_bound(nodes.begin(), nodes.end(), reduction), reduction);
    group.nodes = std::move(nodes);
    close_group(graph_, group);
    return group;
  }

  std::string name_of(const std::vector<int>& nodes, int reduction) const {
    std::string name;
    const auto add = [&](std::string_view op) {
      name += name.empty() ? "" : "+";
      name += op;
    };
    const bool shortened = nodes.size() > longest_name;
    for (std::size_t i = 0; i < (shortened ? named_first : nodes.size()); ++i)
      add(graph_.node(nodes[i]).op->name);
    if (shortened) {
      add("(" + std::to_string(nodes.size() - named_first - 1) + " more)");
      add(graph_.node(nodes.back()).op->name);
    }
    if (reduction >= 0) add(graph_.node(reduction).op->name);
    return name;
  }

  std::string refusal(const Group& group) const {
    const Support support = backend_.supports(graph_, group);
    return support.ok ? std::string() : support.reason;
  }
  void note_refusal(int node, const std::string& reason) {
    const std::span<const Rule> table = fusion_rules();
    const auto row =
        std::find_if(table.begin(), table.end(), [](const Rule& rule) { return rule.name == "pointwise"; });
    refusals_.note(*row, node, {reason, -1});
  }

  const Graph& graph_;
  const Backend& backend_;
  const std::vector<Group>& groups_;
  const std::vector<int>& group_of_;
  Refusals& refusals_;
  int nodes_;
  std::vector<int> kind_;   ///< by node
  std::vector<int> level_;  ///< by unit
  std::vector<int> order_;  ///< of the units, each after those that it reads from
  std::vector<Group> chains_;
};

}  // namespace

std::vector<Group> find_chains(const Graph& graph, const Backend& backend, const std::vector<Group>& groups,
                               const std::vector<int>& group_of, Refusals& refusals) {
  return Chains(graph, backend, groups, group_of, refusals).find();
}

}  // namespace fusetape::plan
