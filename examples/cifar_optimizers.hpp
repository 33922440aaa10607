#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cifar_options.hpp"

/// What moves the weights of resnet_cifar.
namespace examples {

namespace ft = fusetape;

inline ft::optim::SGDOptions sgd_options(const CifarOptions& options) {
  ft::optim::SGDOptions sgd{.lr = options.lr,
                            .momentum = options.momentum,
                            .weight_decay = options.weight_decay,
                            .nesterov = options.nesterov};
  if (options.lookahead) sgd.lookahead = {.every = 5, .share = 1};
  if (options.norm_lr != 1) {
    const auto is_of_norm = [](const ft::Parameter& p) {
      const std::string& name = p.name();
      const bool in_norm = name.find("norm") != std::string::npos || name.find("bn") != std::string::npos;
      return in_norm && name.ends_with("bias");
    };
    sgd.groups = {{.where = is_of_norm,
                   .lr_factor = options.norm_lr,
                   .weight_decay = options.weight_decay / options.norm_lr}};
  }
  return sgd;
}

inline ft::optim::Schedule make_schedule(const CifarOptions& options, ft::optim::Optimizer& optimizer,
                                         std::int64_t steps) {
  if (options.schedule == "onecycle")
    return ft::optim::OneCycleLR(optimizer, {.max_lr = options.lr, .total_steps = steps});
  if (options.schedule == "cosine") return ft::optim::CosineLR(optimizer, {.total_steps = steps});
  if (options.schedule == "linear") return ft::optim::PolynomialLR(optimizer, {.total_steps = steps});
  if (options.schedule == "paper") {
    const std::int64_t half = std::max<std::int64_t>(steps / 2, 1);
    return ft::optim::MultiStepLR(optimizer, {.milestones = {half, std::max(steps * 3 / 4, half + 1)}});
  }
  if (options.schedule == "triangle") {  // from 0.2 of the rate up in 23 % of the steps, then down to 0.07
    const std::int64_t rise = steps * 23 / 100, fall = steps - rise;
    const auto to_zero = std::max<std::int64_t>(fall * 100 / 93, 1);
    const ft::optim::PolynomialLR down(optimizer, {.total_steps = to_zero});
    if (rise == 0) return down;
    return ft::optim::LinearWarmup(optimizer, down, {.steps = rise, .start_factor = 0.2});
  }
  return ft::optim::StepLR(optimizer, {.step_size = std::max<std::int64_t>(steps / 3, 1)});
}

/// SGD for all weights, or Muon for the filters and SGD for the rest, each with its schedule.
class CifarOptimizers {
 public:
  CifarOptimizers(const CifarOptions& options, const ft::nn::Module& model, std::int64_t steps)
      : options_(options), sgd_(sgd_parameters(model), sgd_options(options)) {
    schedules_.push_back(make_schedule(options, sgd_, steps));
    if (!has_muon()) return;
    require(options.precision != "f16",
            "--precision f16 needs --optimizer sgd: one loss scaler, one optimizer");
    require(!options.lookahead, "--lookahead needs --optimizer sgd");
    require(
        options.schedule != "onecycle",
        "--optimizer muon needs another --schedule than onecycle, whose peak is one --lr: linear is usual");
    // As Jordan's airbench has it: the norm behind a filter undoes its scale, so that is kept.
    muon_ = std::make_unique<ft::optim::Muon>(
        parameters_of(model, true),
        ft::optim::MuonOptions{.lr = options.muon_lr, .momentum = 0.6, .iterations = 3, .normalize = true});
    schedules_.push_back(make_schedule(options, *muon_, steps));
  }

  void zero_grad() {
    sgd_.zero_grad();
    if (muon_) muon_->zero_grad();
  }

  /// With `done` of the run behind it, from 0 to 1. Whether the weights moved: not where f16 overflowed.
  bool step(ft::optim::LossScaler& scaler, double done) {
    // How much of the way from the slow weights to the weights these go: all of it, and a quarter at the end.
    if (options_.lookahead) sgd_.set_lookahead_share(1 - std::pow(0.95, 5) * done * done * done);
    const bool moved = options_.precision == "f16" ? scaler.step(sgd_) : sgd_.step();
    if (muon_) muon_->step();
    for (ft::optim::Schedule& schedule : schedules_) schedule.step();
    return moved;
  }

  void add_to(ft::io::Training& training) {
    if (!muon_) {
      training.optimizer = &sgd_, training.schedule = &schedules_[0];
      return;
    }
    training.optimizers = {{"sgd", &sgd_}, {"muon", muon_.get()}};
    training.schedules = {{"sgd", &schedules_[0]}, {"muon", &schedules_[1]}};
  }

 private:
  static void require(bool ok, const char* otherwise) {
    if (!ok) throw std::runtime_error(otherwise);
  }
  bool has_muon() const { return options_.optimizer == "muon"; }

  /// The filters, or all others.
  static std::vector<ft::Parameter> parameters_of(const ft::nn::Module& model, bool filters) {
    std::vector<ft::Parameter> some;
    for (const ft::Parameter& parameter : model.parameters())
      if ((parameter.shape().rank() == 4) == filters) some.push_back(parameter);
    return some;
  }
  std::vector<ft::Parameter> sgd_parameters(const ft::nn::Module& model) const {
    return has_muon() ? parameters_of(model, false) : model.parameters();
  }

  const CifarOptions& options_;
  ft::optim::SGD sgd_;
  std::unique_ptr<ft::optim::Muon> muon_;
  std::vector<ft::optim::Schedule> schedules_;
};

}  // namespace examples
