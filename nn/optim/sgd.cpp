#include <cmath>

#include "nn/optim/setting_reader.hpp"
#include "ops/optimizer.hpp"

namespace fusetape::optim {

using core::updates::sgd_rule;

namespace {

void check(const SGDOptions& options, Location at) {
  const SettingCheck require{"SGD", at};
  require(options.momentum >= 0 && options.momentum <= 1, "momentum in [0, 1]", options.momentum);
  require(options.weight_decay >= 0 && std::isfinite(options.weight_decay), "a finite weight_decay ≥ 0",
          options.weight_decay);
  require(!options.nesterov || options.momentum > 0, "a momentum > 0 with nesterov", options.momentum);
}

}  // namespace

SGD::SGD(std::vector<Parameter> parameters, SGDOptions options, Location at)
    : Optimizer("SGD", std::move(parameters), options.lr, options.max_grad_norm, at), options_(options) {
  check(options_, at);
  set_groups(options_.groups, at);
  if (options_.momentum == 0 && a_group_has_momentum())
    throw Error("SGD", "expected a momentum > 0 for all where a group has one, got 0", at);
  if (options_.momentum != 0) make_state("velocity", at);
  set_average(options_.average, options_.lookahead, at);
  set_guards(options_.max_grad_value, options_.non_finite, at);
}

void SGD::begin_step(Location at) {
  scalars_.clear();
  for (std::size_t group = 0; group < groups(); ++group) {
    const sgd_rule::Scalars scalars{.lr = learning_rate_of(group),
                                    .weight_decay = weight_decay_of(group, options_.weight_decay),
                                    .momentum = momentum_of(group, options_.momentum)};
    ops::append_scalars(scalars, scalars_, at);
  }
}

void SGD::update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) {
  const auto moving = options_.nesterov ? sgd_rule::nesterov : sgd_rule::heavy_ball;
  const auto variant = options_.momentum != 0 ? moving : sgd_rule::plain;
  record_update(ops::sgd_update_op, variant, ops::scalars_at<sgd_rule>(scalars_, group_of(index)), index,
                gradient, bindings, at);
}

Settings SGD::own_settings() const {
  return {{"momentum", options_.momentum},
          {"weight_decay", options_.weight_decay},
          {"nesterov", options_.nesterov ? 1 : 0}};
}

void SGD::set_own_settings(const Settings& settings, Location at) {
  SGDOptions options = options_;
  options.momentum = settings.at("momentum");
  options.weight_decay = settings.at("weight_decay");
  options.nesterov = settings.at("nesterov") != 0;
  check(options, at);
  if ((options.momentum != 0) != (options_.momentum != 0)) {
    throw Error(
        "SGD", "expected a momentum of 0 here and there or in neither: the velocity exists from construction",
        at);
  }
  options_ = options;
}

void SGD::end_step() { scalars_.clear(); }

}  // namespace fusetape::optim
