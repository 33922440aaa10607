#include "fusetape/containers.hpp"

#include <algorithm>

#include "fusetape/nn.hpp"

namespace fusetape::nn {

Module& ModuleList::append(std::unique_ptr<Module> module, Location at) {
  if (module == nullptr) throw Error(type_name(), "expected a module, got null", at, path());
  joined(modules_.empty() ? nullptr : modules_.back().get(), *module, at);  // may refuse it
  register_child(std::to_string(modules_.size()), *module, at);
  modules_.push_back(std::move(module));
  return *modules_.back();
}

void ModuleList::joined(Module*, Module&, Location) {}

Module& ModuleList::operator[](Index i) {
  if (i.number < 0 || i.number >= static_cast<std::int64_t>(modules_.size())) {
    throw Error(type_name(),
                "expected the number of one of " + std::to_string(modules_.size()) + " modules, got " +
                    std::to_string(i.number),
                i.at, path());
  }
  return *modules_[static_cast<std::size_t>(i.number)];
}

void Sequential::joined(Module* before, Module& module, Location at) {
  auto* const conv = dynamic_cast<Conv2d*>(before);
  auto* const norm = dynamic_cast<BatchNorm2d*>(&module);
  if (conv != nullptr && norm != nullptr) register_conv_norm(*conv, *norm, at);
}

Tensor Sequential::forward(const Tensor& x) {
  Tensor y = x;
  for (const auto& module : *this) y = (*module)(y, here());
  return y;
}

Module& ModuleDict::append(const std::string& name, std::unique_ptr<Module> module, Location at) {
  if (module == nullptr) throw Error("ModuleDict", "expected a module, got null", at, path());
  register_child(name, *module, at);
  modules_.push_back(std::move(module));
  return *modules_.back();
}

bool ModuleDict::contains(const std::string& name) const {
  const auto children = named_children();
  return std::any_of(children.begin(), children.end(),
                     [&name](const auto& child) { return child.first == name; });
}

Residual::Residual(std::unique_ptr<Module> body, std::unique_ptr<Module> shortcut, Location at)
    : body_(std::move(body)), shortcut_(std::move(shortcut)) {
  if (body_ == nullptr) throw Error("Residual", "expected a body, got null", at);
  register_child("body", *body_, at);
  if (shortcut_ != nullptr) register_child("shortcut", *shortcut_, at);
}

Tensor Residual::forward(const Tensor& x) {
  const Location at = here();
  return add({(*body_)(x, at), at}, {shortcut_ != nullptr ? (*shortcut_)(x, at) : x, at});
}

}  // namespace fusetape::nn
