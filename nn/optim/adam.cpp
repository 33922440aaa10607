#include <algorithm>
#include <cmath>

#include "nn/optim/setting_reader.hpp"
#include "ops/optimizer.hpp"

namespace fusetape::optim {

using core::updates::adam_rule;

namespace {

void check(const std::string& name, const AdamOptions& options, Location at) {
  const SettingCheck require{name, at};
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
  set_groups(options_.groups, at);
  make_state("m", at);
  make_state("v", at);
  set_average(options_.average, at);
}

Adam::Adam(std::vector<Parameter> parameters, AdamOptions options, Location at)
    : Adam("Adam", std::move(parameters), options, false, at) {}

AdamW::AdamW(std::vector<Parameter> parameters, AdamWOptions options, Location at)
    : Adam("AdamW", std::move(parameters),
           {options.lr, options.beta1, options.beta2, options.eps, options.weight_decay,
            options.max_grad_norm, options.groups, options.average},
           true, at) {}

/// The scalars come with the update counts. What a step that threw has left of them is none of this step's.
void Adam::begin_step(Location) { end_step(); }

std::span<const Tensor> Adam::scalars_of(std::size_t group, std::int64_t count, Location at) {
  const std::pair kind(group, count);
  const auto known = std::find(kinds_.begin(), kinds_.end(), kind);
  const auto place = static_cast<std::size_t>(known - kinds_.begin());
  if (known == kinds_.end()) {
    const auto t = static_cast<double>(count);
    const double beta1 = momentum_of(group, options_.beta1);
    kinds_.push_back(kind);
    ops::append_scalars(adam_rule::Scalars{.lr = learning_rate_of(group),
                                           .beta1 = beta1,
                                           .beta2 = options_.beta2,
                                           .eps = options_.eps,
                                           .weight_decay = weight_decay_of(group, options_.weight_decay),
                                           .correction1 = 1 - std::pow(beta1, t),
                                           .correction2 = 1 - std::pow(options_.beta2, t)},
                        scalars_, at);
  }
  return ops::scalars_at<adam_rule>(scalars_, place);
}

void Adam::update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) {
  const auto variant = decoupled_ ? adam_rule::decoupled : adam_rule::coupled;
  record_update(ops::adam_update_op, variant, scalars_of(group_of(index), updates()[index] + 1, at), index,
                gradient, bindings, at);
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
  kinds_.clear();
  scalars_.clear();
}

}  // namespace fusetape::optim
