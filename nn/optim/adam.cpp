#include <cmath>

#include "core/number_text.hpp"
#include "fusetape/optim.hpp"
#include "ops/optimizer.hpp"

namespace fusetape::optim {
namespace {

void check(const std::string& name, const AdamOptions& options, Location at) {
  const auto require = [&](bool ok, const char* expected, double got) {
    if (!ok) throw Error(name, std::string("expected ") + expected + ", got " + core::number_text(got), at);
  };
  require(options.beta1 >= 0 && options.beta1 < 1, "beta1 in [0, 1)", options.beta1);
  require(options.beta2 >= 0 && options.beta2 < 1, "beta2 in [0, 1)", options.beta2);
  require(options.eps >= 0 && std::isfinite(options.eps), "a finite eps ≥ 0", options.eps);
  require(options.weight_decay >= 0 && std::isfinite(options.weight_decay), "a finite weight_decay ≥ 0",
          options.weight_decay);
}

}  // namespace

Adam::Adam(std::string name, std::vector<Parameter> parameters, AdamOptions options, bool decoupled,
           Location at)
    : Optimizer(name, std::move(parameters), options.lr, options.max_grad_norm, at),
      options_(options),
      decoupled_(decoupled) {
  check(name, options_, at);
  first_moment_ = make_state("m", at);
  second_moment_ = make_state("v", at);
}

Adam::Adam(std::vector<Parameter> parameters, AdamOptions options, Location at)
    : Adam("Adam", std::move(parameters), options, false, at) {}

AdamW::AdamW(std::vector<Parameter> parameters, AdamWOptions options, Location at)
    : Adam("AdamW", std::move(parameters),
           {options.lr, options.beta1, options.beta2, options.eps, options.weight_decay,
            options.max_grad_norm},
           true, at) {}

void Adam::begin_step(Location at) {
  lr_ = scalar(learning_rate(), DType::f64, at);
  beta1_ = scalar(options_.beta1, DType::f64, at);
  beta2_ = scalar(options_.beta2, DType::f64, at);
  eps_ = scalar(options_.eps, DType::f64, at);
  weight_decay_ = scalar(options_.weight_decay, DType::f64, at);
  corrections_.clear();
}

Adam::Correction Adam::correction_of(std::int64_t count) {
  for (const Correction& known : corrections_) {
    if (known.count == count) return known;
  }
  const auto t = static_cast<double>(count);
  const Tensor first = scalar(1 - std::pow(options_.beta1, t), DType::f64);
  const Tensor second = scalar(1 - std::pow(options_.beta2, t), DType::f64);
  corrections_.push_back({count, first, second});
  return corrections_.back();
}

void Adam::update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) {
  const Parameter& parameter = parameters()[index];
  const Correction correction = correction_of(updates()[index] + 1);
  ops::AdamStep next = ops::adam_update(
      parameter.value(), gradient, first_moment_[index].value(), second_moment_[index].value(),
      {lr_, beta1_, beta2_, eps_, weight_decay_, correction.first, correction.second}, decoupled_, at);
  bindings.emplace_back(parameter, std::move(next.parameter));
  bindings.emplace_back(first_moment_[index], std::move(next.m));
  bindings.emplace_back(second_moment_[index], std::move(next.v));
}

Settings Adam::own_settings() const {
  return {{"beta1", options_.beta1},
          {"beta2", options_.beta2},
          {"eps", options_.eps},
          {"weight_decay", options_.weight_decay}};
}

void Adam::set_own_settings(const Settings& settings, Location at) {
  AdamOptions options = options_;
  options.beta1 = settings.at("beta1");
  options.beta2 = settings.at("beta2");
  options.eps = settings.at("eps");
  options.weight_decay = settings.at("weight_decay");
  check(name(), options, at);
  options_ = options;
}

void Adam::end_step() {
  lr_ = beta1_ = beta2_ = eps_ = weight_decay_ = Tensor();
  corrections_.clear();
}

}  // namespace fusetape::optim
