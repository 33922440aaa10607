#include <cmath>

#include "core/module_scope.hpp"
#include "fusetape/autograd.hpp"
#include "fusetape/ops.hpp"
#include "fusetape/optim.hpp"
#include "ops/optimizer.hpp"

namespace fusetape::optim {
namespace {

void require(bool ok, const char* expected, double got, Location at) {
  if (!ok)
    throw Error("LossScaler", std::string("expected ") + expected + ", got " + std::to_string(got), at);
}

LossScalerOptions checked(LossScalerOptions options, Location at) {
  require(options.initial > 0 && std::isfinite(options.initial), "initial > 0", options.initial, at);
  require(options.growth > 1 && std::isfinite(options.growth), "growth > 1", options.growth, at);
  require(options.backoff > 0 && options.backoff < 1, "backoff between 0 and 1", options.backoff, at);
  require(options.growth_interval >= 1, "growth_interval ≥ 1", static_cast<double>(options.growth_interval),
          at);
  return options;
}

}  // namespace

LossScaler::LossScaler(LossScalerOptions options, Location at)
    : options_(checked(options, at)), factor_(options.initial) {}

Tensor LossScaler::scale(const Tensor& loss, Location at) const { return mul({loss, at}, {factor_, at}); }

bool LossScaler::step(Optimizer& optimizer, Location at) {
  std::vector<Tensor> gradients;
  Tensor norm;
  {
    const NoGrad no_history;
    const core::PhaseScope phase(plan::Phase::update, at);
    for (Parameter parameter : optimizer.parameters()) {
      if (!parameter.grad().defined()) continue;
      gradients.push_back(mul({parameter.grad(), at}, {1 / factor_, at}));
      parameter.set_grad(gradients.back());
    }
    if (!gradients.empty()) norm = ops::grad_norm(gradients, at);
    gradients.clear();
  }
  if (norm.defined() && !std::isfinite(norm.item(at))) {
    factor_ *= options_.backoff;
    clean_steps_ = 0;
    return false;
  }
  optimizer.step(at);
  if (++clean_steps_ == options_.growth_interval) {
    factor_ *= options_.growth;
    clean_steps_ = 0;
  }
  return true;
}

void LossScaler::set_state(double factor, std::int64_t clean_steps, Location at) {
  require(factor > 0 && std::isfinite(factor), "a factor > 0", factor, at);
  require(clean_steps >= 0, "clean_steps ≥ 0", static_cast<double>(clean_steps), at);
  factor_ = factor;
  clean_steps_ = clean_steps;
}

}  // namespace fusetape::optim
