#include <algorithm>

#include "core/op/op_list.hpp"
#include "core/plan/passes/passes.hpp"
#include "core/plan/passes/rewrite.hpp"

/// Takes batch norms apart where convolutions beside them can carry the parts: the statistics ride where x is
/// written, the normalisation where y is read, and the same of the gradient. The rules of carried_rules.cpp
/// then put the parts into the convolutions' groups; what finds no place there is a kernel of its own, as
/// before.
namespace fusetape::plan {
namespace {

class Carry {
 public:
  Carry(Graph& graph, const Backend& backend) : graph_(graph), backend_(backend) {}

  void split() {
    Rewrite rewrite(graph_);
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
      const GraphNode& node = graph_.nodes[n];
      if (node.dead || graph_.value(node.outputs[0]).dtype == DType::f64) continue;
      if (node.is(ops::batch_norm_op) && pays_forward(node)) split_norm(static_cast<int>(n), rewrite);
      if (node.is(ops::batch_norm_grad_op) && pays_backward(node))
        split_gradient(static_cast<int>(n), rewrite);
    }
    rewrite.apply();
  }

  /// A value that only carrying convolutions read is made by each of them for itself, and never written.
  void repeat() {
    Rewrite rewrite(graph_);
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
      const GraphNode& node = graph_.nodes[n];
      if (node.dead) continue;
      if (node.is(ops::batch_norm_grad_apply_op)) repeat_gradient(node, rewrite);
      if (node.op->activation) repeat_activation(node, rewrite);
    }
    rewrite.apply();
  }

 private:
  const GraphNode* producer(int value, const core::OpDef& op) const { return graph_.producer_if(value, op); }

  bool carries(int node, NormPart part, const OpDef* activation) const {
    const GraphNode& conv = graph_.node(node);
    return conv_pass(*conv.op).has_value() && backend_.carries(graph_, conv, part, activation);
  }

  /// As an operand that it transforms: a forward's x, a weight gradient's x or g, an input gradient's g.
  bool carries_operand(int reader, int value) const {
    const int producer = graph_.value(value).producer;
    const GraphNode* made = producer < 0 ? nullptr : &graph_.node(producer);
    const OpDef* activation = made != nullptr && made->op->activation ? made->op : nullptr;
    if (!carries(reader, NormPart::applied, activation)) return false;
    const GraphNode& conv = graph_.node(reader);
    const bool weights = conv.is(ops::conv2d_grad_weight_op);
    return (conv.inputs[0] == value) != (weights && conv.inputs[1] == value);
  }

  /// What reads `value` beside the gradients of activations that read or made it, if that is one node.
  const GraphNode* only_reader(int value) const {
    const GraphNode* only = nullptr;
    for (int reader : graph_.value(value).consumers) {
      const GraphNode& node = graph_.node(reader);
      if (node.op->gradient_of != nullptr && node.inputs[0] != value) continue;
      if (only != nullptr) return nullptr;
      only = &node;
    }
    return graph_.value(value).keep ? nullptr : only;
  }

  /// The value that stands for activation(norm(x) [+ z]): what a convolution would make in its prologue.
  int result_of(int normed) const {
    int result = normed;
    const GraphNode* reader = only_reader(result);
    if (reader != nullptr && reader->is(ops::add_op)) {
      result = reader->outputs[0];
      reader = only_reader(result);
    }
    return reader != nullptr && reader->op->activation ? reader->outputs[0] : result;
  }

  bool pays_forward(const GraphNode& norm) const {
    const GraphNode* bias = producer(norm.inputs[0], ops::bias_add_op);
    const int x = bias != nullptr ? bias->inputs[0] : norm.inputs[0];
    if (producer(x, ops::conv2d_op) != nullptr && carries(graph_.value(x).producer, NormPart::sums, nullptr))
      return true;
    const int result = result_of(norm.outputs[0]);
    const std::vector<int>& readers = graph_.value(result).consumers;
    return std::any_of(readers.begin(), readers.end(), [&](int reader) {
      return graph_.node(reader).is(ops::conv2d_op) && carries_operand(reader, result);
    });
  }

  bool pays_backward(const GraphNode& gradient) const {
    const std::vector<int>& readers = graph_.value(gradient.outputs[0]).consumers;
    if (std::any_of(readers.begin(), readers.end(),
                    [&](int reader) { return carries_operand(reader, gradient.outputs[0]); }))
      return true;
    int g = gradient.inputs[0];
    const int maker = graph_.value(g).producer;
    const OpDef* activation = maker < 0 ? nullptr : graph_.node(maker).op->gradient_of;
    if (activation != nullptr) g = graph_.node(maker).inputs[0];
    const GraphNode* fork = producer(g, ops::add_op);
    const auto made_by_carrier = [&](int value) {
      return producer(value, ops::conv2d_grad_input_op) != nullptr &&
             carries(graph_.value(value).producer, NormPart::sums, activation);
    };
    return fork == nullptr ? made_by_carrier(g)
                           : std::any_of(fork->inputs.begin(), fork->inputs.end(), made_by_carrier);
  }

  // x, gamma, beta [, running…] → y, mean, inv_std [, new…]
  void split_norm(int node, Rewrite& rewrite) {
    GraphNode& norm = graph_.nodes[static_cast<std::size_t>(node)];
    GraphNode apply = norm;
    apply.op = &ops::batch_norm_apply_op;
    apply.inputs = {norm.inputs[0], norm.inputs[1], norm.inputs[2], norm.outputs[1], norm.outputs[2]};
    apply.outputs = {norm.outputs[0]};
    norm.op = &ops::batch_norm_statistics_op;
    norm.inputs.erase(norm.inputs.begin() + 1, norm.inputs.begin() + 3);
    norm.outputs.erase(norm.outputs.begin());
    insert_if_wanted(node + 1, std::move(apply), rewrite);
  }

  // g, x, gamma, mean, inv_std → dx, dgamma, dbeta
  void split_gradient(int node, Rewrite& rewrite) {
    GraphNode& gradient = graph_.nodes[static_cast<std::size_t>(node)];
    GraphNode apply = gradient;
    apply.op = &ops::batch_norm_grad_apply_op;
    apply.inputs.insert(apply.inputs.end(), {gradient.outputs[1], gradient.outputs[2]});
    apply.outputs = {gradient.outputs[0]};
    gradient.op = &ops::batch_norm_grad_sums_op;
    gradient.inputs.erase(gradient.inputs.begin() + 2);
    gradient.outputs.erase(gradient.outputs.begin());
    insert_if_wanted(node + 1, std::move(apply), rewrite);
  }

  /// Not where only the statistics, or only the sums, are wanted.
  void insert_if_wanted(int before, GraphNode apply, Rewrite& rewrite) {
    const GraphValue& made = graph_.value(apply.outputs[0]);
    if (made.keep || !made.consumers.empty()) rewrite.insert(before, std::move(apply));
  }

  void repeat_gradient(const GraphNode& apply, Rewrite& rewrite) {
    const int dx = apply.outputs[0];
    const GraphValue& value = graph_.value(dx);
    const bool all_carry = std::all_of(value.consumers.begin(), value.consumers.end(),
                                       [&](int reader) { return carries_operand(reader, dx); });
    if (value.keep || !all_carry) return;
    const std::vector<int> readers(value.consumers.begin(), value.consumers.end());
    for (std::size_t i = 1; i < readers.size(); ++i) repeat_before(readers[i], dx, {&apply}, rewrite);
  }

  /// activation(norm(x)): its own gradient takes what it reads from x.
  void repeat_activation(const GraphNode& activation, Rewrite& rewrite) {
    const int y = activation.outputs[0], normed = activation.inputs[0];
    const GraphNode* norm = producer(normed, ops::batch_norm_apply_op);
    if (norm == nullptr || graph_.value(normed).keep || graph_.value(y).keep) return;
    const auto is_own_gradient = [&](int reader, int read) {
      const GraphNode& node = graph_.node(reader);
      return node.op->gradient_of == activation.op && node.inputs[0] != read &&
             same_norm_follows(node, *norm);
    };
    std::vector<int> gradients, again;
    for (int reader : graph_.value(normed).consumers) {
      if (&graph_.node(reader) == &activation) continue;
      if (!is_own_gradient(reader, normed)) return;
      gradients.push_back(reader);
    }
    bool forward = false;
    for (int reader : graph_.value(y).consumers) {
      const GraphNode& node = graph_.node(reader);
      if (is_own_gradient(reader, y)) continue;
      if (!carries_operand(reader, y)) return;
      if (node.is(ops::conv2d_op) && !forward) {
        forward = true;
      } else {
        again.push_back(reader);
      }
    }
    if (!forward) return;
    for (int reader : again) repeat_before(reader, y, {norm, &activation}, rewrite);
    for (int reader : gradients) repeat_before(reader, normed, {norm}, rewrite);
  }

  /// Whether a mask is for the gradient of the norm that made the activation.
  bool same_norm_follows(const GraphNode& mask, const GraphNode& norm) const {
    const std::vector<int>& readers = graph_.value(mask.outputs[0]).consumers;
    return std::any_of(readers.begin(), readers.end(), [&](int reader) {
      const GraphNode& sums = graph_.node(reader);
      return sums.is(ops::batch_norm_grad_sums_op) && sums.inputs[1] == norm.inputs[0] &&
             sums.inputs[2] == norm.inputs[3] && sums.inputs[3] == norm.inputs[4];
    });
  }

  /// The nodes once more before `reader`, which will read their result instead of `value`.
  void repeat_before(int reader, int value, std::initializer_list<const GraphNode*> nodes, Rewrite& rewrite) {
    int from = -1, to = -1;
    for (const GraphNode* original : nodes) {
      GraphNode copy = *original;
      copy.recomputed = true;
      copy.phase = graph_.node(reader).phase;
      if (from >= 0) std::replace(copy.inputs.begin(), copy.inputs.end(), from, to);
      from = original->outputs[0];
      const GraphValue like = graph_.value(from);
      to = rewrite.new_value(like.shape, like.dtype);
      copy.outputs = {to};
      rewrite.insert(reader, std::move(copy));
    }
    GraphNode& node = graph_.nodes[static_cast<std::size_t>(reader)];
    std::replace(node.inputs.begin(), node.inputs.end(), value, to);
  }

  Graph& graph_;
  const Backend& backend_;
};

}  // namespace

void carry_norms(Graph& graph, const Options& options) {
  Carry carry(graph, *options.backend);
  carry.split();
  carry.repeat();
}

}  // namespace fusetape::plan
