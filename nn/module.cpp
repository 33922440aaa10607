#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <typeinfo>

#include "core/tape/module_scope.hpp"
#include "fusetape/nn.hpp"
#include "nn/module_state.hpp"

namespace fusetape::nn {
namespace {

template <class Named>
bool has(const std::vector<std::pair<std::string, Named>>& list, const std::string& name) {
  return std::any_of(list.begin(), list.end(), [&name](const auto& named) { return named.first == name; });
}

template <class CellType>
bool binds_same(const std::vector<std::pair<std::string, CellType>>& list, const Cell& cell) {
  return std::any_of(list.begin(), list.end(),
                     [&cell](const auto& named) { return named.second.state() == cell.state(); });
}

/// "fusetape::nn::Linear", "fusetape::nn::Activation<&fusetape::relu>"
std::string full_type_of(const Module& module) {
  const char* const mangled = typeid(module).name();
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(mangled, nullptr, nullptr, &status),
                                                    std::free);
  return status == 0 ? name.get() : mangled;
}

/// "\"conv1\", \"bn1\", \"fc\""
template <class Named>
std::string names_of(const std::vector<std::pair<std::string, Named>>& list) {
  constexpr std::size_t most = 12;
  std::string all;
  for (std::size_t i = 0; i < list.size() && i < most; ++i)
    all += (i == 0 ? "\"" : ", \"") + list[i].first + "\"";
  if (list.empty()) return "none";
  return list.size() > most ? all + ", … (" + std::to_string(list.size()) + ")" : all;
}

}  // namespace

Module::Module() : state_(std::make_unique<State>(*this)) {}
Module::~Module() = default;

Module::Module(Module&& other) noexcept : state_(std::move(other.state_)) {
  if (state_ != nullptr) state_->self = this;
}

/// A module that has a parent keeps its place there; what is assigned to it leaves its own. Where the old
/// state goes first, as when a whole model is assigned, its children have no parent any more, and those that
/// come keep theirs.
Module& Module::operator=(Module&& other) {  // NOLINT(performance-noexcept-move-constructor)
  if (this == &other) return *this;
  State& next = other.state();
  const bool registered = state_ != nullptr && state_->parent != nullptr;
  if (registered && next.contains(*state_->parent)) {
    throw Error("module",
                "expected a module to put in the place of \"" + path() + "\", got one that contains it",
                here());
  }
  if (registered) next.replace(*state_);
  state_ = std::move(other.state_);
  state_->self = this;
  return *this;
}

Module::State& Module::state() const {
  if (state_ != nullptr) return *state_;
  throw Error("module", "expected a module, got one that was moved from", here());
}

Tensor Module::operator()(const Tensor& x, Location at) {
  const ModuleScope scope(*this, at);
  return after_hooks(x, forward(x));
}

Tensor Module::forward(const Tensor&) {
  throw Error("module", "this module does not define forward(x); call the method that it defines instead",
              here(), path());
}

Location Module::here(Location otherwise) { return core::current_location(otherwise); }

const std::string& Module::path() const { return *state().path; }
bool Module::is_training() const { return state().training; }

std::string Module::type_name() const {
  std::string name;
  std::size_t token = 0;  // where the name that is being read begins
  for (const char letter : full_type_of(*this)) {
    if (letter == '&') continue;
    name += letter;
    if (letter == '<' || letter == ',' || name.ends_with(", ")) token = name.size();
    if (name.ends_with("::")) name.resize(token);
  }
  return name;
}

std::vector<std::pair<std::string, Parameter>> Module::named_parameters() const {
  std::vector<std::pair<std::string, Parameter>> all;
  state().visit("", [&all](const State& module, const std::string& prefix) {
    for (const auto& [name, parameter] : module.parameters) {
      if (!binds_same(all, parameter)) all.emplace_back(State::joined(prefix, name), parameter);
    }
  });
  return all;
}

std::vector<Parameter> Module::parameters() const {
  std::vector<Parameter> all;
  for (auto& [name, parameter] : named_parameters()) all.push_back(std::move(parameter));
  return all;
}

std::vector<std::pair<std::string, Cell>> Module::named_buffers() const {
  std::vector<std::pair<std::string, Cell>> all;
  state().visit("", [&all](const State& module, const std::string& prefix) {
    for (const auto& [name, buffer] : module.buffers) {
      if (!binds_same(all, buffer)) all.emplace_back(State::joined(prefix, name), buffer);
    }
  });
  return all;
}

std::vector<std::pair<std::string, Module*>> Module::named_children() const {
  std::vector<std::pair<std::string, Module*>> all;
  for (const auto& [name, child] : state().children) all.emplace_back(name, state().living(name, child).self);
  return all;
}

std::int64_t Module::parameter_count() const {
  std::int64_t count = 0;
  for (const Parameter& parameter : parameters()) count += parameter.shape().elements();
  return count;
}

Module& Module::child(const std::string& path, Location at) {
  State* found = &state();
  for (std::size_t begin = 0; !path.empty() && begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string name = path.substr(begin, end - begin);
    const auto is_named = [&name](const auto& child) { return child.first == name; };
    const auto next = std::find_if(found->children.begin(), found->children.end(), is_named);
    if (next == found->children.end()) {
      throw Error(
          "child",
          "expected one of " + names_of(found->children) + ", got \"" + name + "\" in \"" + path + "\"", at,
          *found->path);
    }
    found = &found->living(name, next->second);
    begin = end + 1;
  }
  return *found->self;
}

Parameter Module::parameter(const std::string& path, Location at) const {
  const auto all = named_parameters();
  for (const auto& [name, parameter] : all) {
    if (name == path) return parameter;
  }
  throw Error("parameter", "expected one of " + names_of(all) + ", got \"" + path + "\"", at, this->path());
}

void Module::fail_type(const Module& found, const std::string& path, Location at) const {
  throw Error("child", "expected another type, got " + found.type_name() + " at \"" + path + "\"", at,
              this->path());
}

void Module::apply(const std::function<void(Module&)>& visit) {
  for (const auto& [name, child] : named_children()) child->apply(visit);
  visit(*this);
}

void Module::train(bool on) {
  state().visit("", [on](State& module, const std::string&) { module.training = on; });
}

void Module::zero_grad() {
  for (Parameter& parameter : parameters()) parameter.zero_grad();
}

void Module::set_requires_grad(bool on) {
  for (Parameter& parameter : parameters()) parameter.set_requires_grad(on);
}

ForwardHookHandle Module::register_forward_hook(ForwardHook hook, Location at) {
  if (!hook) throw Error("register_forward_hook", "expected a function, got an empty one", at, path());
  auto& hooks = state().hooks;
  if (hooks == nullptr) hooks = std::make_shared<ForwardHookHandle::Hooks>();
  ForwardHookHandle handle;
  handle.hooks_ = hooks;
  handle.id_ = hooks->next_id++;
  hooks->all.emplace_back(handle.id_, std::move(hook));
  return handle;
}

void ForwardHookHandle::remove() {
  if (const std::shared_ptr<Hooks> hooks = hooks_.lock())
    std::erase_if(hooks->all, [this](const auto& hook) { return hook.first == id_; });
}

Tensor Module::after_hooks(const Tensor& x, Tensor y) {
  if (state().hooks != nullptr) {
    const auto hooks = state().hooks->all;  // a hook may remove itself
    for (const auto& [id, hook] : hooks) {
      Tensor replaced = hook(*this, x, y);
      if (replaced.defined()) y = std::move(replaced);
    }
  }
  ModuleObserver::tell(*this, y);
  return y;
}

void Module::refuse_hooks(Location at) const {
  if (state().hooks == nullptr || state().hooks->all.empty()) return;
  throw Error("module",
              "expected no forward hook on a module that takes or gives more than one tensor, got one", at,
              path());
}

void Module::check_name(const std::string& name, Location at) const {
  if (name.empty() || name.find('.') != std::string::npos) {
    throw Error("module", "expected a name without dots, got \"" + name + "\"", at, path());
  }
  // The name of a child that was destroyed is free again.
  std::erase_if(state().children,
                [&name](const auto& child) { return child.first == name && child.second == nullptr; });
  if (has(state().parameters, name) || has(state().buffers, name) || has(state().children, name)) {
    throw Error("module", "the name \"" + name + "\" is registered twice", at, path());
  }
}

Parameter Module::register_parameter(const std::string& name, const Tensor& value, Location at) {
  check_name(name, at);
  Parameter parameter(value, State::joined(path(), name), at);
  state().parameters.emplace_back(name, parameter);
  return parameter;
}

Cell Module::register_buffer(const std::string& name, const Tensor& value, Location at) {
  check_name(name, at);
  Cell buffer(value, State::joined(path(), name), at);
  state().buffers.emplace_back(name, buffer);
  return buffer;
}

void Module::register_child(const std::string& name, Module& child, Location at) {
  check_name(name, at);
  State& added = child.state();
  if (added.parent != nullptr || added.contains(state())) {
    throw Error("module", "the module to register as \"" + name + "\" is part of a module already", at,
                path());
  }
  added.parent = &state();
  state().children.emplace_back(name, &added);
  added.set_path(State::joined(path(), name));
}

void Module::borrow(const Module& other, Location at) {
  if (&other == this)
    throw Error("module", "expected another module to borrow, got the module itself", at, path());
  state().borrowed.push_back(&other.state());
}

/// A module without a parent is fine where user code calls it, as the outermost one, and where a part of it
/// calls it back.
void Module::check_has_owner(Location at) const {
  const Module* const caller = core::source_context().module;
  if (state().parent != nullptr || caller == nullptr || state().contains(caller->state())) return;
  const auto& borrowed = caller->state().borrowed;
  if (std::find(borrowed.begin(), borrowed.end(), &state()) != borrowed.end()) return;
  throw Error("module",
              "expected a module that is registered, got " + full_type_of(*this) + ", called by " +
                  full_type_of(*caller) +
                  ": it would be neither trained nor saved nor switched to evaluation. Write "
                  "register_child(\"name\", member); in the constructor of " +
                  full_type_of(*caller) + ", or borrow(member); where another model owns it",
              at, caller->path());
}

// The scope lives in the caller's bytes, so that the public header needs to know nothing of it.
ModuleScope::ModuleScope(const Module& module, Location at) {
  static_assert(sizeof(core::ModuleScope) <= sizeof(scope_) && alignof(core::ModuleScope) <= alignof(void*));
  module.check_has_owner(at);
  ::new (static_cast<void*>(scope_)) core::ModuleScope(module, module.state().path, at);
}

ModuleScope::~ModuleScope() { std::launder(reinterpret_cast<core::ModuleScope*>(scope_))->~ModuleScope(); }

}  // namespace fusetape::nn
