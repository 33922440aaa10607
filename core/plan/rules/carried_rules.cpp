#include <algorithm>

#include "core/op/op_list.hpp"
#include "core/plan/passes/passes.hpp"
#include "core/plan/rules/match.hpp"
#include "core/plan/rules/norm_roles.hpp"

/// Convolutions with parts of batch norms in their transforms (see carry.cpp).
namespace fusetape::plan {
namespace {

class CarriedMatch {
 public:
  CarriedMatch(const Cover& cover, int conv) : cover_(cover), graph_(cover.graph) {
    group_.nodes = {conv};
    roles_ = convolution_of(graph_.node(conv), conv);
    after_ = std::string(node().op->name);
  }

  const GraphNode& node() const { return graph_.node(roles_.node); }
  Convolution& roles() { return roles_; }

  // ---- before the convolution ----

  void prologue(int operand, Prologue& prologue) {
    if (made_here(operand)) return;
    if (!norm_prologue(operand, prologue)) gradient_prologue(operand, prologue);
  }

  // ---- behind it ----

  void bias() {
    const GraphNode* add = only_reader(ops::bias_add_op);
    if (add == nullptr || add->inputs[0] != roles_.result()) return;
    roles_.bias = add->inputs[1];
    go_on(*add, "bias");
  }

  void other_branch() {
    const GraphNode* add = only_reader(ops::add_op);
    if (add == nullptr || add->inputs[0] == add->inputs[1]) return;
    const int other = add->inputs[add->inputs[0] == roles_.result() ? 1 : 0];
    if (!same_shape(graph_, other, roles_.result()) || made_here(other)) return;
    roles_.z = other;
    go_on(*add, "add");
  }

  void mask() {
    const GraphNode* mask = only_reader(ops::relu_grad_op);
    if (mask == nullptr || mask->inputs[0] != roles_.result() || mask->inputs[1] == roles_.result()) return;
    if (!same_shape(graph_, mask->inputs[1], roles_.result()) || made_here(mask->inputs[1])) return;
    roles_.mask = mask->inputs[1];
    mask_ = mask;
    go_on(*mask, "relu_grad");
  }

  void statistics() {
    const GraphNode* node = first_reader(ops::batch_norm_statistics_op);
    if (node == nullptr) return;
    roles_.statistics = norm_roles(graph_, id_of(cover_, *node));
    join(*node, "batch_norm_statistics");
  }

  void gradient_sums() {
    const GraphNode* node = first_reader(ops::batch_norm_grad_sums_op);
    if (node == nullptr || node->inputs[1] == roles_.result() || made_here(node->inputs[1])) return;
    roles_.sums = norm_roles(graph_, id_of(cover_, *node));
    join(*node, "batch_norm_grad_sums");
    take_mask_from_x();
  }

  void wider() {
    const GraphNode* cast = only_reader(ops::cast_op);
    if (cast == nullptr || graph_.value(cast->outputs[0]).dtype != DType::f32) return;
    go_on(*cast, "cast");
  }

  std::optional<Group> finish() && {
    if (!roles_.carries() || reads_what_it_makes()) return std::nullopt;
    std::sort(group_.nodes.begin(), group_.nodes.end());
    group_.name = before_ + after_;
    group_.roles = roles_;
    return std::move(group_);
  }

 private:
  void take(const GraphNode& node) { group_.nodes.push_back(id_of(cover_, node)); }
  void join(const GraphNode& node, const char* name) {
    take(node);
    after_ += std::string("+") + name;
  }
  void go_on(const GraphNode& node, const char* name) {
    join(node, name);
    roles_.result() = node.outputs[0];
  }

  /// The free node `op` if it is the only one to read what the group makes so far, and nobody else can.
  const GraphNode* only_reader(const core::OpDef& op) const {
    const GraphValue& value = graph_.value(roles_.result());
    return !value.keep && value.consumers.size() == 1 ? first_reader(op) : nullptr;
  }
  const GraphNode* first_reader(const core::OpDef& op) const {
    for (int reader : graph_.value(roles_.result()).consumers) {
      const GraphNode& node = graph_.node(reader);
      const bool as_operand = node.inputs[0] == roles_.result() || &op == &ops::add_op;
      if (node.is(op) && as_operand && cover_.free(reader)) return &node;
    }
    return nullptr;
  }

  /// Whether a transform makes the value: it comes tile by tile, and perhaps nowhere is written as a whole.
  bool made_here(int value) const {
    const int producer = value < 0 ? -1 : graph_.value(root_of(graph_, value)).producer;
    return std::find(group_.nodes.begin(), group_.nodes.end(), producer) != group_.nodes.end();
  }
  bool reads_what_it_makes() const {
    const auto reads = [this](int image, const Prologue& prologue) {
      const int values[] = {prologue.present() || image == roles_.result() ? -1 : image, prologue.z,
                            prologue.g, prologue.norm[0].x, prologue.norm[1].x};
      return std::any_of(std::begin(values), std::end(values),
                         [this](int value) { return made_here(value); });
    };
    const int w = roles_.pass == ConvPass::grad_weight ? -1 : roles_.w;
    return reads(roles_.x, roles_.before_x) || reads(roles_.y, roles_.before_y) || made_here(w) ||
           made_here(roles_.masked_by.x);
  }

  bool inner(int value) const {
    return !graph_.value(value).keep && graph_.value(value).consumers.size() == 1;
  }

  /// A normalisation with given statistics that only this group would read.
  const GraphNode* inner_norm(int value) const {
    return inner(value) ? free_producer(cover_, value, ops::batch_norm_apply_op) : nullptr;
  }

  void add_norm(Prologue& prologue, const GraphNode& norm) {
    prologue.norm[prologue.norms++] = norm_roles(graph_, id_of(cover_, norm));
    take(norm);
    before_ += "batch_norm_apply+";
  }

  /// [relu](norm(x) [+ norm(x2)] [+ z])
  bool norm_prologue(int operand, Prologue& prologue) {
    const GraphNode* relu = free_producer(cover_, operand, ops::relu_op);
    if (relu == nullptr) {
      const GraphNode* norm = free_producer(cover_, operand, ops::batch_norm_apply_op);
      if (norm != nullptr) add_norm(prologue, *norm);
      return norm != nullptr;
    }
    const int sum = relu->inputs[0];
    if (const GraphNode* norm = inner_norm(sum)) {
      add_norm(prologue, *norm);
    } else if (const GraphNode* add = inner(sum) ? free_producer(cover_, sum, ops::add_op) : nullptr) {
      const int a = add->inputs[0], b = add->inputs[1];
      if (a == b || !same_shape(graph_, a, b)) return false;
      const GraphNode *first = inner_norm(a), *second = inner_norm(b);
      if (first == nullptr && second == nullptr) return false;
      if (first != nullptr) add_norm(prologue, *first);
      if (second != nullptr) add_norm(prologue, *second);
      if (prologue.norms == 1) prologue.z = first != nullptr ? b : a;
      take(*add);
      before_ += "add+";
    } else {
      return false;
    }
    take(*relu);
    prologue.relu = true;
    before_ += "relu+";
    return true;
  }

  void gradient_prologue(int operand, Prologue& prologue) {
    const GraphNode* apply = free_producer(cover_, operand, ops::batch_norm_grad_apply_op);
    if (apply == nullptr) return;
    prologue.g = apply->inputs[0];
    prologue.norm[0] = norm_roles(graph_, id_of(cover_, *apply));
    take(*apply);
    before_ += "batch_norm_grad_apply+";
  }

  /// The sums read x anyway: where y = relu(norm(x)), its mask comes from x, too.
  void take_mask_from_x() {
    if (roles_.mask < 0) return;
    const GraphNode* norm = norm_before(graph_, *mask_, roles_.sums);
    if (norm == nullptr) return;
    roles_.masked_by = norm_roles(graph_, id_of(cover_, *norm));
    roles_.mask = -1;
  }

  const Cover& cover_;
  const Graph& graph_;
  Group group_;
  Convolution roles_;
  const GraphNode* mask_ = nullptr;
  std::string before_, after_;
};

/// A bias behind a forward convolution, and the next norm's statistics.
void match_behind_forward(CarriedMatch& match) {
  match.bias();
  match.statistics();
}

}  // namespace

std::optional<Group> match_carried(const Cover& cover, int node, Parts, NearMiss&) {
  CarriedMatch match(cover, node);
  Convolution& conv = match.roles();
  if (conv.pass != ConvPass::grad_input) match.prologue(conv.x, conv.before_x);
  if (conv.pass != ConvPass::forward) match.prologue(conv.y, conv.before_y);
  switch (conv.pass) {
    case ConvPass::forward:
      match_behind_forward(match);
      break;
    case ConvPass::grad_input:
      match.other_branch();
      match.mask();
      match.gradient_sums();
      break;
    case ConvPass::grad_weight:
      match.wider();
      break;
  }
  return std::move(match).finish();
}

/// Without what could be before the convolution: for kernels that only have a place behind it. Where nothing
/// is before it, the rule above has tried the same group.
std::optional<Group> match_conv_statistics(const Cover& cover, int node, Parts, NearMiss&) {
  CarriedMatch prologue(cover, node);
  prologue.prologue(prologue.roles().x, prologue.roles().before_x);
  if (!prologue.roles().before_x.present()) return std::nullopt;
  CarriedMatch match(cover, node);
  match_behind_forward(match);
  return std::move(match).finish();
}

}  // namespace fusetape::plan
