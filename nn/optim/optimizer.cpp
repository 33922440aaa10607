#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>

#include "core/numerics/checked.hpp"
#include "core/numerics/number_text.hpp"
#include "core/tape/module_scope.hpp"
#include "core/tape/tape.hpp"
#include "fusetape/autograd.hpp"
#include "fusetape/ops.hpp"
#include "fusetape/optim.hpp"
#include "fusetape/runtime.hpp"
#include "nn/optim/setting_reader.hpp"
#include "ops/optimizer.hpp"

namespace fusetape::optim {
namespace {

/// Each is one of its own, and a norm of their gradients can be taken.
void check_parameters(const std::string& name, const std::vector<Parameter>& parameters, Location at) {
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
    throw Error(name, "expected a finite learning rate ≥ 0, got " + core::number_text(rate), at);
  }
}

void check_max_grad_norm(const std::string& name, double norm, Location at) {
  if (!(norm >= 0)) throw Error(name, "expected max_grad_norm ≥ 0, got " + core::number_text(norm), at);
}

/// min(1, max_norm / (norm + 1e-6)): PyTorch's formula.
Tensor clip_scale(const Tensor& norm, double max_norm, Location at) {
  return minimum({div({max_norm, at}, {add({norm, at}, {1e-6, at}), at}), at}, {1.0, at});
}

void check_group(const std::string& name, const std::string& which, const ParameterGroup& group,
                 Location at) {
  const auto require = [&](bool ok, const char* expected, double got) {
    if (!ok) throw Error(name, which + ": expected " + expected + ", got " + core::number_text(got), at);
  };
  require(group.lr_factor >= 0 && std::isfinite(group.lr_factor), "a finite lr_factor ≥ 0", group.lr_factor);
  const double decay = group.weight_decay.value_or(0), momentum = group.momentum.value_or(0);
  require(decay >= 0 && std::isfinite(decay), "a finite weight_decay ≥ 0", decay);
  require(momentum >= 0 && momentum < 1, "momentum in [0, 1)", momentum);
}

void check_average(const std::string& name, const WeightAverage& average, Location at) {
  const auto require = [&](bool ok, const char* expected, double got) {
    if (!ok) throw Error(name, std::string("expected ") + expected + ", got " + core::number_text(got), at);
  };
  require(average.decay >= 0 && average.decay < 1, "average.decay in [0, 1)", average.decay);
  require(average.decay == 0 || !average.equal, "average.equal or average.decay, not both", average.decay);
  require(average.start >= 0, "average.start ≥ 0", static_cast<double>(average.start));
  require(average.every >= 1, "average.every ≥ 1", static_cast<double>(average.every));
}

Tensor scaled(const Tensor& gradient, const Tensor& scale, Location at) {
  return mul({gradient, at}, {cast({scale, at}, gradient.dtype()), at});
}

}  // namespace

Optimizer::Optimizer(std::string name, std::vector<Parameter> parameters, double learning_rate,
                     double max_grad_norm, Location at)
    : name_(std::move(name)),
      parameters_(std::move(parameters)),
      updates_(parameters_.size(), 0),
      given_learning_rate_(learning_rate),
      initial_learning_rate_(learning_rate),
      learning_rate_(learning_rate),
      max_grad_norm_(max_grad_norm),
      groups_(1),
      group_of_(parameters_.size(), 0) {
  check_rate(name_, learning_rate_, at);
  check_max_grad_norm(name_, max_grad_norm_, at);
  if (parameters_.empty()) throw Error(name_, "expected at least one parameter, got none", at);
  check_parameters(name_, parameters_, at);
  // Parameters that are still pending would make the first step another plan than the second.
  for (const Parameter& parameter : parameters_) {
    if (parameter.value().pending()) {
      materialize({}, at);
      break;
    }
  }
}

void Optimizer::set_groups(const std::vector<ParameterGroup>& groups, Location at) {
  for (const ParameterGroup& group : groups) {
    const std::string which = "group " + std::to_string(groups_.size());
    if (!group.where) throw Error(name_, which + " has no `where`", at);
    check_group(name_, which, group, at);
    std::size_t taken = 0;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (group_of_[i] != 0 || !group.where(parameters_[i])) continue;
      group_of_[i] = groups_.size();
      ++taken;
    }
    if (taken == 0) throw Error(name_, which + " takes none of the parameters that are left", at);
    groups_.push_back(group);
    groups_.back().where = nullptr;
  }
}

void Optimizer::set_momentum(double momentum, Location at) {
  if (!takes_momentum()) throw Error(name_, "set_momentum(): it was made without a momentum", at);
  if (!(momentum >= 0 && momentum < 1))
    throw Error(name_, "expected momentum in [0, 1), got " + core::number_text(momentum), at);
  momentum_ = momentum;
}

void Optimizer::reset_momentum() { momentum_.reset(); }

bool Optimizer::a_group_has_momentum() const {
  return std::any_of(groups_.begin(), groups_.end(),
                     [](const ParameterGroup& group) { return group.momentum.value_or(0) > 0; });
}

void Optimizer::set_average(const WeightAverage& average, Location at) {
  check_average(name_, average, at);
  average_ = average;
  if (!average_.present()) return;
  for (const Parameter& parameter : parameters_) {
    // A decay of 0.999 moves a number of 8 bits by less than half of its last one: never.
    if (size_of(parameter.dtype()) == 2) {
      throw Error(name_,
                  "expected parameters in f32 or f64 where an average is kept, got " +
                      std::string(name_of(parameter.dtype())) + " in \"" + parameter.name() +
                      "\"; Autocast computes in 16 bits and leaves parameters in f32",
                  at);
    }
  }
  averages_ = make_state("average", at);
}

/// Of so many updates, how many values count.
std::int64_t Optimizer::counted(std::int64_t updates) const {
  return updates <= average_.start ? 0 : (updates - average_.start - 1) / average_.every + 1;
}

/// What stays of the average in the update after so many.
double Optimizer::keep_of(std::int64_t updates) const {
  const std::int64_t before = counted(updates);
  if (counted(updates + 1) == before) return 1;
  if (before == 0) return 0;
  return average_.equal ? static_cast<double>(before) / static_cast<double>(before + 1) : average_.decay;
}

Tensor Optimizer::keep_scalar(std::size_t index, Location at) {
  const double keep = average_.present() ? keep_of(updates_[index]) : 1;
  for (const auto& [known, scalar] : keeps_) {
    if (known == keep) return scalar;
  }
  keeps_.emplace_back(keep, scalar(keep, DType::f64, at));
  return keeps_.back().second;
}

void Optimizer::exchange_average(Location at) {
  if (!average_.present())
    throw Error(name_, "keeps no average: its options have neither average.decay nor average.equal", at);
  if (!is_exchanged_) {
    take_back_updates();
    exchanged_.clear();
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (counted(updates_[i]) > 0) exchanged_.push_back(i);
    }
  }
  for (const std::size_t i : exchanged_) {
    const Tensor value = parameters_[i].value();
    parameters_[i].set_data(averages_[i].value(), at);
    averages_[i].set_data(value, at);
  }
  is_exchanged_ = !is_exchanged_;
}

void Optimizer::step(Location at) {
  if (is_exchanged_) throw Error(name_, "step() while the parameters are exchanged with their averages", at);
  std::vector<std::size_t>& updated = work_.updated;
  updated.clear();
  take_back_updates();
  const Tensor norm_before = last_grad_norm_;
  {
    const NoGrad no_history;
    const core::PhaseScope phase(plan::Phase::update, at);
    const Work::Handles handles{work_};  // let go of before the run
    Bindings& bindings = work_.bindings;
    std::vector<Tensor>& gradients = work_.gradients;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      Tensor gradient = parameters_[i].grad();
      if (!gradient.defined() || !parameters_[i].requires_grad()) continue;
      updated.push_back(i);
      gradients.push_back(std::move(gradient));
    }
    keeps_.clear();  // what a step that threw has left
    const bool clip = max_grad_norm_ > 0 && !gradients.empty();
    const Tensor norm = clip ? ops::grad_norm(gradients, at) : Tensor();
    const Tensor scale = clip ? clip_scale(norm, max_grad_norm_, at) : Tensor();
    begin_step(at);
    for (std::size_t i = 0; i < updated.size(); ++i) {
      update(updated[i], clip ? scaled(gradients[i], scale, at) : gradients[i], bindings, at);
    }
    end_step();
    keeps_.clear();
    // Only now, when nothing can throw any more; and no handle stays here to keep an old version alive.
    last_grad_norm_ = norm;
    for (auto& [cell, value] : bindings) cell.set_data(std::move(value), at);
    for (std::size_t i : updated) ++updates_[i];
  }
  try {
    const core::QueuedRun run = core::flush_step(at);
    QueuedStep& queued = queued_[next_queued_++ % std::size(queued_)];
    queued.device = run.backend;
    queued.run = run.number;
    if (queued.run != 0) queued.updated.assign(updated.begin(), updated.end());
  } catch (...) {
    for (std::size_t i : updated) --updates_[i];
    last_grad_norm_ = norm_before;
    throw;
  }
}

/// The host is at most one run ahead of a device, so that two steps are all that can be taken back.
void Optimizer::take_back_updates() const {
  for (QueuedStep& step : queued_) {
    const core::QueuedRun run{static_cast<plan::Backend*>(step.device), step.run};
    if (!run.taken_back()) continue;
    for (std::size_t i : step.updated) --updates_[i];
    step.run = 0;
  }
}

void Optimizer::zero_grad() {
  for (Parameter& parameter : parameters_) parameter.zero_grad();
}

ParameterGroup without_decay() {
  return {.where = [](const Parameter& parameter) { return parameter.shape().rank() < 2; },
          .weight_decay = 0};
}

void Optimizer::set_learning_rate(double rate, Location at) { set_learning_rates(rate, rate, at); }

void Optimizer::set_learning_rates(double initial, double now, Location at) {
  check_rate(name_, initial, at);
  check_rate(name_, now, at);
  initial_learning_rate_ = initial;
  learning_rate_ = now;
}

Settings Optimizer::settings() const {
  Settings all = own_settings();
  all.insert({{"lr", given_learning_rate_}, {"max_grad_norm", max_grad_norm_}});
  for (std::size_t g = 1; g < groups_.size(); ++g) {
    const std::string of = "group" + std::to_string(g) + ".";
    const auto members = std::count(group_of_.begin(), group_of_.end(), g);
    all.insert({{of + "parameters", static_cast<double>(members)}, {of + "lr_factor", groups_[g].lr_factor}});
    if (groups_[g].weight_decay) all.emplace(of + "weight_decay", *groups_[g].weight_decay);
    if (groups_[g].momentum) all.emplace(of + "momentum", *groups_[g].momentum);
  }
  if (average_.present()) {
    all.insert({{"average.decay", average_.decay},
                {"average.equal", average_.equal ? 1 : 0},
                {"average.start", static_cast<double>(average_.start)},
                {"average.every", static_cast<double>(average_.every)}});
  }
  return all;
}

/// Those of the groups that differ in numbers only.
std::vector<ParameterGroup> Optimizer::groups_of(const Settings& settings, Location at) const {
  std::vector<ParameterGroup> groups = groups_;
  for (std::size_t g = 1; g < groups.size(); ++g) {
    const std::string which = "group " + std::to_string(g), of = "group" + std::to_string(g) + ".";
    const auto members = static_cast<double>(std::count(group_of_.begin(), group_of_.end(), g));
    if (settings.at(of + "parameters") != members) {
      throw Error(name_,
                  which + ": expected " + core::number_text(settings.at(of + "parameters")) +
                      " parameters, got " + core::number_text(members),
                  at);
    }
    groups[g].lr_factor = settings.at(of + "lr_factor");
    if (groups[g].weight_decay) groups[g].weight_decay = settings.at(of + "weight_decay");
    if (groups[g].momentum) groups[g].momentum = settings.at(of + "momentum");
    check_group(name_, which, groups[g], at);
  }
  return groups;
}

WeightAverage Optimizer::average_of(const Settings& settings, Location at) const {
  if (!average_.present()) return {};
  const SettingReader read{settings, name_, at};
  const WeightAverage average{.decay = read.number("average.decay"),
                              .equal = read.number("average.equal") != 0,
                              .start = read.count("average.start"),
                              .every = read.count("average.every")};
  check_average(name_, average, at);
  return average;
}

void Optimizer::set_settings(const Settings& settings, Location at) {
  for (const auto& [name, value] : this->settings()) {
    if (settings.count(name) == 0) throw Error(name_, "expected a setting " + name + ", got none", at);
  }
  const Settings ours = this->settings();
  for (const auto& [name, value] : settings) {
    if (ours.count(name) == 0) throw Error(name_, "has no place for a setting " + name, at);
  }
  const double rate = settings.at("lr"), norm = settings.at("max_grad_norm");
  check_rate(name_, rate, at);
  check_max_grad_norm(name_, norm, at);
  std::vector<ParameterGroup> groups = groups_of(settings, at);
  const WeightAverage average = average_of(settings, at);
  if (average.present() != average_.present())
    throw Error(name_, "expected an average here and there or in neither: it exists from construction", at);
  set_own_settings(settings, at);
  groups_ = std::move(groups);
  average_ = average;
  given_learning_rate_ = rate;
  max_grad_norm_ = norm;
}

void Optimizer::set_updates(std::vector<std::int64_t> updates, Location at) {
  if (updates.size() != parameters_.size()) {
    throw Error(name_,
                "expected an update count for each of " + std::to_string(parameters_.size()) +
                    " parameters, got " + std::to_string(updates.size()),
                at);
  }
  for (std::int64_t count : updates) {
    if (count < 0 || count > core::most_counted) {
      throw Error(name_, "expected update counts from 0 to 2^53, got " + std::to_string(count), at);
    }
  }
  for (QueuedStep& step : queued_) step.run = 0;  // counted anew
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

void Optimizer::record_update(const core::OpDef& op, int variant, std::span<const Tensor> scalars,
                              std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) {
  core::InlineVector<Cell, 6> cells;
  core::InlineVector<Tensor, 6> state;
  cells.push_back(parameters_[index]);
  for (std::size_t i = index; i < named_state_.size(); i += parameters_.size()) {
    cells.push_back(named_state_[i].second);
    state.push_back(named_state_[i].second.value());
  }
  core::InlineVector<Tensor, 10> all;
  for (const Tensor& scalar : scalars) all.push_back(scalar);
  all.push_back(keep_scalar(index, at));
  core::Outputs values =
      ops::update(op, 2 * variant + (average_.present() ? 1 : 0), parameters_[index].value(), gradient,
                  {state.begin(), state.size()}, {all.begin(), all.size()}, at);
  for (std::size_t i = 0; i < values.size(); ++i)
    bindings.emplace_back(std::move(cells[i]), std::move(values[i]));
}

Tensor clip_grad_norm(const std::vector<Parameter>& parameters, double max_norm, Location at) {
  if (!(max_norm > 0)) {
    throw Error("clip_grad_norm", "expected max_norm > 0, got " + core::number_text(max_norm), at);
  }
  check_parameters("clip_grad_norm", parameters, at);
  const NoGrad no_history;
  const core::PhaseScope phase(plan::Phase::update, at);
  std::vector<Tensor> gradients;
  for (const Parameter& parameter : parameters) {
    if (parameter.grad().defined()) gradients.push_back(parameter.grad());
  }
  if (gradients.empty()) return scalar(0, DType::f32, at);
  Tensor norm = ops::grad_norm(gradients, at);
  const Tensor scale = clip_scale(norm, max_norm, at);
  for (Parameter parameter : parameters) {
    if (parameter.grad().defined()) parameter.set_grad(scaled(parameter.grad(), scale, at));
  }
  return norm;
}

}  // namespace fusetape::optim
