#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>
#include <typeinfo>

#include "core/tape/module_scope.hpp"
#include "fusetape/nn.hpp"

namespace fusetape::nn {
namespace {

/// Nodes outlive modules, so the paths that they point to live for ever. There are few different ones.
const std::string* intern(const std::string& path) {
  static std::mutex mutex;
  static std::set<std::string>* const paths = new std::set<std::string>;
  const std::lock_guard<std::mutex> lock(mutex);
  return &*paths->insert(path).first;
}

std::string join(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

template <class Named>
bool has(const std::vector<std::pair<std::string, Named>>& list, const std::string& name) {
  for (const auto& [taken, ignored] : list) {
    if (taken == name) return true;
  }
  return false;
}

template <class CellType>
bool binds_same(const std::vector<std::pair<std::string, CellType>>& list, const Cell& cell) {
  for (const auto& [name, other] : list) {
    if (other.state() == cell.state()) return true;
  }
  return false;
}

/// "Net"
std::string type_of(const Module& module) {
  const char* const mangled = typeid(module).name();
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(mangled, nullptr, nullptr, &status),
                                                    std::free);
  return status == 0 ? name.get() : mangled;
}

}  // namespace

const std::string* Module::empty_path() {
  static const std::string* const empty = intern("");
  return empty;
}

Tensor Module::operator()(const Tensor& x, Location at) {
  const ModuleScope scope(*this, at);
  return forward(x);
}

Tensor Module::forward(const Tensor&) {
  throw Error("module", "this module does not define forward(x); call the method that it defines instead",
              here(), path());
}

Location Module::here(Location otherwise) { return core::current_location(otherwise); }

template <class Visit>
void Module::visit(const std::string& prefix, Visit&& visit_one) const {
  visit_one(*this, prefix);
  for (const auto& [name, child] : children_) child->visit(join(prefix, name), visit_one);
}

std::vector<std::pair<std::string, Parameter>> Module::named_parameters() const {
  std::vector<std::pair<std::string, Parameter>> all;
  visit("", [&all](const Module& module, const std::string& prefix) {
    for (const auto& [name, parameter] : module.parameters_) {
      if (!binds_same(all, parameter)) all.emplace_back(join(prefix, name), parameter);
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
  visit("", [&all](const Module& module, const std::string& prefix) {
    for (const auto& [name, buffer] : module.buffers_) {
      if (!binds_same(all, buffer)) all.emplace_back(join(prefix, name), buffer);
    }
  });
  return all;
}

std::int64_t Module::parameter_count() const {
  std::int64_t count = 0;
  for (const Parameter& parameter : parameters()) count += parameter.shape().elements();
  return count;
}

void Module::train(bool on) {
  training_ = on;
  for (const auto& [name, child] : children_) child->train(on);
}

void Module::zero_grad() {
  for (Parameter& parameter : parameters()) parameter.zero_grad();
}

void Module::check_name(const std::string& name, Location at) const {
  if (name.empty() || name.find('.') != std::string::npos) {
    throw Error("module", "expected a name without dots, got \"" + name + "\"", at, path());
  }
  if (has(parameters_, name) || has(buffers_, name) || has(children_, name)) {
    throw Error("module", "the name \"" + name + "\" is registered twice", at, path());
  }
}

Parameter Module::register_parameter(const std::string& name, const Tensor& value, Location at) {
  check_name(name, at);
  Parameter parameter(value, join(path(), name), at);
  parameters_.emplace_back(name, parameter);
  return parameter;
}

Cell Module::register_buffer(const std::string& name, const Tensor& value, Location at) {
  check_name(name, at);
  Cell buffer(value, join(path(), name), at);
  buffers_.emplace_back(name, buffer);
  return buffer;
}

void Module::register_child(const std::string& name, Module& child, Location at) {
  check_name(name, at);
  if (&child == this || child.has_parent_) {
    throw Error("module", "the module to register as \"" + name + "\" is part of a module already", at,
                path());
  }
  child.has_parent_ = true;
  children_.emplace_back(name, &child);
  child.set_path(join(path(), name));
}

void Module::borrow(const Module& other, Location at) {
  if (&other == this)
    throw Error("module", "expected another module to borrow, got the module itself", at, path());
  borrowed_.push_back(&other);
}

bool Module::contains(const Module& other) const {
  return this == &other || std::any_of(children_.begin(), children_.end(),
                                       [&other](const auto& child) { return child.second->contains(other); });
}

/// A module without a parent is fine where user code calls it, as the outermost one, and where a part of it
/// calls it back.
void Module::check_has_owner(Location at) const {
  const Module* const caller = core::source_context().module;
  if (has_parent_ || caller == nullptr || contains(*caller)) return;
  const auto& borrowed = caller->borrowed_;
  if (std::find(borrowed.begin(), borrowed.end(), this) != borrowed.end()) return;
  throw Error("module",
              "expected a module that is registered, got " + type_of(*this) + ", called by " +
                  type_of(*caller) +
                  ": it would be neither trained nor saved nor switched to evaluation. Write "
                  "register_child(\"name\", member); in the constructor of " +
                  type_of(*caller) + ", or borrow(member); where another model owns it",
              at, caller->path());
}

void Module::set_path(const std::string& path) {
  path_ = intern(path);
  for (auto& [name, parameter] : parameters_) parameter.set_name(join(path, name));
  for (auto& [name, buffer] : buffers_) buffer.set_name(join(path, name));
  for (const auto& [name, child] : children_) child->set_path(join(path, name));
}

// The scope lives in the caller's bytes, so that the public header needs to know nothing of it.
ModuleScope::ModuleScope(const Module& module, Location at) {
  static_assert(sizeof(core::ModuleScope) <= sizeof(scope_) && alignof(core::ModuleScope) <= alignof(void*));
  module.check_has_owner(at);
  ::new (static_cast<void*>(scope_)) core::ModuleScope(module, module.path_, at);
}

ModuleScope::~ModuleScope() { std::launder(reinterpret_cast<core::ModuleScope*>(scope_))->~ModuleScope(); }

}  // namespace fusetape::nn
