#include <cmath>

#include "core/numerics/checked.hpp"
#include "core/numerics/number_text.hpp"
#include "nn/optim/rates.hpp"
#include "nn/optim/setting_reader.hpp"

namespace fusetape::optim {
namespace {

/// Of another schedule, whose copy goes on to say its rates.
Course course_of(const Schedule& schedule) {
  return {.rate = [schedule](std::int64_t step) { return schedule.at(step); },
          .momentum = schedule.momentum(),
          .kind = schedule.kind(),
          .settings = schedule.settings()};
}

Course sequence_of(const std::vector<SchedulePart>& parts, Location at) {
  std::vector<CoursePart> courses;
  courses.reserve(parts.size());
  for (const SchedulePart& part : parts) courses.push_back({course_of(part.schedule), part.steps});
  return sequence_course(courses, at);
}

Course lambda_of(double base, const Rate& factor, Location at) {
  if (!factor) throw Error("LambdaLR", "factor is empty", at);
  return {.rate = [=](std::int64_t step) { return base * factor(step); }, .kind = "custom"};
}

}  // namespace

Schedule::Schedule(Optimizer& optimizer, Rate rate, std::string kind, Settings settings, Location location,
                   Momentum momentum)
    : optimizer_(&optimizer),
      rate_(std::move(rate)),
      momentum_(std::move(momentum)),
      kind_(std::move(kind)),
      settings_(std::move(settings)) {
  if (!rate_) throw Error("Schedule", "rate is empty", location);
  apply(location);
}

Schedule::Schedule(Optimizer& optimizer, Course&& course, Location at)
    : Schedule(optimizer, std::move(course.rate), std::move(course.kind), std::move(course.settings), at,
               std::move(course.momentum)) {}

void Schedule::apply(Location at) {
  if (momentum_) {
    const std::optional<double> momentum = momentum_(index_);
    momentum ? optimizer_->set_momentum(*momentum, at) : optimizer_->reset_momentum();
  }
  optimizer_->set_learning_rates(optimizer_->initial_learning_rate(), this->at(index_), at);
}

void Schedule::step() {
  ++index_;
  apply(Location::current());
}

void Schedule::set_index(std::int64_t index, Location location) {
  if (index < 0 || index > core::most_counted) {
    throw Error("Schedule", "expected an index from 0 to 2^53, got " + std::to_string(index), location);
  }
  index_ = index;
  apply(location);
}

void Schedule::set_settings(const std::string& kind, const Settings& settings, Location location) {
  if (kind == kind_ && settings == settings_) return;  // one of the user's own, too
  Course course = optim::course_of(kind, settings, location);
  rate_ = std::move(course.rate);
  momentum_ = std::move(course.momentum);
  kind_ = kind;
  settings_ = settings;
}

LambdaLR::LambdaLR(Optimizer& optimizer, Rate factor, Location at)
    : Schedule(optimizer, lambda_of(optimizer.initial_learning_rate(), factor, at), at) {}

StepLR::StepLR(Optimizer& optimizer, StepLROptions options, Location at)
    : Schedule(optimizer, step_course(optimizer.initial_learning_rate(), options, at), at) {}

MultiStepLR::MultiStepLR(Optimizer& optimizer, MultiStepLROptions options, Location at)
    : Schedule(optimizer, multi_step_course(optimizer.initial_learning_rate(), options, at), at) {}

ExponentialLR::ExponentialLR(Optimizer& optimizer, ExponentialLROptions options, Location at)
    : Schedule(optimizer, exponential_course(optimizer.initial_learning_rate(), options, at), at) {}

PolynomialLR::PolynomialLR(Optimizer& optimizer, PolynomialLROptions options, Location at)
    : Schedule(optimizer, polynomial_course(optimizer.initial_learning_rate(), options, at), at) {}

CosineLR::CosineLR(Optimizer& optimizer, CosineLROptions options, Location at)
    : Schedule(optimizer, cosine_course(optimizer.initial_learning_rate(), options, at), at) {}

CosineRestartsLR::CosineRestartsLR(Optimizer& optimizer, CosineRestartsLROptions options, Location at)
    : Schedule(optimizer, restarts_course(optimizer.initial_learning_rate(), options, at), at) {}

CyclicLR::CyclicLR(Optimizer& optimizer, CyclicLROptions options, Location at)
    : Schedule(optimizer, cyclic_course(options, at), at) {}

OneCycleLR::OneCycleLR(Optimizer& optimizer, OneCycleLROptions options, Location at)
    : Schedule(optimizer, one_cycle_course(options, at), at) {}

LinearWarmup::LinearWarmup(Optimizer& optimizer, Schedule then, LinearWarmupOptions options, Location at)
    : Schedule(optimizer, warmup_course(course_of(then), options, at), at) {}

SequentialLR::SequentialLR(Optimizer& optimizer, std::vector<SchedulePart> parts, Location at)
    : Schedule(optimizer, sequence_of(parts, at), at) {}

ReduceOnPlateau::ReduceOnPlateau(Optimizer& optimizer, ReduceOnPlateauOptions options, Location at)
    : optimizer_(&optimizer), options_(options) {
  const SettingCheck require{"ReduceOnPlateau", at};
  require(options.factor > 0 && options.factor < 1, "factor in (0, 1)", options.factor);
  require(options.patience >= 0, "patience ≥ 0", static_cast<double>(options.patience));
  require(options.threshold >= 0 && std::isfinite(options.threshold), "a finite threshold ≥ 0",
          options.threshold);
  require(options.cooldown >= 0, "cooldown ≥ 0", static_cast<double>(options.cooldown));
  require(options.min_lr >= 0 && std::isfinite(options.min_lr), "a finite min_lr ≥ 0", options.min_lr);
}

bool ReduceOnPlateau::step(double metric) {
  const double gain = options_.maximize ? metric - best_ : best_ - metric;
  const double wanted = std::isfinite(best_) ? options_.threshold * std::abs(best_) : 0;
  const bool better = seen_ == 0 ? !std::isnan(metric) : gain > wanted;
  if (better) {
    best_ = metric;
    seen_ = 1;
  }
  if (cooling_ > 0) {
    --cooling_;
    bad_ = 0;
    return false;
  }
  bad_ = better ? 0 : bad_ + 1;
  if (bad_ <= options_.patience) return false;
  const double now = optimizer_->learning_rate(), next = std::max(now * options_.factor, options_.min_lr);
  cooling_ = options_.cooldown;
  bad_ = 0;
  if (next >= now) return false;
  optimizer_->set_learning_rates(optimizer_->initial_learning_rate(), next);
  return true;
}

Settings ReduceOnPlateau::state() const {
  return {{"best", best_},
          {"seen", static_cast<double>(seen_)},
          {"bad", static_cast<double>(bad_)},
          {"cooling", static_cast<double>(cooling_)}};
}

void ReduceOnPlateau::set_state(const Settings& state, Location at) {
  const SettingReader read{state, "ReduceOnPlateau", at};
  const double best = read.number("best");
  const std::int64_t seen = read.count("seen"), bad = read.count("bad"), cooling = read.count("cooling");
  best_ = best;
  seen_ = seen;
  bad_ = bad;
  cooling_ = cooling;
}

}  // namespace fusetape::optim
