#include "tests/ops/op_cases.hpp"

namespace fusetape::tests {
namespace {

using Cases = std::vector<OpCase>;
using In = const Inputs&;

/// Three steps of an optimizer over parameters x[0], x[2], … with gradients x[1], x[3], …; what they are
/// then.
template <class Optimizer, class Options>
Results updated(In x, const Options& options) {
  std::vector<Parameter> parameters;
  for (std::size_t i = 0; i < x.size(); i += 2) parameters.emplace_back(x[i]);
  Optimizer optimizer(parameters, options);
  for (int step = 0; step < 3; ++step) {
    for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].set_grad(x[2 * i + 1]);
    optimizer.set_learning_rate(0.1 / (1 + step));
    optimizer.step();
  }
  std::vector<Tensor> results;
  for (const Parameter& parameter : parameters) results.push_back(parameter.value());
  for (const auto& [name, state] : optimizer.named_state()) results.push_back(state.value());
  return results;
}

/// The same with clip_grad_norm before each step: the parameters, their gradients then, and the last norm.
Results clipped_updates(In x) {
  std::vector<Parameter> parameters;
  for (std::size_t i = 0; i < x.size(); i += 2) parameters.emplace_back(x[i]);
  optim::SGD sgd(parameters, {.lr = 0.1, .momentum = 0.9});
  Tensor norm;
  for (int step = 0; step < 3; ++step) {
    for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].set_grad(x[2 * i + 1]);
    norm = optim::clip_grad_norm(parameters, 0.75);
    sgd.step();
  }
  std::vector<Tensor> results{norm};
  for (const Parameter& parameter : parameters) {
    results.push_back(parameter.value());
    results.push_back(parameter.grad());
  }
  return results;
}

/// Averages and slow weights are not kept of 16 bits.
template <class Options>
bool keeps(const Options& options) {
  return options.average.present() || options.lookahead.every > 0;
}

void add_updates(Cases& cases) {
  std::vector<Input> parameters;
  for (const Shape& shape : {Shape{17}, Shape{3, 3, 3, 2}, Shape{1}, Shape{151, 224}}) {
    parameters.push_back(real(shape));
    parameters.push_back(real(shape));
  }
  const auto clipped = [](In x) { return clipped_updates(x); };
  const Flags clips{.differentiable = false, .groups = {"grad_norm", "clip+sgd_update"}};
  cases.push_back({"sgd, gradients clipped before the step", parameters, clipped, clips});
  cases.push_back({"sgd, one parameter, clipped", {real({3, 5}), real({3, 5})}, clipped, clips});
  cases.push_back({"sgd, a scalar, clipped", {real({}), real({})}, clipped, clips});
  cases.push_back({"sgd, zero gradients and an empty parameter, clipped",
                   {real({0, 3}), real({0, 3}), real({3}), real({3})},
                   [](In x) {
                     return clipped_updates({x[0], x[1], x[2], x[3] * 0.0});
                   },
                   clips});
  std::vector<Input> many;
  for (std::int64_t i = 1; i <= 13; ++i) many.insert(many.end(), {real({i}), real({i})});
  cases.push_back({"sgd, thirteen parameters, clipped", many, clipped, clips});
  cases.push_back({"sgd, two parameters with one gradient, clipped",
                   {real({4, 3}), real({4, 3}), real({4, 3})},
                   [](In x) {
                     return clipped_updates({x[0], x[1], x[2], x[1]});
                   },
                   clips});
  cases.push_back({"sgd, clipped inside the step to more than there is", parameters,
                   [](In x) { return updated<optim::SGD>(x, optim::SGDOptions{.max_grad_norm = 1e9}); },
                   clips});
  cases.push_back(
      {"adamw, clipped inside the step",
       parameters,
       [](In x) { return updated<optim::AdamW>(x, optim::AdamWOptions{.lr = 0.01, .max_grad_norm = 0.5}); },
       {.differentiable = false, .groups = {"grad_norm", "clip+adam_update"}}});
  const std::pair<const char*, optim::SGDOptions> sgds[] = {
      {"plain", {}},
      {"momentum", {.momentum = 0.9}},
      {"nesterov", {.momentum = 0.9, .nesterov = true}},
      {"weight decay", {.weight_decay = 1e-2}},
      {"momentum and weight decay", {.momentum = 0.8, .weight_decay = 1e-2}},
      {"limited gradients, an average", {.max_grad_value = 0.25, .average = {.equal = true}}},
      {"lookahead", {.momentum = 0.9, .nesterov = true, .lookahead = {.every = 2}}},
  };
  for (const auto& [name, options] : sgds) {
    cases.push_back({std::string("sgd, ") + name,
                     parameters,
                     [options = options](In x) { return updated<optim::SGD>(x, options); },
                     {.differentiable = false, .wide_only = keeps(options), .groups = {"sgd_update"}}});
  }
  cases.push_back({"adam",
                   parameters,
                   [](In x) { return updated<optim::Adam>(x, optim::AdamOptions{.weight_decay = 1e-2}); },
                   {.differentiable = false, .groups = {"adam_update"}}});
  cases.push_back({"adamw",
                   parameters,
                   [](In x) { return updated<optim::AdamW>(x, optim::AdamWOptions{.lr = 0.01}); },
                   {.differentiable = false, .groups = {"adam_update"}}});
  const std::pair<const char*, optim::NAdamOptions> nadams[] = {
      {"coupled", {.weight_decay = 1e-2}},
      {"decoupled", {.weight_decay = 1e-2, .decoupled = true}},
      {"with an average", {.average = {.decay = 0.5}}},
      {"with lookahead", {.max_grad_value = 0.25, .lookahead = {.every = 2, .share = 0.25}}},
  };
  for (const auto& [name, options] : nadams) {
    cases.push_back({std::string("nadam, ") + name,
                     parameters,
                     [options = options](In x) { return updated<optim::NAdam>(x, options); },
                     {.differentiable = false, .wide_only = keeps(options), .groups = {"adam_update"}}});
  }
  const std::pair<const char*, optim::RMSpropOptions> rmsprops[] = {
      {"plain", {}},
      {"centered", {.weight_decay = 1e-2, .centered = true}},
      {"momentum", {.alpha = 0.9, .momentum = 0.9}},
      {"centered, momentum", {.alpha = 0.9, .momentum = 0.5, .centered = true}},
      {"clipped inside the step", {.momentum = 0.9, .max_grad_norm = 0.5}},
      {"centered, momentum, lookahead", {.momentum = 0.9, .centered = true, .lookahead = {.every = 3}}},
  };
  for (const auto& [name, options] : rmsprops) {
    const bool clip = options.max_grad_norm > 0;
    cases.push_back({std::string("rmsprop, ") + name,
                     parameters,
                     [options = options](In x) { return updated<optim::RMSprop>(x, options); },
                     {.differentiable = false,
                      .wide_only = keeps(options),
                      .groups = {clip ? "clip+rmsprop_update" : "rmsprop_update"}}});
  }
}

}  // namespace

std::vector<OpCase> update_cases() {
  Cases cases;
  add_updates(cases);
  return cases;
}

}  // namespace fusetape::tests
