#include <algorithm>
#include <cmath>
#include <numbers>

#include "fusetape/optim.hpp"

namespace fusetape::optim {
namespace {

void require(bool ok, const char* schedule, const char* expected, double got, Location at) {
  if (!ok) throw Error(schedule, std::string("expected ") + expected + ", got " + std::to_string(got), at);
}

void require_steps(const char* schedule, const char* what, std::int64_t steps, Location at) {
  if (steps < 1) {
    throw Error(schedule, std::string("expected ") + what + " ≥ 1, got " + std::to_string(steps), at);
  }
}

/// From `start` to `end` on half a cosine; `part` in [0, 1].
double cosine(double start, double end, double part) {
  return end + (start - end) / 2 * (std::cos(std::numbers::pi * part) + 1);
}

std::function<double(std::int64_t)> step_rate(double base, StepLROptions options, Location at) {
  require_steps("StepLR", "step_size", options.step_size, at);
  require(options.gamma > 0, "StepLR", "gamma > 0", options.gamma, at);
  return [=](std::int64_t step) {
    const std::int64_t drops = step / options.step_size;
    return base * std::pow(options.gamma, static_cast<double>(drops));
  };
}

std::function<double(std::int64_t)> cosine_rate(double base, CosineLROptions options, Location at) {
  require_steps("CosineLR", "total_steps", options.total_steps, at);
  require(options.min_lr >= 0, "CosineLR", "min_lr ≥ 0", options.min_lr, at);
  return [=](std::int64_t step) {
    const auto done = static_cast<double>(std::min(step, options.total_steps));
    return cosine(base, options.min_lr, done / static_cast<double>(options.total_steps));
  };
}

std::function<double(std::int64_t)> one_cycle_rate(OneCycleLROptions options, Location at) {
  require_steps("OneCycleLR", "total_steps", options.total_steps, at);
  require(options.max_lr > 0, "OneCycleLR", "max_lr > 0", options.max_lr, at);
  require(options.pct_start >= 0 && options.pct_start <= 1, "OneCycleLR", "pct_start in [0, 1]",
          options.pct_start, at);
  require(options.div_factor > 0, "OneCycleLR", "div_factor > 0", options.div_factor, at);
  require(options.final_div_factor > 0, "OneCycleLR", "final_div_factor > 0", options.final_div_factor, at);
  const double first = options.max_lr / options.div_factor;
  const double last = first / options.final_div_factor;
  const double end = static_cast<double>(options.total_steps) - 1;
  const double top = options.pct_start * static_cast<double>(options.total_steps) - 1;
  return [=, max = options.max_lr](std::int64_t step) {
    const double now = std::min(static_cast<double>(step), end);  // the last rate stays
    if (now <= top) return cosine(first, max, top > 0 ? now / top : 1);
    return cosine(max, last, end > top ? (now - top) / (end - top) : 1);
  };
}

std::function<double(std::int64_t)> warmup_rate(const Schedule& then, LinearWarmupOptions options,
                                                Location at) {
  require_steps("LinearWarmup", "steps", options.steps, at);
  require(options.start_factor >= 0 && options.start_factor <= 1, "LinearWarmup", "start_factor in [0, 1]",
          options.start_factor, at);
  return [=](std::int64_t step) {
    if (step >= options.steps) return then.at(step - options.steps);
    const double part = static_cast<double>(step) / static_cast<double>(options.steps);
    return then.at(0) * (options.start_factor + (1 - options.start_factor) * part);
  };
}

}  // namespace

Schedule::Schedule(Optimizer& optimizer, std::function<double(std::int64_t)> rate)
    : optimizer_(&optimizer), rate_(std::move(rate)) {
  optimizer_->set_learning_rate(at(0));
}

void Schedule::step() { optimizer_->set_learning_rate(at(++index_)); }

void Schedule::set_index(std::int64_t index, Location location) {
  if (index < 0) throw Error("Schedule", "expected an index ≥ 0, got " + std::to_string(index), location);
  index_ = index;
  optimizer_->set_learning_rate(at(index_), location);
}

StepLR::StepLR(Optimizer& optimizer, StepLROptions options, Location at)
    : Schedule(optimizer, step_rate(optimizer.learning_rate(), options, at)) {}

CosineLR::CosineLR(Optimizer& optimizer, CosineLROptions options, Location at)
    : Schedule(optimizer, cosine_rate(optimizer.learning_rate(), options, at)) {}

OneCycleLR::OneCycleLR(Optimizer& optimizer, OneCycleLROptions options, Location at)
    : Schedule(optimizer, one_cycle_rate(options, at)) {}

LinearWarmup::LinearWarmup(Optimizer& optimizer, Schedule then, LinearWarmupOptions options, Location at)
    : Schedule(optimizer, warmup_rate(then, options, at)) {}

}  // namespace fusetape::optim
