#include <algorithm>
#include <atomic>
#include <memory>
#include <unordered_set>

#include "core/autograd/gradient_map.hpp"
#include "core/autograd/hooks.hpp"
#include "core/tape/module_scope.hpp"
#include "core/tape/segment.hpp"
#include "core/tape/tape.hpp"
#include "core/tape/thread_end.hpp"
#include "fusetape/autograd.hpp"
#include "fusetape/ops.hpp"

namespace fusetape {
namespace core {
namespace {

std::uint64_t next_visit() {
  static std::atomic<std::uint64_t> visit{0};
  return visit.fetch_add(1, std::memory_order_relaxed) + 1;
}

/// The lists of a reverse pass. They go back to their thread with their memory, for the next one; a pass
/// inside another (a hook that asks for gradients) has lists of its own.
struct Lists {
  std::vector<Node*> order, held;
  std::vector<Value*> leaves;
  GradientMap gradients;
};

class BorrowedLists {
 public:
  explicit BorrowedLists(Location at) {
    Tape::current(at);  // throws at the end of the thread, where its lists may be gone
    if (spare().empty()) {
      lists_ = std::make_unique<Lists>();
    } else {
      lists_ = std::move(spare().back());
      spare().pop_back();
    }
  }
  ~BorrowedLists() {
    lists_->order.clear();
    lists_->held.clear();
    lists_->leaves.clear();
    lists_->gradients.clear();
    spare().push_back(std::move(lists_));
  }
  BorrowedLists(const BorrowedLists&) = delete;
  BorrowedLists& operator=(const BorrowedLists&) = delete;
  Lists* operator->() const { return lists_.get(); }

 private:
  static std::vector<std::unique_ptr<Lists>>& spare() {
    static thread_local struct {
      std::vector<std::unique_ptr<Lists>> lists;
      EndsWithThread end;
    } own;
    return own.lists;
  }
  std::unique_ptr<Lists> lists_;
};

/// One reverse pass over the history of some outputs.
class ReversePass {
 public:
  ReversePass(BackwardOptions options, Location at) : options_(options), at_(at) {
    if (options_.create_graph) options_.retain_graph = true;
  }

  ~ReversePass() {
    for (Node* node : order_) node->visit.store(0, std::memory_order_release);
    for (Node* node : held_) dereference(node);
  }
  ReversePass(const ReversePass&) = delete;
  ReversePass& operator=(const ReversePass&) = delete;

  /// Only what leads to a target is differentiated. Without targets: all that leads to leaves.
  void aim_at(Value& value) {
    const Value& target = in_history(value);
    oldest_ = targets_.empty() ? target.node->sequence : std::min(oldest_, target.node->sequence);
    targets_.insert(&target);
  }

  void seed(const Tensor& output, Tensor gradient) {
    Node& node = *in_history(*output.value()).node;
    if (output.value()->state == State::lost)
      throw Error("backward", "the value was lost: " + *node.failure, at_);
    if (output.pending() && node.tape != &Tape::current()) {
      throw Error("backward", "the tensor is still pending on another thread; call backward() there", at_);
    }
    accumulate(in_history(*output.value()), std::move(gradient));
    visit(node);
  }

  void run() {
    const GradMode mode(options_.create_graph);
    collect();
    for (Node* node : order_) {
      differentiate(*node);
      recomputation_.forget_after(node->sequence);
    }
    for (const Value* leaf : leaves_) call_hooks(*leaf);
    if (!options_.retain_graph) release();
  }

  /// Once a value's gradient is whole, and before it is used.
  void call_hooks(const Value& value) {
    const std::shared_ptr<GradientHooks> hooks = hooks_of(value);
    if (hooks == nullptr || !gradient_of(&value).defined() || !hooked_.insert(&value).second) return;
    const GradMode mode(options_.create_graph);
    Tensor gradient = hooks->call(value, gradient_of(&value), at_);
    gradients_[&value] = std::move(gradient);
  }

  Tensor gradient_of(const Value* value) const {
    const Tensor* found = gradients_.find(value);
    return found != nullptr ? *found : Tensor();
  }
  /// Every leaf that a gradient came to.
  const std::vector<Value*>& leaves() const { return leaves_; }

 private:
  bool everything() const { return targets_.empty(); }

  /// Whether gradients are wanted of the value, or of what it was made from.
  bool leads(const Value& value) const {
    if (!value.requires_grad) return false;
    const Node& node = *value.node;
    return everything() || targets_.count(&value) != 0 || (node.visit == number_ && node.leads);
  }

  void hold_node(Node& node) {
    reference(&node);  // a release lets go of the way to it
    held_.push_back(&node);
  }

  void visit(Node& node) {
    if (node.visit == number_ || (!node.history && !node.released)) return;
    std::uint64_t nobody = 0;
    if (!node.visit.compare_exchange_strong(nobody, number_, std::memory_order_acq_rel)) {
      throw Error("backward",
                  "another backward() is at work on the graph of " + std::string(node.op->name) +
                      " (on another thread, or one that called a hook)",
                  at_);
    }
    hold_node(node);
    order_.push_back(&node);
    if (node.released) {
      throw Error(
          "backward",
          "the graph of " + std::string(node.op->name) +
              " was released by an earlier backward(); pass {.retain_graph = true} to that one to keep it",
          at_);
    }
  }

  /// The history nodes that the seeds depend on, latest first. What is older than every target leads to none.
  void collect() {
    for (std::size_t i = 0; i < order_.size(); ++i) {
      for (Value* read : order_[i]->inputs) {
        const Value& input = in_history(*read);
        const bool older_wanted = input.node->sequence > oldest_ || targets_.count(&input) == 0;
        if (input.requires_grad && input.node->sequence >= oldest_ && older_wanted) visit(*input.node);
      }
    }
    std::sort(order_.begin(), order_.end(),
              [](const Node* a, const Node* b) { return a->sequence > b->sequence; });
    for (std::size_t i = order_.size(); i-- > 0;) {
      Node& node = *order_[i];
      node.leads = std::any_of(node.inputs.begin(), node.inputs.end(),
                               [&](Value* input) { return leads(in_history(*input)); });
    }
  }

  void differentiate(Node& node) {
    for (int i = 0; node.hooks != nullptr && i < node.output_count; ++i) call_hooks(node.output(i));
    if (!node.leads) return;
    InlineVector<Tensor, 6> incoming;
    bool any = false;
    for (int i = 0; i < node.output_count; ++i) {
      incoming.push_back(gradient_of(&node.output(i)));
      any = any || incoming[static_cast<std::size_t>(i)].defined();
    }
    if (!any) return;
    const PhaseScope scope(plan::Phase::backward, node.at, node.module_path);
    GradContext context(node, {incoming.begin(), incoming.size()}, recomputation_);
    node.op->gradient(context);
    auto& gradients = context.gradients();
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      Value& input = in_history(*node.inputs[i]);
      if (gradients[i].defined() && leads(input)) accumulate(input, std::move(gradients[i]));
    }
  }

  void accumulate(Value& value, Tensor gradient) {
    if (!(gradient.shape() == value.shape)) {
      throw Error(
          "backward",
          "expected a gradient of shape " + to_string(value.shape) + ", got " + to_string(gradient.shape()),
          at_);
    }
    if (gradient.dtype() != value.dtype) {
      throw Error("backward",
                  "expected a gradient of dtype " + std::string(name_of(value.dtype)) + ", got " +
                      std::string(name_of(gradient.dtype())) + "; use cast",
                  at_);
    }
    if (const Tensor* before = gradients_.find(&value); before != nullptr && before->defined()) {
      gradient = add(*before, gradient);
    } else {
      if (!value.node->history && everything()) {
        leaves_.push_back(&value);
        hold_node(*value.node);
      }
    }
    gradients_[&value] = std::move(gradient);
  }

  void release() {
    for (Node* node : order_) {
      if (!node->leads) continue;
      node->released = true;
      forget_history(*node);
    }
  }

  BackwardOptions options_;
  Location at_;
  const std::uint64_t number_ = next_visit();
  std::uint64_t oldest_ = 0;
  BorrowedLists lists_{at_};
  std::vector<Node*>& order_ = lists_->order;
  std::vector<Node*>& held_ = lists_->held;
  std::vector<Value*>& leaves_ = lists_->leaves;
  GradientMap& gradients_ = lists_->gradients;
  std::unordered_set<const Value*> targets_;
  std::unordered_set<const Value*> hooked_;
  Recomputation recomputation_;
};

Tensor seed_for(const Tensor& output, Location at) {
  if (output.elements() != 1) {
    throw Error("backward",
                "expected a scalar (or a gradient of its shape), got " + to_string(output.shape()), at);
  }
  return full(output.shape(), 1.0, output.dtype(), at);
}

void collect_into_cell(Value& leaf, const Tensor& gradient) {
  const std::shared_ptr<Cell> cell = leaf.node->cell.lock();
  if (cell == nullptr) return;
  bind_gradient(*cell, cell->gradient.defined() ? add(cell->gradient, gradient) : gradient);
}

}  // namespace
}  // namespace core

void Tensor::backward(BackwardOptions options, Location at) const {
  if (!defined()) throw Error("backward", "the tensor is undefined", at);
  if (!requires_grad()) {
    const bool released = value_->node->released;
    throw Error("backward",
                released ? "the graph was released by an earlier backward(); pass {.retain_graph = true} to "
                           "that one to keep it"
                         : "no parameter leads to this tensor (or it was recorded under no_grad)",
                at);
  }
  const core::PhaseScope scope(plan::Phase::backward, at);
  core::ReversePass pass(options, at);
  pass.seed(*this, core::seed_for(*this, at));
  pass.run();
  const core::GradMode mode(options.create_graph);
  for (core::Value* leaf : pass.leaves()) core::collect_into_cell(*leaf, pass.gradient_of(leaf));
  core::Tape::current().run_if_inputs_pile_up(at);
}

std::vector<Tensor> grad(const std::vector<Tensor>& outputs, const std::vector<Tensor>& inputs,
                         const std::vector<Tensor>& grad_outputs, BackwardOptions options, Location at) {
  if (!grad_outputs.empty() && grad_outputs.size() != outputs.size()) {
    throw Error("grad",
                "expected one gradient for each of " + std::to_string(outputs.size()) + " outputs, got " +
                    std::to_string(grad_outputs.size()),
                at);
  }
  const core::SourceContext source = core::source_context();  // inside a gradient function: that op's place
  const core::PhaseScope scope(plan::Phase::backward, source.override_location ? source.at : at,
                               source.module_path);
  core::ReversePass pass(options, at);
  for (const Tensor& input : inputs) {
    if (!input.defined() || !input.requires_grad()) {
      throw Error("grad", "expected inputs that require a gradient (a Parameter's value or variable(x))", at);
    }
    pass.aim_at(*input.value());
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].defined()) throw Error("grad", "an output is undefined", at);
    if (!grad_outputs.empty() && !grad_outputs[i].defined())
      throw Error("grad", "the gradient of output " + std::to_string(i) + " is undefined", at);
    if (!outputs[i].requires_grad()) continue;
    pass.seed(outputs[i], grad_outputs.empty() ? core::seed_for(outputs[i], at) : grad_outputs[i]);
  }
  pass.run();
  std::vector<Tensor> gradients;
  for (const Tensor& input : inputs) {
    const core::Value& value = core::in_history(*input.value());
    pass.call_hooks(value);
    Tensor gradient = pass.gradient_of(&value);
    gradients.push_back(gradient.defined() ? gradient : zeros(input.shape(), input.dtype(), at));
  }
  return gradients;
}

NoGrad::NoGrad() : before_(core::Tape::current().settings.grad) {
  core::Tape::current().settings.grad = false;
}
NoGrad::~NoGrad() {
  if (core::Tape* tape = core::Tape::alive()) tape->settings.grad = before_;
}

bool grad_enabled() { return core::Tape::current().settings.grad; }

}  // namespace fusetape
