#include <cmath>
#include <set>

#include "core/module_scope.hpp"
#include "core/tape.hpp"
#include "fusetape/autograd.hpp"
#include "fusetape/ops.hpp"
#include "fusetape/optim.hpp"
#include "fusetape/runtime.hpp"

namespace fusetape::optim {
namespace {

void check_parameters(const std::string& name, const std::vector<Parameter>& parameters, Location at) {
  if (parameters.empty()) throw Error(name, "expected at least one parameter, got none", at);
  std::set<const void*> seen;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::string which = "parameter " + std::to_string(i);
    if (!parameters[i].defined()) throw Error(name, which + " is undefined", at);
    if (!seen.insert(parameters[i].state()).second) {
      throw Error(name, which + " (\"" + parameters[i].name() + "\") is given twice", at);
    }
    if ((parameters[i].dtype() == DType::f64) != (parameters[0].dtype() == DType::f64)) {
      throw Error(name, "expected parameters that are all f64 or none, got a mixture", at);
    }
  }
}

void check_rate(const std::string& name, double rate, Location at) {
  if (!(rate >= 0) || std::isinf(rate)) {
    throw Error(name, "expected a finite learning rate ≥ 0, got " + std::to_string(rate), at);
  }
}

}  // namespace

Optimizer::Optimizer(std::string name, std::vector<Parameter> parameters, double learning_rate, Location at)
    : name_(std::move(name)),
      parameters_(std::move(parameters)),
      updates_(parameters_.size(), 0),
      learning_rate_(learning_rate) {
  check_rate(name_, learning_rate_, at);
  check_parameters(name_, parameters_, at);
  // Parameters that are still pending would make the first step another plan than the second.
  for (const Parameter& parameter : parameters_) {
    if (parameter.value().pending()) {
      materialize({}, at);
      break;
    }
  }
}

void Optimizer::step(Location at) {
  std::vector<std::size_t> updated;
  {
    const NoGrad no_history;
    const core::PhaseScope phase(plan::Phase::update, at);
    Bindings bindings;
    begin_step(at);
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const Tensor gradient = parameters_[i].grad();
      if (!gradient.defined() || !parameters_[i].requires_grad()) continue;
      update(i, gradient, bindings, at);
      updated.push_back(i);
    }
    end_step();
    // Only now, when nothing can throw any more; and no handle stays here to keep an old version alive.
    for (auto& [cell, value] : bindings) cell.set_data(value, at);
    for (std::size_t i : updated) ++updates_[i];
  }
  try {
    core::flush_step(at);
  } catch (...) {
    for (std::size_t i : updated) {  // no update, unless it is still to come
      if (!parameters_[i].value().pending()) --updates_[i];
    }
    throw;
  }
}

void Optimizer::zero_grad() {
  for (Parameter& parameter : parameters_) parameter.zero_grad();
}

void Optimizer::set_learning_rate(double rate, Location at) {
  check_rate(name_, rate, at);
  learning_rate_ = rate;
}

void Optimizer::set_updates(std::vector<std::int64_t> updates, Location at) {
  if (updates.size() != parameters_.size()) {
    throw Error(name_,
                "expected an update count for each of " + std::to_string(parameters_.size()) +
                    " parameters, got " + std::to_string(updates.size()),
                at);
  }
  for (std::int64_t count : updates) {
    if (count < 0) throw Error(name_, "expected update counts ≥ 0, got " + std::to_string(count), at);
  }
  updates_ = std::move(updates);
}

std::vector<Cell> Optimizer::make_state(const std::string& name, Location at) {
  std::set<std::string> taken;
  std::vector<Cell> cells;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    std::string of = parameters_[i].name();
    if (of.empty() || !taken.insert(of).second) taken.insert(of = std::to_string(i));
    cells.emplace_back(zeros(parameters_[i].shape(), parameters_[i].dtype(), at), name + "." + of);
    named_state_.emplace_back(name + "." + of, cells.back());
  }
  return cells;
}

Tensor clip_grad_norm(const std::vector<Parameter>& parameters, double max_norm, Location at) {
  if (!(max_norm > 0)) {
    throw Error("clip_grad_norm", "expected max_norm > 0, got " + std::to_string(max_norm), at);
  }
  const NoGrad no_history;
  const core::PhaseScope phase(plan::Phase::update, at);
  std::vector<Tensor> squares;
  for (const Parameter& parameter : parameters) {
    const Tensor g = parameter.grad();
    if (!g.defined()) continue;
    const Tensor wide = size_of(g.dtype()) < 4 ? cast({g, at}, DType::f32) : g;
    squares.push_back(reshape({sum({mul({wide, at}, {wide, at}), at}), at}, {1}));
  }
  if (squares.empty()) return scalar(0, DType::f32, at);
  Tensor norm = sqrt({sum({concat(squares, 0, at), at}), at});
  const Tensor scale = minimum({div({max_norm, at}, {add({norm, at}, {1e-6, at}), at}), at}, {1.0, at});
  for (Parameter parameter : parameters) {
    const Tensor g = parameter.grad();
    if (!g.defined()) continue;
    const Tensor same_dtype = scale.dtype() == g.dtype() ? scale : cast({scale, at}, g.dtype());
    parameter.set_grad(mul({g, at}, {same_dtype, at}));
  }
  return norm;
}

}  // namespace fusetape::optim
