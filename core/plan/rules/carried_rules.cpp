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

  /// A ReLU's mask, or another activation's gradient.
  void mask() {
    const GraphNode* mask =
        only_reader([](const GraphNode& node) { return node.op->gradient_of != nullptr; });
    if (mask == nullptr || mask->inputs[0] != roles_.result() || mask->inputs[1] == roles_.result()) return;
    if (!same_shape(graph_, mask->inputs[1], roles_.result()) || made_here(mask->inputs[1])) return;
    roles_.mask = mask->inputs[1];
    if (!mask->is(ops::relu_grad_op)) {
      roles_.gradient = mask->op;
      take_numbers(*mask, roles_.gradient_numbers);
    }
    mask_ = mask;
    go_on(*mask, mask->op->name);
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

  /// Beside an input gradient, the weights' gradient of the same y.
  bool weights_gradient() {
    const GraphNode* apply =
        roles_.before_y.present() ? graph_.producer_if(roles_.y, ops::batch_norm_grad_apply_op) : nullptr;
    if (take_weights_gradient(roles_.y)) return true;
    if (apply == nullptr) return false;
    // Each reader has its own copy of what made y.
    for (int reader : graph_.value(apply->inputs[0]).consumers) {
      const GraphNode& copy = graph_.node(reader);
      if (&copy == apply || !copy.is(*apply->op) || copy.inputs != apply->inputs || !cover_.free(reader))
        continue;
      if (!inner(copy.outputs[0]) || !take_weights_gradient(copy.outputs[0])) continue;
      take(copy);
      return true;
    }
    return false;
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
  bool take_weights_gradient(int y) {
    for (int reader : graph_.value(y).consumers) {
      const GraphNode& gradient = graph_.node(reader);
      if (!gradient.is(ops::conv2d_grad_weight_op) || !cover_.free(reader) || gradient.inputs[1] != y)
        continue;
      if (gradient.attrs != node().attrs || !same_shape(graph_, gradient.inputs[0], roles_.x) ||
          made_here(gradient.inputs[0]))
        continue;
      roles_.weights_node = reader;
      roles_.read_x = gradient.inputs[0];
      roles_.dw = gradient.outputs[0];
      take(gradient);
      prologue(roles_.read_x, roles_.before_x);
      after_ += "&" + std::string(gradient.op->name);
      take_wider_weights();
      return true;
    }
    return false;
  }

  void take_wider_weights() {
    const GraphValue& dw = graph_.value(roles_.dw);
    if (dw.keep || dw.consumers.size() != 1 || !cover_.free(dw.consumers[0])) return;
    const GraphNode& cast = graph_.node(dw.consumers[0]);
    if (!cast.is(ops::cast_op) || graph_.value(cast.outputs[0]).dtype != DType::f32) return;
    roles_.dw = cast.outputs[0];
    take(cast);
    after_ += "+cast";
  }

  void take(const GraphNode& node) { group_.nodes.push_back(id_of(cover_, node)); }
  void join(const GraphNode& node, std::string_view name) {
    take(node);
    after_ += "+" + std::string(name);
  }
  void go_on(const GraphNode& node, std::string_view name) {
    join(node, name);
    roles_.result() = node.outputs[0];
  }

  /// The free node if it is the only one to read what the group makes so far, and nobody else can.
  template <class Accept>
  const GraphNode* only_reader(Accept accept) const {
    const GraphValue& value = graph_.value(roles_.result());
    if (value.keep || value.consumers.size() != 1 || !cover_.free(value.consumers[0])) return nullptr;
    const GraphNode& reader = graph_.node(value.consumers[0]);
    return accept(reader) ? &reader : nullptr;
  }
  const GraphNode* only_reader(const core::OpDef& op) const {
    const bool any_place = &op == &ops::add_op;
    return only_reader([&](const GraphNode& node) {
      return node.is(op) && (any_place || node.inputs[0] == roles_.result());
    });
  }
  const GraphNode* first_reader(const core::OpDef& op) const {
    for (int reader : graph_.value(roles_.result()).consumers) {
      const GraphNode& node = graph_.node(reader);
      if (node.is(op) && node.inputs[0] == roles_.result() && cover_.free(reader)) return &node;
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
      const bool own_result = image == roles_.result() && roles_.weights_node < 0;
      const int values[] = {prologue.present() || own_result ? -1 : image, prologue.z, prologue.g,
                            prologue.norm[0].x, prologue.norm[1].x};
      return std::any_of(std::begin(values), std::end(values),
                         [this](int value) { return made_here(value); });
    };
    const int w = roles_.pass == ConvPass::grad_weight ? -1 : roles_.w;
    const int x = roles_.weights_node >= 0 ? roles_.read_x : roles_.x;
    return reads(x, roles_.before_x) || reads(roles_.y, roles_.before_y) || made_here(w) ||
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

  /// The free activation that makes the value.
  const GraphNode* free_activation(int value) const {
    const int producer = graph_.value(value).producer;
    const bool activation = producer >= 0 && cover_.free(producer) && graph_.node(producer).op->activation;
    return activation ? &graph_.node(producer) : nullptr;
  }

  /// activation(norm(x) [+ norm(x2)] [+ z])
  bool norm_prologue(int operand, Prologue& prologue) {
    const GraphNode* activation = free_activation(operand);
    const int sum = activation != nullptr ? activation->inputs[0] : operand;
    const auto made_by = [&](const core::OpDef& op) {
      return activation == nullptr || inner(sum) ? free_producer(cover_, sum, op) : nullptr;
    };
    if (const GraphNode* norm = made_by(ops::batch_norm_apply_op)) {
      add_norm(prologue, *norm);
    } else if (const GraphNode* add = made_by(ops::add_op)) {
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
    if (activation == nullptr) return true;
    take(*activation);
    prologue.activation = activation->op;
    take_numbers(*activation, prologue.numbers);
    before_ += std::string(activation->op->name) + "+";
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

/// Both gradients of a convolution: they read the same y.
std::optional<Group> match_both_gradients(const Cover& cover, int node, Parts, NearMiss&) {
  CarriedMatch match(cover, node);
  match.prologue(match.roles().y, match.roles().before_y);
  if (!match.weights_gradient()) return std::nullopt;
  match.other_branch();
  match.mask();
  match.gradient_sums();
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
