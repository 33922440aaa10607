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

void check_momentum_decay(const std::string& name, double decay, Location at) {
  SettingCheck{name, at}(decay >= 0 && std::isfinite(decay), "a finite momentum_decay ≥ 0", decay);
}

template <class Options>
AdamOptions as_adam(const Options& options) {
  return {.lr = options.lr,
          .beta1 = options.beta1,
          .beta2 = options.beta2,
          .eps = options.eps,
          .weight_decay = options.weight_decay,
          .max_grad_norm = options.max_grad_norm,
          .max_grad_value = options.max_grad_value,
          .non_finite = options.non_finite,
          .groups = options.groups,
          .average = options.average,
          .lookahead = options.lookahead};
}

}  // namespace

Adam::Adam(std::string name, std::vector<Parameter> parameters, AdamOptions options, int variant,
           double momentum_decay, Location at)
    : Optimizer(name, std::move(parameters), options.lr, options.max_grad_norm, at),
      options_(std::move(options)),
      variant_(variant),
      momentum_decay_(momentum_decay) {
  check(name, options_, at);
  check_momentum_decay(name, momentum_decay_, at);
  set_groups(options_.groups, at);
  make_state("m", at);
  make_state("v", at);
  set_average(options_.average, options_.lookahead, at);
  set_guards(options_.max_grad_value, options_.non_finite, at);
}

Adam::Adam(std::vector<Parameter> parameters, AdamOptions options, Location at)
    : Adam("Adam", std::move(parameters), std::move(options), adam_rule::coupled, 0, at) {}

AdamW::AdamW(std::vector<Parameter> parameters, AdamWOptions options, Location at)
    : Adam("AdamW", std::move(parameters), as_adam(options), adam_rule::decoupled, 0, at) {}

NAdam::NAdam(std::vector<Parameter> parameters, NAdamOptions options, Location at)
    : Adam("NAdam", std::move(parameters), as_adam(options),
           adam_rule::nesterov | (options.decoupled ? adam_rule::decoupled : adam_rule::coupled),
           options.momentum_decay, at) {}

/// The parameters of a step have few different counts, which mostly go up by one.
Adam::Momentum Adam::momentum_at(double beta1, std::int64_t count) {
  const auto momentum = [&](std::int64_t t) {
    return beta1 * (1 - 0.5 * std::pow(0.96, static_cast<double>(t) * momentum_decay_));
  };
  constexpr std::size_t most = 16;  // kinds of groups and counts in a step; more of them only take longer
  Product* best = nullptr;
  for (Product& known : products_) {
    if (known.beta1 != beta1 || known.count > count) continue;
    if (best == nullptr || known.count > best->count) best = &known;
  }
  if (best == nullptr) {
    if (products_.size() == most) products_.erase(products_.begin());
    best = &products_.emplace_back(Product{.beta1 = beta1});
  }
  while (best->count < count && best->value > 0) best->value *= momentum(++best->count);
  best->count = count;  // what is 0 by now stays so
  return {momentum(count), momentum(count + 1), best->value};
}

/// The scalars come with the update counts. What a step that threw has left of them is none of this step's.
void Adam::begin_step(Location) { end_step(); }

std::span<const Tensor> Adam::scalars_of(std::size_t group, std::int64_t count, Location at) {
  const std::pair kind(group, count);
  const auto known = std::find(kinds_.begin(), kinds_.end(), kind);
  const auto place = static_cast<std::size_t>(known - kinds_.begin());
  if (known == kinds_.end()) {
    const auto t = static_cast<double>(count);
    const double beta1 = momentum_of(group, options_.beta1);
    adam_rule::Scalars scalars{.lr = learning_rate_of(group),
                               .beta1 = beta1,
                               .beta2 = options_.beta2,
                               .eps = options_.eps,
                               .weight_decay = weight_decay_of(group, options_.weight_decay),
                               .correction1 = 1 - std::pow(beta1, t),
                               .correction2 = 1 - std::pow(options_.beta2, t)};
    if ((variant_ & adam_rule::nesterov) != 0) {
      const Momentum momentum = momentum_at(beta1, count);
      scalars.correction1 = (1 - momentum.product * momentum.next) / momentum.next;
      scalars.share = (1 - momentum.now) / (1 - momentum.product);
    }
    kinds_.push_back(kind);
    ops::append_scalars(scalars, scalars_, at);
  }
  return ops::scalars_at<adam_rule>(scalars_, place);
}

void Adam::update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) {
  record_update(ops::adam_update_op, variant_, scalars_of(group_of(index), updates()[index] + 1, at), index,
                gradient, bindings, at);
}

Settings Adam::own_settings() const {
  Settings settings{{"beta1", options_.beta1},
                    {"beta2", options_.beta2},
                    {"eps", options_.eps},
                    {"weight_decay", options_.weight_decay}};
  if ((variant_ & adam_rule::nesterov) != 0) {
    settings.emplace("momentum_decay", momentum_decay_);
    settings.emplace("decoupled", (variant_ & adam_rule::decoupled) != 0 ? 1 : 0);
  }
  return settings;
}

void Adam::set_own_settings(const Settings& settings, Location at) {
  AdamOptions options = options_;
  options.beta1 = settings.at("beta1");
  options.beta2 = settings.at("beta2");
  options.eps = settings.at("eps");
  options.weight_decay = settings.at("weight_decay");
  check(name(), options, at);
  if ((variant_ & adam_rule::nesterov) != 0) {
    check_momentum_decay(name(), settings.at("momentum_decay"), at);
    momentum_decay_ = settings.at("momentum_decay");
    products_.clear();
    variant_ =
        adam_rule::nesterov | (settings.at("decoupled") != 0 ? adam_rule::decoupled : adam_rule::coupled);
  }
  options_ = std::move(options);
}

void Adam::end_step() {
  kinds_.clear();
  scalars_.clear();
}

}  // namespace fusetape::optim
