#include "nn/module_state.hpp"

#include <algorithm>
#include <mutex>
#include <set>

namespace fusetape::nn {
namespace {

/// Nodes outlive modules, so the paths that they point to live for ever. There are few different ones.
const std::string* intern(const std::string& path) {
  static std::mutex mutex;
  static std::set<std::string>* const paths = new std::set<std::string>;
  const std::lock_guard<std::mutex> lock(mutex);
  return &*paths->insert(path).first;
}

/// The commonest path without a search.
const std::string* empty_path() {
  static const std::string* const empty = intern("");
  return empty;
}

}  // namespace

Module::State::State(Module& module) : self(&module), path(empty_path()) {}

/// The child of a parent that lives on leaves its name behind, so that the parent can say what is missing.
Module::State::~State() {
  for (const auto& [name, child] : children) {
    if (child != nullptr) child->parent = nullptr;
  }
  if (parent != nullptr) {
    for (auto& [name, child] : parent->children) {
      if (child == this) child = nullptr;
    }
  }
  if (partner != nullptr) partner->partner = nullptr;
}

void Module::State::set_path(const std::string& to) {
  path = intern(to);
  for (auto& [name, parameter] : parameters) parameter.set_name(joined(to, name));
  for (auto& [name, buffer] : buffers) buffer.set_name(joined(to, name));
  for (const auto& [name, child] : children) {
    if (child != nullptr) child->set_path(joined(to, name));
  }
}

void Module::State::leave_parent() {
  if (parent == nullptr) return;
  std::erase_if(parent->children, [this](const auto& entry) { return entry.second == this; });
  parent = nullptr;
}

void Module::State::replace(State& other) {
  leave_parent();
  parent = std::exchange(other.parent, nullptr);
  for (auto& [name, child] : parent->children) {
    if (child != &other) continue;
    child = this;
    set_path(joined(*parent->path, name));
  }
}

bool Module::State::contains(const State& other) const {
  return this == &other || std::any_of(children.begin(), children.end(), [&other](const auto& child) {
           return child.second != nullptr && child.second->contains(other);
         });
}

Module::State& Module::State::living(const std::string& name, State* child) const {
  if (child != nullptr) return *child;
  throw Error("module",
              "the child \"" + name +
                  "\" was destroyed, or moved away and destroyed: it has to live as long as this module",
              here(), *path);
}

}  // namespace fusetape::nn
