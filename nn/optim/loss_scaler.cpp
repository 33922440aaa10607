#include <algorithm>
#include <cmath>

#include "core/numerics/checked.hpp"
#include "core/numerics/number_text.hpp"
#include "core/tape/module_scope.hpp"
#include "fusetape/autograd.hpp"
#include "fusetape/ops.hpp"
#include "fusetape/optim.hpp"
#include "nn/optim/finite.hpp"
#include "nn/optim/setting_reader.hpp"
#include "ops/optimizer.hpp"

namespace fusetape::optim {
namespace {

/// Factors whose reciprocals are f32 numbers, too, with all their bits.
constexpr double least_factor = 0x1p-126, most_factor = 0x1p126;

void require(bool ok, const char* expected, double got, Location at) {
  if (!ok)
    throw Error("LossScaler", std::string("expected ") + expected + ", got " + core::number_text(got), at);
}

LossScalerOptions checked(LossScalerOptions options, Location at) {
  require(options.minimum >= least_factor && options.minimum <= most_factor, "minimum from 2^-126 to 2^126",
          options.minimum, at);
  require(options.initial >= options.minimum && options.initial <= most_factor,
          "initial from the minimum to 2^126", options.initial, at);
  require(options.growth > 1 && std::isfinite(options.growth), "growth > 1", options.growth, at);
  require(options.backoff > 0 && options.backoff < 1, "backoff between 0 and 1", options.backoff, at);
  require(options.growth_interval >= 1, "growth_interval ≥ 1", static_cast<double>(options.growth_interval),
          at);
  return options;
}

}  // namespace

LossScaler::LossScaler(LossScalerOptions options, Location at)
    : options_(checked(options, at)), factor_(options.initial) {}

Tensor LossScaler::scale(const Tensor& loss, Location at) const {
  if (!loss.defined()) throw Error("LossScaler", "the loss is undefined", at);
  if (!is_floating(loss.dtype())) {
    throw Error("LossScaler",
                "expected a loss of a floating dtype, got " + std::string(name_of(loss.dtype())), at);
  }
  return mul({loss, at}, {factor_, at});
}

bool LossScaler::step(Optimizer& optimizer, Location at) {
  std::vector<Tensor> gradients;
  Tensor norm;
  {
    const NoGrad no_history;
    const core::PhaseScope phase(plan::Phase::update, at);
    for (const Parameter& parameter : optimizer.parameters()) {
      if (!parameter.grad().defined()) continue;
      gradients.push_back(mul({parameter.grad(), at}, {1 / factor_, at}));
      parameter.set_grad(gradients.back());
    }
    if (!gradients.empty()) norm = ops::grad_norm(gradients, at);
    gradients.clear();
  }
  if (norm.defined() && !is_finite_or_put_back(norm, at)) {
    if (factor_ <= options_.minimum) {
      throw Error(
          "LossScaler",
          "the loss itself is not finite, or its gradients are not: they overflow although the loss is "
          "multiplied by no more than the least factor, " +
              core::number_text(factor_) +
              ". Nothing was updated. set_anomaly_detection(true) names the first op that makes a NaN "
              "or an infinity",
          at);
    }
    factor_ = std::max(factor_ * options_.backoff, options_.minimum);
    clean_steps_ = 0;
    return false;
  }
  optimizer.step(at);
  if (++clean_steps_ >= options_.growth_interval) {  // more than that came from a checkpoint
    factor_ = std::min(factor_ * options_.growth, most_factor);
    clean_steps_ = 0;
  }
  return true;
}

Settings LossScaler::settings() const {
  return {{"growth", options_.growth},
          {"backoff", options_.backoff},
          {"growth_interval", static_cast<double>(options_.growth_interval)},
          {"minimum", options_.minimum}};
}

void LossScaler::set_settings(const Settings& settings, Location at) {
  const SettingReader read{settings, "LossScaler", at};
  LossScalerOptions options;
  options.growth = read.number("growth");
  options.backoff = read.number("backoff");
  options.growth_interval = read.count("growth_interval");
  options.minimum = read.number("minimum");
  options.initial = std::max(options.minimum, options_.initial);  // only the constructor starts from it
  options_ = checked(options, at);
}

void LossScaler::set_state(double factor, std::int64_t clean_steps, Location at) {
  require(factor > 0 && std::isfinite(factor), "a finite factor > 0", factor, at);
  require(clean_steps >= 0 && clean_steps <= core::most_counted, "clean_steps from 0 to 2^53",
          static_cast<double>(clean_steps), at);
  factor_ = std::clamp(factor, options_.minimum, most_factor);
  clean_steps_ = clean_steps;
}

}  // namespace fusetape::optim
