#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fusetape/module.hpp"

namespace fusetape::nn {

struct ForwardHookHandle::Hooks {
  std::vector<std::pair<std::uint64_t, ForwardHook>> all;
  std::uint64_t next_id = 0;
};

/// While it lives, it is told of every module call of this thread that gives one tensor.
class ModuleObserver {
 public:
  using Called = std::function<void(const Module&, const Tensor& y)>;
  explicit ModuleObserver(Called called) : called_(std::move(called)), before_(current_) { current_ = this; }
  ~ModuleObserver() { current_ = before_; }
  ModuleObserver(const ModuleObserver&) = delete;
  ModuleObserver& operator=(const ModuleObserver&) = delete;
  static void tell(const Module& module, const Tensor& y) {
    if (current_ != nullptr) current_->called_(module, y);
  }

 private:
  Called called_;
  ModuleObserver* before_;
  static inline thread_local ModuleObserver* current_ = nullptr;
};

/// What a module is, at a place of its own: modules move, and know each other by this.
struct Module::State {
  Module* self = nullptr;
  State* parent = nullptr;
  std::vector<std::pair<std::string, Parameter>> parameters;
  std::vector<std::pair<std::string, Cell>> buffers;
  std::vector<std::pair<std::string, State*>> children;  ///< null: it was destroyed
  std::vector<const State*> borrowed;                    ///< to compare, never to follow
  State* partner = nullptr;  ///< of a convolution its norm, and the other way round
  std::shared_ptr<ForwardHookHandle::Hooks> hooks;
  const std::string* path;
  bool training = true;

  explicit State(Module& module);
  ~State();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void set_path(const std::string& to);
  /// Registers itself in the place of another state, with that one's parent and name.
  void replace(State& other);
  bool contains(const State& other) const;

  /// Calls visit(state, prefix), parents first. Throws where a child was destroyed.
  template <class Visit>
  void visit(const std::string& prefix, Visit&& visit_one) {
    visit_one(*this, prefix);
    for (const auto& [name, child] : children) living(name, child).visit(joined(prefix, name), visit_one);
  }
  State& living(const std::string& name, State* child) const;
  static std::string joined(const std::string& prefix, const std::string& name) {
    return prefix.empty() ? name : prefix + "." + name;
  }

 private:
  void leave_parent();
};

}  // namespace fusetape::nn
