#include <cmath>

#include "core/number_text.hpp"
#include "fusetape/optim.hpp"
#include "ops/optimizer.hpp"

namespace fusetape::optim {
namespace {

void check(const SGDOptions& options, Location at) {
  if (!(options.momentum >= 0 && options.momentum <= 1)) {
    throw Error("SGD", "expected momentum in [0, 1], got " + core::number_text(options.momentum), at);
  }
  if (!(options.weight_decay >= 0) || std::isinf(options.weight_decay)) {
    throw Error("SGD", "expected a finite weight_decay ≥ 0, got " + core::number_text(options.weight_decay),
                at);
  }
  if (options.nesterov && options.momentum == 0) {
    throw Error("SGD", "expected a momentum > 0 with nesterov, got 0", at);
  }
}

}  // namespace

SGD::SGD(std::vector<Parameter> parameters, SGDOptions options, Location at)
    : Optimizer("SGD", std::move(parameters), options.lr, options.max_grad_norm, at), options_(options) {
  check(options_, at);
  if (options_.momentum != 0) velocity_ = make_state("velocity", at);
}

void SGD::begin_step(Location at) {
  lr_ = scalar(learning_rate(), DType::f64, at);
  weight_decay_ = scalar(options_.weight_decay, DType::f64, at);
  if (!velocity_.empty()) momentum_ = scalar(options_.momentum, DType::f64, at);
}

void SGD::update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) {
  const Parameter& parameter = parameters()[index];
  const Tensor velocity = velocity_.empty() ? Tensor() : velocity_[index].value();
  ops::SgdStep next = ops::sgd_update(parameter.value(), gradient, velocity, {lr_, weight_decay_, momentum_},
                                      options_.nesterov, at);
  bindings.emplace_back(parameter, std::move(next.parameter));
  if (!velocity_.empty()) bindings.emplace_back(velocity_[index], std::move(next.velocity));
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

void SGD::end_step() { lr_ = weight_decay_ = momentum_ = Tensor(); }

}  // namespace fusetape::optim
