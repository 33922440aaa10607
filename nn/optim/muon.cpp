#include <algorithm>
#include <cmath>

#include "fusetape/ops.hpp"
#include "nn/optim/setting_reader.hpp"
#include "ops/optimizer.hpp"

namespace fusetape::optim {
namespace {

void check(const MuonOptions& options, Location at) {
  const SettingCheck require{"Muon", at};
  require(options.momentum >= 0 && options.momentum < 1, "momentum in [0, 1)", options.momentum);
  require(options.weight_decay >= 0 && std::isfinite(options.weight_decay), "a finite weight_decay ≥ 0",
          options.weight_decay);
  require(options.iterations >= 1 && options.iterations <= 20, "iterations from 1 to 20", options.iterations);
}

/// x·factor/‖x‖, computed in the norm's dtype: f32 of 16 bits, whose range the quotient may leave. 1e-7 keeps
/// zeros what they are.
Tensor scaled(const Tensor& x, double factor, Location at) {
  const Tensor norm = ops::grad_norm({x}, at);
  const Tensor ratio = div({factor, at}, {add({norm, at}, {1e-7, at}), at});
  return cast({mul({cast({x, at}, norm.dtype()), at}, {ratio, at}), at}, x.dtype());
}

/// Newton and Schulz's iteration with the factors of Jordan et al. 2024, which raise small singular values
/// fastest. x has at most as many rows as columns, so that the products are small.
Tensor orthogonalised(const Tensor& matrix, int iterations, Location at) {
  Tensor x = scaled(matrix, 1, at);
  for (int i = 0; i < iterations; ++i) {
    const Tensor a = matmul({x, at}, {x, at}, {.transpose_b = true});
    const Tensor b =
        add({mul({a, at}, {-4.7750, at}), at}, {mul({matmul({a, at}, {a, at}), at}, {2.0315, at}), at});
    x = add({mul({x, at}, {3.4445, at}), at}, {matmul({b, at}, {x, at}), at});
  }
  return x;
}

}  // namespace

Muon::Muon(std::vector<Parameter> parameters, MuonOptions options, Location at)
    : Optimizer("Muon", std::move(parameters), options.lr, options.max_grad_norm, at),
      options_(std::move(options)) {
  check(options_, at);
  for (const Parameter& parameter : this->parameters()) {
    if (parameter.shape().rank() >= 2) continue;
    throw Error("Muon",
                "expected parameters of two axes and more, got " + to_string(parameter.shape()) + " in \"" +
                    parameter.name() + "\"; give biases and norms to another optimizer",
                at);
  }
  set_groups(options_.groups, at);
  velocities_ = make_state("velocity", at);
  set_guards(options_.max_grad_value, options_.non_finite, at);
}

void Muon::begin_step(Location) {}

void Muon::update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) {
  const std::size_t group = group_of(index);
  const double momentum = momentum_of(group, options_.momentum), rate = learning_rate_of(group);
  const Parameter& parameter = parameters()[index];
  const Tensor p = parameter.value(), before = velocities_[index].value();
  const Tensor velocity = add({mul({before, at}, {momentum, at}), at}, {gradient, at});
  const Tensor direction =
      options_.nesterov ? add({mul({velocity, at}, {momentum, at}), at}, {gradient, at}) : velocity;

  const std::int64_t rows = p.shape()[0], columns = rows == 0 ? 0 : p.shape().elements() / rows;
  const bool turn = rows > columns;
  Tensor matrix = reshape({direction, at}, {rows, columns});
  if (turn) matrix = transpose({matrix, at});
  matrix = orthogonalised(matrix, options_.iterations, at);
  if (turn) matrix = transpose({matrix, at});

  const auto tall = static_cast<double>(rows), wide = static_cast<double>(columns);
  const double scale =
      options_.match_adam ? 0.2 * std::sqrt(std::max(tall, wide)) : std::sqrt(std::max(1.0, tall / wide));
  const double shrink = 1 - rate * weight_decay_of(group, options_.weight_decay);
  const Tensor change = mul({reshape({matrix, at}, p.shape()), at}, {rate * scale, at});
  bindings.emplace_back(velocities_[index], velocity);
  const Tensor before_change = options_.normalize ? scaled(p, std::sqrt(tall), at) : p;
  bindings.emplace_back(parameter, sub({mul({before_change, at}, {shrink, at}), at}, {change, at}));
}

Settings Muon::own_settings() const {
  Settings settings = {{"momentum", options_.momentum},
                       {"weight_decay", options_.weight_decay},
                       {"nesterov", options_.nesterov ? 1 : 0},
                       {"iterations", options_.iterations},
                       {"match_adam", options_.match_adam ? 1 : 0}};
  if (options_.normalize) settings.emplace("normalize", 1);  // checkpoints of earlier versions have none
  return settings;
}

void Muon::set_own_settings(const Settings& settings, Location at) {
  MuonOptions options = options_;
  const SettingReader read{settings, "Muon", at};
  options.momentum = read.number("momentum");
  options.weight_decay = read.number("weight_decay");
  options.nesterov = read.number("nesterov") != 0;
  options.iterations = static_cast<int>(std::min<std::int64_t>(read.count("iterations"), 1000));
  options.match_adam = read.number("match_adam") != 0;
  if (options.normalize)
    SettingCheck{"Muon", at}(read.number("normalize") == 1, "normalize 1, as here", read.number("normalize"));
  check(options, at);
  options_ = std::move(options);
}

}  // namespace fusetape::optim
