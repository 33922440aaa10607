#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/numerics/checked.hpp"
#include "core/numerics/number_text.hpp"
#include "fusetape/optim.hpp"
#include "nn/optim/setting_reader.hpp"

namespace fusetape::optim {
namespace {

using Rate = std::function<double(std::int64_t)>;
const std::string warmup_then = "LinearWarmup, then ", then_prefix = "then.";

void require(bool ok, const char* schedule, const char* expected, double got, Location at) {
  if (!ok) throw Error(schedule, std::string("expected ") + expected + ", got " + core::number_text(got), at);
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

Rate step_rate(double base, StepLROptions options, Location at) {
  require_steps("StepLR", "step_size", options.step_size, at);
  require(options.gamma > 0, "StepLR", "gamma > 0", options.gamma, at);
  return [=](std::int64_t step) {
    const std::int64_t drops = step / options.step_size;
    return base * std::pow(options.gamma, static_cast<double>(drops));
  };
}

Rate cosine_rate(double base, CosineLROptions options, Location at) {
  require_steps("CosineLR", "total_steps", options.total_steps, at);
  require(options.min_lr >= 0, "CosineLR", "min_lr ≥ 0", options.min_lr, at);
  return [=](std::int64_t step) {
    const auto done = static_cast<double>(std::min(step, options.total_steps));
    return cosine(base, options.min_lr, done / static_cast<double>(options.total_steps));
  };
}

Rate one_cycle_rate(OneCycleLROptions options, Location at) {
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

Rate warmup_rate(const Rate& then, LinearWarmupOptions options, Location at) {
  require_steps("LinearWarmup", "steps", options.steps, at);
  require(options.start_factor >= 0 && options.start_factor <= 1, "LinearWarmup", "start_factor in [0, 1]",
          options.start_factor, at);
  return [=](std::int64_t step) {
    if (step >= options.steps) return then(step - options.steps);
    const double part = static_cast<double>(step) / static_cast<double>(options.steps);
    return then(0) * (options.start_factor + (1 - options.start_factor) * part);
  };
}

Settings settings_of(double base, const StepLROptions& options) {
  return {{"base", base}, {"step_size", static_cast<double>(options.step_size)}, {"gamma", options.gamma}};
}
Settings settings_of(double base, const CosineLROptions& options) {
  return {
      {"base", base}, {"total_steps", static_cast<double>(options.total_steps)}, {"min_lr", options.min_lr}};
}
Settings settings_of(const OneCycleLROptions& options) {
  return {{"max_lr", options.max_lr},
          {"total_steps", static_cast<double>(options.total_steps)},
          {"pct_start", options.pct_start},
          {"div_factor", options.div_factor},
          {"final_div_factor", options.final_div_factor}};
}
Settings settings_of(const Schedule& then, const LinearWarmupOptions& options) {
  Settings all{{"steps", static_cast<double>(options.steps)}, {"start_factor", options.start_factor}};
  for (const auto& [name, value] : then.settings()) all.emplace(then_prefix + name, value);
  return all;
}

/// The way back from kind() and settings().
Rate rate_of(const std::string& kind, const Settings& settings, Location at) {
  const SettingReader read{settings, kind, at};
  if (kind == "StepLR") {
    return step_rate(read.number("base"),
                     {.step_size = read.count("step_size"), .gamma = read.number("gamma")}, at);
  }
  if (kind == "CosineLR") {
    return cosine_rate(read.number("base"),
                       {.total_steps = read.count("total_steps"), .min_lr = read.number("min_lr")}, at);
  }
  if (kind == "OneCycleLR") {
    return one_cycle_rate({.max_lr = read.number("max_lr"),
                           .total_steps = read.count("total_steps"),
                           .pct_start = read.number("pct_start"),
                           .div_factor = read.number("div_factor"),
                           .final_div_factor = read.number("final_div_factor")},
                          at);
  }
  if (kind.starts_with(warmup_then)) {
    Settings then;
    for (const auto& [name, value] : settings) {
      if (name.starts_with(then_prefix)) then.emplace(name.substr(then_prefix.size()), value);
    }
    return warmup_rate(rate_of(kind.substr(warmup_then.size()), then, at),
                       {.steps = read.count("steps"), .start_factor = read.number("start_factor")}, at);
  }
  throw Error("Schedule", "expected one of this library's schedules, got '" + kind + "'", at);
}

}  // namespace

Schedule::Schedule(Optimizer& optimizer, std::function<double(std::int64_t)> rate, std::string kind,
                   Settings settings, Location location)
    : optimizer_(&optimizer), rate_(std::move(rate)), kind_(std::move(kind)), settings_(std::move(settings)) {
  if (!rate_) throw Error("Schedule", "rate is empty", location);
  optimizer_->set_learning_rates(optimizer_->initial_learning_rate(), at(0));
}

void Schedule::step() { optimizer_->set_learning_rates(optimizer_->initial_learning_rate(), at(++index_)); }

void Schedule::set_index(std::int64_t index, Location location) {
  if (index < 0 || index > core::most_counted) {
    throw Error("Schedule", "expected an index from 0 to 2^53, got " + std::to_string(index), location);
  }
  index_ = index;
  optimizer_->set_learning_rates(optimizer_->initial_learning_rate(), at(index_), location);
}

void Schedule::set_settings(const std::string& kind, const Settings& settings, Location location) {
  if (kind == kind_ && settings == settings_) return;  // one of the user's own, too
  rate_ = rate_of(kind, settings, location);
  kind_ = kind;
  settings_ = settings;
}

StepLR::StepLR(Optimizer& optimizer, StepLROptions options, Location at)
    : Schedule(optimizer, step_rate(optimizer.initial_learning_rate(), options, at), "StepLR",
               settings_of(optimizer.initial_learning_rate(), options)) {}

CosineLR::CosineLR(Optimizer& optimizer, CosineLROptions options, Location at)
    : Schedule(optimizer, cosine_rate(optimizer.initial_learning_rate(), options, at), "CosineLR",
               settings_of(optimizer.initial_learning_rate(), options)) {}

OneCycleLR::OneCycleLR(Optimizer& optimizer, OneCycleLROptions options, Location at)
    : Schedule(optimizer, one_cycle_rate(options, at), "OneCycleLR", settings_of(options)) {}

LinearWarmup::LinearWarmup(Optimizer& optimizer, Schedule then, LinearWarmupOptions options, Location at)
    : Schedule(optimizer, warmup_rate([then](std::int64_t step) { return then.at(step); }, options, at),
               warmup_then + then.kind(), settings_of(then, options)) {}

}  // namespace fusetape::optim
