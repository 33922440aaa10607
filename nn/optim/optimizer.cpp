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
#include "nn/optim/finite.hpp"
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

void check_limit(const std::string& name, const char* limit, double got, Location at) {
  if (!(got >= 0))
    throw Error(name, std::string("expected ") + limit + " ≥ 0, got " + core::number_text(got), at);
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

Tensor scaled(const Tensor& gradient, const Tensor& scale, Location at) {
  return mul({gradient, at}, {cast({scale, at}, gradient.dtype()), at});
}

Tensor limited(const Tensor& gradient, double limit, Location at) {
  return clamp({gradient, at}, -limit, limit);
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
  check_limit(name_, "max_grad_norm", max_grad_norm_, at);
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

void Optimizer::set_guards(double max_grad_value, NonFinite non_finite, Location at) {
  check_limit(name_, "max_grad_value", max_grad_value, at);
  max_grad_value_ = max_grad_value;
  non_finite_ = non_finite;
}

void Optimizer::report_non_finite(Location at) const {
  std::size_t bad = 0;

  std::string first;
  for (const Parameter& parameter : parameters_) {
    if (!parameter.grad().defined() || !parameter.requires_grad()) continue;
    const std::vector<double> gradient = parameter.grad().to_vector<double>(at);
    if (std::all_of(gradient.begin(), gradient.end(), [](double x) { return std::isfinite(x); })) continue;
    if (bad++ == 0) first = parameter.name();
  }
  const std::string what = bad == 0 ? "their joint norm is beyond their dtype"
                                    : "there is a NaN or an infinity in that of \"" + first + "\" and of " +
                                          std::to_string(bad - 1) + " more";
  throw Error(name_,
              "expected finite gradients, got others: " + what +
                  ". Nothing was updated. set_anomaly_detection(true) names the first op that makes one",
              at);
}

bool Optimizer::step(Location at) {
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
    kept_.clear();  // what a step that threw has left
    const bool clip = max_grad_norm_ > 0 && !gradients.empty();
    const bool judge = non_finite_ != NonFinite::update && !gradients.empty();
    const Tensor norm = clip || judge ? ops::grad_norm(gradients, at) : Tensor();
    if (judge && !is_finite_or_put_back(norm, at)) {
      last_grad_norm_ = clip ? norm : Tensor();
      if (non_finite_ == NonFinite::report) report_non_finite(at);
      ++skipped_steps_;
      return false;
    }
    const Tensor scale = clip ? clip_scale(norm, max_grad_norm_, at) : Tensor();
    begin_step(at);
    for (std::size_t i = 0; i < updated.size(); ++i) {
      Tensor gradient = clip ? scaled(gradients[i], scale, at) : gradients[i];
      if (max_grad_value_ > 0 && !limits_gradients()) gradient = limited(gradient, max_grad_value_, at);
      update(updated[i], gradient, bindings, at);
    }
    end_step();
    kept_.clear();
    // Only now, when nothing can throw any more; and no handle stays here to keep an old version alive.
    last_grad_norm_ = clip ? norm : Tensor();
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
  return !updated.empty();
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
  // What is as by default is not written: it was none when the first checkpoints were.
  if (max_grad_value_ > 0) all.emplace("max_grad_value", max_grad_value_);
  if (non_finite_ != NonFinite::update) all.emplace("non_finite", static_cast<double>(non_finite_));
  const Settings kept = kept_settings();
  all.insert(kept.begin(), kept.end());
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
  check_limit(name_, "max_grad_norm", norm, at);
  const SettingReader read{settings, name_, at};
  const double limit = max_grad_value_ > 0 ? read.number("max_grad_value") : 0;
  check_limit(name_, "max_grad_value", limit, at);
  // What would be written no more could not be given back.
  if (max_grad_value_ > 0) SettingCheck{name_, at}(limit > 0, "a max_grad_value > 0, as here", limit);
  auto non_finite = static_cast<std::int64_t>(NonFinite::update);
  if (non_finite_ != NonFinite::update) non_finite = read.count("non_finite");
  if (non_finite_ != NonFinite::update && non_finite == 0)
    throw Error(name_, "expected non_finite to be 1 or 2, as here, got 0", at);
  if (non_finite > static_cast<std::int64_t>(NonFinite::report))
    throw Error(name_, "expected non_finite to be 0, 1 or 2, got " + std::to_string(non_finite), at);
  std::vector<ParameterGroup> groups = groups_of(settings, at);
  const WeightAverage average = average_of(settings, at);
  const Lookahead lookahead = lookahead_of(settings, at);
  set_own_settings(settings, at);
  groups_ = std::move(groups);
  average_ = average;
  lookahead_ = lookahead;
  given_share_ = lookahead.share;
  max_grad_value_ = limit;
  non_finite_ = static_cast<NonFinite>(non_finite);
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
  for (const Parameter& parameter : parameters) {
    if (parameter.grad().defined()) parameter.set_grad(scaled(parameter.grad(), scale, at));
  }
  return norm;
}

void clip_grad_value(const std::vector<Parameter>& parameters, double limit, Location at) {
  if (!(limit > 0)) throw Error("clip_grad_value", "expected limit > 0, got " + core::number_text(limit), at);
  check_parameters("clip_grad_value", parameters, at);
  const NoGrad no_history;
  const core::PhaseScope phase(plan::Phase::update, at);
  for (const Parameter& parameter : parameters) {
    if (parameter.grad().defined()) parameter.set_grad(limited(parameter.grad(), limit, at));
  }
}

}  // namespace fusetape::optim
