#pragma once
#include <memory>
#include <vector>

#include "core/tape/value.hpp"

/// Hooks on gradients. A cell's belong to all its versions; every other value's to its node.
namespace fusetape::core {

struct GradientHooks {
  struct Hook {
    std::uint64_t id = 0;
    int output = 0;  ///< of the node
    GradientHook call;
    Location at;
  };
  std::vector<std::shared_ptr<const Hook>> hooks;

  /// What the value's hooks make of its gradient, one after the other.
  Tensor call(const Value& value, Tensor gradient, Location backward_at) const;
};

/// nullptr where there are none.
std::shared_ptr<GradientHooks> hooks_of(const Value& value);

/// Adds one to `hooks`, made where there are none.
HookHandle add_hook(std::shared_ptr<GradientHooks>& hooks, int output, GradientHook hook, Location at);

}  // namespace fusetape::core
