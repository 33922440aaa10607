#include <cmath>

#include "nn/optim/setting_reader.hpp"
#include "ops/optimizer.hpp"

namespace fusetape::optim {

using core::updates::rmsprop_rule;

namespace {

void check(const RMSpropOptions& options, Location at) {
  const SettingCheck require{"RMSprop", at};
  require(options.alpha >= 0 && options.alpha <= 1, "alpha in [0, 1]", options.alpha);
  require(options.eps >= 0 && std::isfinite(options.eps), "a finite eps ≥ 0", options.eps);
  require(options.weight_decay >= 0 && std::isfinite(options.weight_decay), "a finite weight_decay ≥ 0",
          options.weight_decay);
  require(options.momentum >= 0 && options.momentum <= 1, "momentum in [0, 1]", options.momentum);
}

int variant_of(const RMSpropOptions& options) {
  return (options.centered ? rmsprop_rule::centered : 0) |
         (options.momentum != 0 ? rmsprop_rule::heavy_ball : 0);
}

}  // namespace

RMSprop::RMSprop(std::vector<Parameter> parameters, RMSpropOptions options, Location at)
    : Optimizer("RMSprop", std::move(parameters), options.lr, options.max_grad_norm, at), options_(options) {
  check(options_, at);
  set_groups(options_.groups, at);
  if (options_.momentum == 0 && a_group_has_momentum())
    throw Error("RMSprop", "expected a momentum > 0 for all where a group has one, got 0", at);
  make_state("square_avg", at);
  if (options_.centered) make_state("grad_avg", at);
  if (options_.momentum != 0) make_state("momentum_buffer", at);
  set_average(options_.average, options_.lookahead, at);
  set_guards(options_.max_grad_value, options_.non_finite, at);
}

void RMSprop::begin_step(Location at) {
  scalars_.clear();
  for (std::size_t group = 0; group < groups(); ++group) {
    const rmsprop_rule::Scalars scalars{.lr = learning_rate_of(group),
                                        .alpha = options_.alpha,
                                        .eps = options_.eps,
                                        .weight_decay = weight_decay_of(group, options_.weight_decay),
                                        .momentum = momentum_of(group, options_.momentum)};
    ops::append_scalars(scalars, scalars_, at);
  }
}

void RMSprop::update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) {
  record_update(ops::rmsprop_update_op, variant_of(options_),
                ops::scalars_at<rmsprop_rule>(scalars_, group_of(index)), index, gradient, bindings, at);
}

Settings RMSprop::own_settings() const {
  return {{"alpha", options_.alpha},
          {"eps", options_.eps},
          {"weight_decay", options_.weight_decay},
          {"momentum", options_.momentum},
          {"centered", options_.centered ? 1 : 0}};
}

void RMSprop::set_own_settings(const Settings& settings, Location at) {
  RMSpropOptions options = options_;
  options.alpha = settings.at("alpha");
  options.eps = settings.at("eps");
  options.weight_decay = settings.at("weight_decay");
  options.momentum = settings.at("momentum");
  options.centered = settings.at("centered") != 0;
  check(options, at);
  if (variant_of(options) != variant_of(options_)) {
    throw Error("RMSprop",
                "expected the same `centered` here and there, and a momentum of 0 in both or in neither: the "
                "state exists from construction",
                at);
  }
  options_ = options;
}

void RMSprop::end_step() { scalars_.clear(); }

}  // namespace fusetape::optim
