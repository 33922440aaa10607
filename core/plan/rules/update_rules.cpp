#include <algorithm>
#include <set>

#include "core/op/op_list.hpp"
#include "core/plan/rules/match.hpp"

/// All updates of a step in one kernel, with or without the clipping of their gradients.
namespace fusetape::plan {
namespace {

constexpr std::size_t gradient_input = 1;

/// p, g and the state, of which there is a new value each; the other inputs are scalars.
std::size_t tensors_of(const GraphNode& update) { return update.outputs.size() + 1; }

/// A gradient that a free `mul` by a scalar makes from another: g·scale.
struct ClippedGradient {
  int mul = -1, g = -1, scale = -1;
};

ClippedGradient clipped_gradient(const Cover& cover, const GraphNode& update) {
  const int value = update.inputs[gradient_input];
  const GraphNode* mul = cover.graph.producer_if(value, ops::mul_op);
  if (mul == nullptr || !cover.free(id_of(cover, *mul))) return {};
  const auto scales = [&](int g, int scale) {
    const GraphValue& factor = cover.graph.value(scale);
    return factor.shape.rank() == 0 && factor.dtype == cover.graph.value(value).dtype &&
           same_shape(cover.graph, g, value);
  };
  const int a = mul->inputs[0], b = mul->inputs[1];
  if (scales(a, b)) return {.mul = id_of(cover, *mul), .g = a, .scale = b};
  if (scales(b, a)) return {.mul = id_of(cover, *mul), .g = b, .scale = a};
  return {};
}

/// Collects the updates that can run side by side, in recorded order.
class UpdateCollector {
 public:
  UpdateCollector(const Cover& cover, const GraphNode& first, bool clipped)
      : cover_(cover), first_(first), after_(cover.graph.nodes.size(), false) {
    if (clipped) scale_ = clipped_gradient(cover, first).scale;
  }

  int scale() const { return scale_; }
  int updates() const { return updates_; }
  const std::set<int>& nodes() const { return nodes_; }

  void offer(int id) {
    const GraphNode& node = cover_.graph.node(id);
    if (node.dead) return;
    const bool late = reads_a_member(node);
    const bool joined = !late && belongs(node, id) && take(node, id);
    after_[static_cast<std::size_t>(id)] = late || joined;
  }

 private:
  /// Directly or not: such a node has to wait for the group.
  bool reads_a_member(const GraphNode& node) const {
    return std::any_of(node.inputs.begin(), node.inputs.end(), [&](int input) {
      const int producer = cover_.graph.value(input).producer;
      return producer >= 0 && after_[static_cast<std::size_t>(producer)];
    });
  }

  bool belongs(const GraphNode& node, int id) const {
    return node.op == first_.op && cover_.free(id) && node.attrs == first_.attrs;
  }

  /// A parameter and its state are overwritten: no other member may read them.
  bool take(const GraphNode& node, int id) {
    const ClippedGradient clipped = scale_ >= 0 ? clipped_gradient(cover_, node) : ClippedGradient();
    if (clipped.scale != scale_) return false;
    const int g = scale_ >= 0 ? clipped.g : node.inputs[gradient_input];
    std::vector<int> state;
    for (std::size_t i = 0; i < tensors_of(node); ++i) {
      if (i != gradient_input) state.push_back(node.inputs[i]);
    }
    const bool shared = std::any_of(state.begin(), state.end(), [&](int s) { return read_.count(s) > 0; });
    if (shared || overwritten_.count(g) > 0) return false;
    read_.insert(state.begin(), state.end());
    read_.insert(g);
    overwritten_.insert(state.begin(), state.end());
    nodes_.insert(id);
    if (clipped.mul >= 0) nodes_.insert(clipped.mul);
    ++updates_;
    return true;
  }

  const Cover& cover_;
  const GraphNode& first_;
  int scale_ = -1;  ///< -1: gradients are taken as they come
  int updates_ = 0;
  std::set<int> nodes_, read_, overwritten_;
  std::vector<bool> after_;  ///< by node: a member, or reads what one writes, directly or not
};

}  // namespace

/// Every update of the slice with the same attributes, each with its own scalars (learning rate, momentum,
/// …); with `clip`, those whose gradients are multiplied by one scalar, and the multiplications.
std::optional<Group> match_updates(const Cover& cover, int node, Parts parts, NearMiss&) {
  const GraphNode& first = cover.graph.node(node);
  const bool clip = (parts & with::clipping) != 0;
  UpdateCollector updates(cover, first, clip);
  if (clip && updates.scale() < 0) return std::nullopt;
  for (std::size_t n = static_cast<std::size_t>(node); n < cover.graph.nodes.size(); ++n) {
    updates.offer(static_cast<int>(n));
  }
  if (updates.nodes().size() < 2) return std::nullopt;
  Group group;
  group.name = (clip ? "clip+" : "") + std::string(first.op->name);
  group.nodes.assign(updates.nodes().begin(), updates.nodes().end());
  group.roles = Updates{.scale = updates.scale()};
  return group;
}

}  // namespace fusetape::plan
