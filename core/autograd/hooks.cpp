#include "core/autograd/hooks.hpp"

#include <atomic>

#include "core/tape/module_scope.hpp"
#include "core/tape/tape.hpp"

namespace fusetape {
namespace core {
namespace {

std::string describe(const Tensor& tensor) {
  return std::string(name_of(tensor.dtype())) + " " + to_string(tensor.shape());
}

}  // namespace

Tensor GradientHooks::call(const Value& value, Tensor gradient, Location backward_at) const {
  const PhaseScope scope(plan::Phase::backward, backward_at);
  source_context().override_location = false;                  // what a hook records has lines of its own
  const std::vector<std::shared_ptr<const Hook>> now = hooks;  // a hook may remove itself
  for (const auto& hook : now) {
    if (hook->output != value.index) continue;
    Tensor changed = hook->call(gradient);
    if (!changed.defined()) continue;
    if (!(changed.shape() == gradient.shape()) || changed.dtype() != gradient.dtype()) {
      throw Error(
          "register_hook",
          "expected the hook to return a gradient " + describe(gradient) + ", got " + describe(changed),
          hook->at);
    }
    gradient = std::move(changed);
  }
  return gradient;
}

std::shared_ptr<GradientHooks> hooks_of(const Value& value) {
  if (value.node->hooks != nullptr) return value.node->hooks;
  const std::shared_ptr<Cell> cell = value.node->cell.lock();
  return cell != nullptr ? cell->hooks : nullptr;
}

HookHandle add_hook(std::shared_ptr<GradientHooks>& hooks, int output, GradientHook hook, Location at) {
  static std::atomic<std::uint64_t> next_id{1};
  if (!hook) throw Error("register_hook", "the hook is empty", at);
  if (hooks == nullptr) hooks = std::make_shared<GradientHooks>();
  const std::uint64_t id = next_id.fetch_add(1, std::memory_order_relaxed);
  hooks->hooks.push_back(
      std::make_shared<const GradientHooks::Hook>(GradientHooks::Hook{id, output, std::move(hook), at}));
  return HookHandle(hooks, id);
}

}  // namespace core

void HookHandle::remove() {
  const std::shared_ptr<core::GradientHooks> hooks = hooks_.lock();
  if (hooks == nullptr) return;
  std::erase_if(hooks->hooks, [this](const auto& hook) { return hook->id == id_; });
  hooks_.reset();
}

HookHandle Tensor::register_hook(GradientHook hook, Location at) const {
  if (!requires_grad()) {
    throw Error(
        "register_hook",
        defined() ? "no gradient comes to this tensor: it does not require one" : "the tensor is undefined",
        at);
  }
  core::Node& node = *value_->node;
  if (node.released) throw Error("register_hook", "the graph was released by an earlier backward()", at);
  if (const std::shared_ptr<core::Cell> cell = node.cell.lock()) {
    return core::add_hook(cell->hooks, 0, std::move(hook), at);
  }
  return core::add_hook(node.hooks, value_->index, std::move(hook), at);
}

HookHandle Parameter::register_hook(GradientHook hook, Location at) const {
  if (!defined()) throw Error("register_hook", "the parameter is empty: construct it with a value", at);
  return core::add_hook(state_->hooks, 0, std::move(hook), at);
}

}  // namespace fusetape
