// Modules, models, optimizers and schedules, against formulas written out here and numbers of PyTorch.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
namespace optim = fusetape::optim;
using ft::Parameter;
using ft::Tensor;

using fusetape::tests::contains;
using fusetape::tests::message_of;

namespace {

void check_near(const Tensor& got, const std::vector<double>& expected, double tolerance = 1e-6) {
  const std::vector<double> values = got.to_vector<double>();
  REQUIRE(values.size() == expected.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(values[i] - expected[i]) <= tolerance * std::max(1.0, std::abs(expected[i])));
  }
}

struct Pair : nn::Module {
  nn::Linear left{2, 3}, right{2, 3};
  Pair() {
    register_child("left", left);
    register_child("right", right);
  }
  Tensor both(const Tensor& a, const Tensor& b, ft::Location at = ft::Location::current()) {
    const nn::ModuleScope scope(*this, at);
    return left(a) + right(b);
  }
};

}  // namespace

// ---- modules
// ----------------------------------------------------------------------------------------------------------

TEST_CASE("the residual networks have the papers' parameters") {
  auto model = nn::resnet20({.classes = 10});
  CHECK(model.parameter_count() == 272'474);
  CHECK(nn::resnet_cifar({.depth = 8, .width = 4}).parameter_count() < 10'000);
  CHECK(nn::resnet18({.classes = 10}).parameter_count() == 11'173'962);
  nn::ResNet9 short_net({.width = 8});
  CHECK(short_net(ft::zeros({2, 32, 32, 3})).shape() == ft::Shape{2, 10});
  CHECK(short_net.parameters().size() == 3 * 8 + 1);
  CHECK_THROWS_AS(nn::ResNet9({.width = 0}), ft::Error);

  std::vector<std::string> names;
  for (auto& [name, parameter] : model.named_parameters()) {
    CHECK(parameter.name() == name);
    CHECK_FALSE(parameter.grad().defined());
    names.push_back(name);
  }
  CHECK(names.size() == 65);
  CHECK(names[0] == "conv1.weight");
  CHECK(names[1] == "bn1.weight");
  CHECK(names[2] == "bn1.bias");
  CHECK(names.back() == "fc.bias");
  const auto has = [&names](const char* name) { return std::count(names.begin(), names.end(), name) == 1; };
  CHECK(has("stages.1.0.conv2.weight"));
  CHECK(has("stages.1.0.shortcut.conv.weight"));
  CHECK(has("stages.2.0.shortcut.bn.bias"));
  CHECK_FALSE(has("stages.0.0.shortcut.conv.weight"));
  CHECK(model.named_buffers().size() == 2 * 21);

  CHECK_THROWS_AS(nn::resnet_cifar({.depth = 21}), ft::Error);
  CHECK_THROWS_AS(nn::ResNet({.blocks = {}}), ft::Error);
}

TEST_CASE("the same seed gives the same weights, of the right size") {
  const auto weights = [](std::uint64_t seed) {
    ft::manual_seed(seed);
    nn::Conv2d conv({.in = 16, .out = 32, .kernel = 3});
    nn::Linear linear(64, 32);
    return std::pair(conv.weight().value().to_vector(), linear.weight().value().to_vector());
  };
  const auto first = weights(7);
  CHECK(first == weights(7));
  CHECK(first != weights(8));
  double mean = 0, square = 0;
  for (float w : first.first) mean += w, square += double(w) * w;
  const double count = static_cast<double>(first.first.size());
  CHECK(std::abs(mean / count) < 0.01);
  CHECK(std::sqrt(square / count) == doctest::Approx(std::sqrt(2.0 / (32 * 9))).epsilon(0.05));
  for (float w : first.second) CHECK(std::abs(w) <= 1.0 / 8);
  CHECK_FALSE(nn::kaiming_normal({4, 4}, 4).pending());
  // The draws are those of the recorded ops.
  ft::manual_seed(3);
  const std::vector<float> host = nn::kaiming_normal({7}, 2).to_vector();
  ft::manual_seed(3);
  CHECK(host == ft::randn({7}).to_vector());
}

TEST_CASE("modules know their place") {
  nn::Sequential net;
  auto& conv =
      net.emplace<nn::Conv2d>({.in = 3, .out = 4, .kernel = {3, 1}, .padding = {1, 0}, .bias = false});
  net.emplace<nn::BatchNorm2d>(4);
  auto& inner = net.emplace<nn::Sequential>();
  auto& linear = inner.emplace<nn::Linear>(4, 2);
  CHECK(net.path().empty());
  CHECK(conv.path() == "0");
  CHECK(linear.path() == "2.0");
  CHECK(linear.weight().name() == "2.0.weight");
  CHECK(net.parameters().size() == 5);
  CHECK(conv.weight().shape() == ft::Shape{4, 3, 1, 3});
  CHECK(net.named_buffers()[0].first == "1.running_mean");

  CHECK(linear.is_training());
  net.eval();
  CHECK_FALSE(linear.is_training());
  net.train();
  CHECK(conv.is_training());

  struct Wrong : nn::Module {
    nn::ReLU relu, other;
    explicit Wrong(int what) {
      register_child("relu", relu);
      if (what == 0) register_child("relu", other);
      if (what == 1) register_child("again", relu);
      if (what == 2) register_parameter("a.b", ft::zeros({1}));
    }
  };
  CHECK(contains(message_of([] { Wrong(0); }), "\"relu\" is registered twice"));
  CHECK(contains(message_of([] { Wrong(1); }), "part of a module already"));
  CHECK(contains(message_of([] { Wrong(2); }), "without dots"));
  Wrong none(3);
  CHECK(contains(message_of([&] { none(ft::zeros({1})); }), "does not define forward"));
}

TEST_CASE("a shape error names the user's line and the place in the model") {
  auto model = nn::resnet_cifar({.depth = 8, .width = 4});
  const std::string message = message_of([&] { model(ft::zeros({2, 3, 32, 32})); });
  CHECK(contains(message, "nn_test.cpp"));
  CHECK(contains(message, "conv1"));
  CHECK(contains(message, "conv2d"));
}

TEST_CASE("a module with several inputs has its own method") {
  Pair pair;
  const Tensor a = ft::from_vector({1, 0}, {1, 2}), b = ft::from_vector({0, 1}, {1, 2});
  const std::vector<float> wl = pair.left.weight().value().to_vector(),
                           bl = pair.left.bias().value().to_vector();
  const std::vector<float> wr = pair.right.weight().value().to_vector(),
                           br = pair.right.bias().value().to_vector();
  std::vector<double> expected;
  for (std::size_t o = 0; o < 3; ++o) expected.push_back(double(wl[2 * o]) + bl[o] + wr[2 * o + 1] + br[o]);
  check_near(pair.both(a, b), expected);
  CHECK(contains(message_of([&] { pair.both(a, ft::zeros({1, 3})); }), "right"));
}

namespace {

/// Calls what it is given, and registers or borrows it if told to.
struct Caller : nn::Module {
  enum Word { nothing, registers, borrows };
  Caller(nn::Module& other, Word word) : other_(other) {
    if (word == registers) register_child("other", other);
    if (word == borrows) borrow(other);
  }
  Tensor forward(const Tensor& x) override { return other_(x); }

 private:
  nn::Module& other_;
};

/// Has a method with two inputs that a module calls.
struct PairCaller : nn::Module {
  explicit PairCaller(Pair& pair) : pair_(pair) {}
  Tensor forward(const Tensor& x) override { return pair_.both(x, x); }

 private:
  Pair& pair_;
};

}  // namespace

TEST_CASE("a module that is used inside another but registered nowhere throws at its first call") {
  nn::Linear linear(2, 2);
  nn::Dropout dropout;
  nn::Sequential sequential;
  sequential.emplace<nn::Linear>(2, 2);
  Pair pair;
  PairCaller pair_caller(pair);
  Caller of_linear(linear, Caller::nothing), of_dropout(dropout, Caller::nothing),
      of_sequential(sequential, Caller::nothing);
  nn::Sequential outer;
  outer.emplace<nn::ReLU>();
  outer.append(std::make_unique<Caller>(linear, Caller::nothing));
  struct InCheckpoint : nn::Module {
    nn::Linear fc{2, 2};
    Tensor forward(const Tensor& x) override {
      return ft::checkpoint([this](const std::vector<Tensor>& in) { return std::vector{fc(in[0])}; }, {x})[0];
    }
  } in_checkpoint;

  struct Case {
    nn::Module& model;
    std::string child, caller;
  };
  const std::vector<Case> cases = {
      {of_linear, "fusetape::nn::Linear", "Caller"},
      {of_dropout, "fusetape::nn::Dropout", "Caller"},
      {of_sequential, "fusetape::nn::Sequential", "Caller"},
      {pair_caller, "Pair", "PairCaller"},
      {outer, "fusetape::nn::Linear", "Caller"},
      {in_checkpoint, "fusetape::nn::Linear", "InCheckpoint"},
  };
  for (const bool training : {true, false}) {
    for (const Case& one : cases) {
      one.model.train(training);
      const std::string said = message_of([&one] { one.model(ft::ones({1, 2})); });
      CAPTURE(said);
      CHECK(contains(said, "expected a module that is registered, got "));
      CHECK(contains(said, one.child + ", called by "));
      CHECK(contains(said, "Write register_child(\"name\", member); in the constructor of "));
      CHECK(contains(said, one.caller + ", or borrow(member);"));
      CHECK(contains(said, "(nn_test.cpp:") != (&one.model == &outer));
      CHECK(contains(said, "(1, nn_test.cpp:") == (&one.model == &outer));
    }
  }
}

TEST_CASE("modules that are registered anywhere, or borrowed, run inside others") {
  const Tensor x = ft::ones({1, 2});
  nn::Linear linear(2, 2), teacher(2, 2);
  Caller owner(linear, Caller::registers), sharer(linear, Caller::nothing), student(teacher, Caller::borrows);
  CHECK(owner(x).to_vector() == linear(x).to_vector());
  CHECK(sharer(x).to_vector() == linear(x).to_vector());
  CHECK(student(x).to_vector() == teacher(x).to_vector());
  CHECK(owner.parameters().size() == 2);
  CHECK(sharer.parameters().empty());
  CHECK(student.parameters().empty());  // borrowed: not trained, not saved, not switched
  student.eval();
  CHECK(teacher.is_training());

  // One that borrows does not speak for another.
  Caller forgetful(teacher, Caller::nothing);
  CHECK(contains(message_of([&] { forgetful(x); }), "borrow(member)"));
  CHECK(contains(message_of([&] {
                   struct Self : nn::Module {
                     Self() { borrow(*this); }
                   } self;
                 }),
                 "expected another module to borrow"));
}

TEST_CASE("a part may call its model back, and user code calls what it likes") {
  struct Model : nn::Module {
    struct Part : nn::Module {
      explicit Part(Model& model) : model_(model) {}
      Tensor forward(const Tensor& x) override { return model_.twice(x); }
      Model& model_;
    } part{*this};
    Model() { register_child("part", part); }
    Tensor forward(const Tensor& x) override { return part(x); }
    Tensor twice(const Tensor& x, ft::Location at = ft::Location::current()) {
      const nn::ModuleScope scope(*this, at);
      return x * 2.0;
    }
  } model;
  nn::ReLU relu;
  const Tensor x = ft::ones({2});
  CHECK(relu(model(x)).to_vector() == std::vector<float>{2, 2});
  CHECK(model.part(x).to_vector() == std::vector<float>{2, 2});
}

TEST_CASE("layers refuse impossible options") {
  CHECK_THROWS_AS(nn::Conv2d({.in = 0, .out = 4}), ft::Error);
  CHECK_THROWS_AS(nn::Conv2d({.in = 3, .out = 4, .stride = 0}), ft::Error);
  CHECK_THROWS_AS(nn::Conv2d({.in = 3, .out = 4, .groups = 2}), ft::Error);
  CHECK_THROWS_AS(nn::Linear(0, 4), ft::Error);
  CHECK_THROWS_AS(nn::BatchNorm2d(0), ft::Error);
  CHECK_THROWS_AS(nn::BatchNorm2d(4, {.momentum = 2}), ft::Error);
  CHECK_THROWS_AS(nn::Dropout(1), ft::Error);
}

TEST_CASE("batch norm moves its statistics in training and uses them in evaluation") {
  nn::BatchNorm2d bn(1, {.eps = 0.5, .momentum = 0.25});
  const Tensor x = ft::from_vector({1, 2, 3, 6}, {4, 1});
  const double deviation = std::sqrt(3.5 + 0.5);
  check_near(bn(x), {-2 / deviation, -1 / deviation, 0, 3 / deviation});
  check_near(bn.running_mean().value(), {0.75});
  check_near(bn.running_var().value(), {0.75 + 0.25 * 14 / 3});
  bn.eval();
  const double running = std::sqrt(0.75 + 0.25 * 14 / 3 + 0.5);
  check_near(bn(x), {0.25 / running, 1.25 / running, 2.25 / running, 5.25 / running});
  check_near(bn.running_mean().value(), {0.75});
}

TEST_CASE("dropout is off in evaluation") {
  nn::Dropout dropout(0.5);
  const Tensor x = ft::ones({1000});
  double sum = 0;
  for (float value : dropout(x).to_vector()) {
    CHECK((value == 0 || value == 2));
    sum += value;
  }
  CHECK(sum == doctest::Approx(1000).epsilon(0.15));
  dropout.eval();
  CHECK(dropout(x).to_vector() == x.to_vector());
}

TEST_CASE("a frozen parameter stays, and a shared one counts once") {
  struct Shared : nn::Module {
    Parameter a = register_parameter("a", ft::ones({3}));
  } module;
  optim::SGD sgd(module.parameters(), {.lr = 1});
  module.a.set_requires_grad(false);
  ft::sum(module.a * Parameter(ft::ones({3}))).backward();
  sgd.step();
  check_near(module.a.value(), {1, 1, 1});
  module.a.set_requires_grad(true);
  ft::sum(module.a * 2).backward();
  sgd.step();
  check_near(module.a.value(), {-1, -1, -1});
  module.zero_grad();
  CHECK_FALSE(module.a.grad().defined());
}

// ---- optimizers
// -------------------------------------------------------------------------------------------------------

namespace {

/// The gradient of sum(p²·c)/2 is p·c: steps that depend on the step before.
void pull(const std::vector<Parameter>& parameters, optim::Optimizer& optimizer) {
  optimizer.zero_grad();
  for (const Parameter& p : parameters) {
    (ft::sum(p * p * ft::from_vector({1, 2, -1}, {3})) * 0.5).backward();
  }
  optimizer.step();
}

constexpr double start[] = {1, -2, 0.5}, curvature[] = {1, 2, -1};
Parameter start_parameter() { return Parameter(ft::from_vector({1, -2, 0.5f}, {3}), "p"); }

}  // namespace

TEST_CASE("SGD follows its formula") {
  for (const bool nesterov : {false, true}) {
    for (const double momentum : {0.0, 0.9}) {
      if (nesterov && momentum == 0) continue;
      const Parameter p = start_parameter();
      optim::SGD sgd({p}, {.lr = 0.1, .momentum = momentum, .weight_decay = 0.01, .nesterov = nesterov});
      CHECK(sgd.named_state().size() == (momentum == 0 ? 0 : 1));
      std::vector<double> x(start, start + 3), v(3, 0);
      for (int step = 0; step < 4; ++step) {
        if (step == 2) sgd.set_learning_rate(0.03);
        pull({p}, sgd);
        for (std::size_t i = 0; i < 3; ++i) {
          const double d = x[i] * curvature[i] + 0.01 * x[i];
          v[i] = momentum * v[i] + d;
          x[i] -= sgd.learning_rate() * (nesterov ? d + momentum * v[i] : v[i]);
        }
        check_near(p.value(), x);
      }
    }
  }
}

TEST_CASE("Adam and AdamW follow their formulas, and a skipped parameter keeps its count") {
  for (const bool decoupled : {false, true}) {
    const Parameter p = start_parameter(), late = start_parameter();
    std::unique_ptr<optim::Optimizer> adam;
    if (decoupled) {
      adam = std::make_unique<optim::AdamW>(std::vector{p, late},
                                            optim::AdamWOptions{.lr = 0.1, .weight_decay = 0.1});
    } else {
      adam = std::make_unique<optim::Adam>(std::vector{p, late},
                                           optim::AdamOptions{.lr = 0.1, .weight_decay = 0.1});
    }
    const auto expect = [&](int steps) {
      std::vector<double> x(start, start + 3), m(3, 0), v(3, 0);
      for (int t = 1; t <= steps; ++t) {
        for (std::size_t i = 0; i < 3; ++i) {
          double g = x[i] * curvature[i];
          if (decoupled) {
            x[i] *= 1 - 0.1 * 0.1;
          } else {
            g += 0.1 * x[i];
          }
          m[i] = 0.9 * m[i] + 0.1 * g;
          v[i] = 0.999 * v[i] + 0.001 * g * g;
          x[i] -= 0.1 * (m[i] / (1 - std::pow(0.9, t))) / (std::sqrt(v[i] / (1 - std::pow(0.999, t))) + 1e-8);
        }
      }
      return x;
    };
    for (int step = 1; step <= 3; ++step) {
      if (step < 3) {
        pull({p}, *adam);
      } else {
        pull({p, late}, *adam);
      }
    }
    check_near(p.value(), expect(3), 1e-5);
    check_near(late.value(), expect(1), 1e-5);
    CHECK(adam->updates() == std::vector<std::int64_t>{3, 1});
    CHECK(adam->named_state()[1].first == "m.1");  // the name "p" was taken
  }
}

TEST_CASE("RMSprop follows the formula of PyTorch's documentation") {
  for (const bool centered : {false, true}) {
    for (const double momentum : {0.0, 0.9}) {
      CAPTURE(centered);
      CAPTURE(momentum);
      const Parameter p = start_parameter();
      optim::RMSprop rmsprop({p}, {.lr = 0.1,
                                   .alpha = 0.95,
                                   .eps = 1e-3,
                                   .weight_decay = 0.01,
                                   .momentum = momentum,
                                   .centered = centered});
      std::vector<std::string> names;
      for (const auto& [name, state] : rmsprop.named_state()) names.push_back(name);
      std::vector<std::string> expected_names{"square_avg.p"};
      if (centered) expected_names.push_back("grad_avg.p");
      if (momentum > 0) expected_names.push_back("momentum_buffer.p");
      CHECK(names == expected_names);
      std::vector<double> x(start, start + 3), v(3, 0), average(3, 0), b(3, 0);
      for (int step = 0; step < 6; ++step) {
        if (step == 2) rmsprop.set_learning_rate(0.03);
        pull({p}, rmsprop);
        for (std::size_t i = 0; i < 3; ++i) {
          const double g = x[i] * curvature[i] + 0.01 * x[i];
          v[i] = 0.95 * v[i] + (1 - 0.95) * g * g;
          average[i] = 0.95 * average[i] + (1 - 0.95) * g;
          const double variance = centered ? v[i] - average[i] * average[i] : v[i];
          const double d = g / (std::sqrt(variance) + 1e-3);
          b[i] = momentum * b[i] + d;
          x[i] -= rmsprop.learning_rate() * b[i];
        }
        check_near(p.value(), x, 1e-5);
      }
    }
  }
}

TEST_CASE("RMSprop: where the average takes all of the square, rounding leaves no root of less than zero") {
  Parameter p(ft::zeros({100}));
  optim::RMSprop rmsprop({p}, {.lr = 1e-9, .alpha = 0.5, .centered = true});
  for (int step = 0; step < 60; ++step) {
    p.set_grad(ft::full({100}, 0.1) + ft::arange(100) * 0.01);
    rmsprop.step();
  }
  for (const float x : p.value().to_vector()) CHECK(std::isfinite(x));
}

TEST_CASE("a step after the first makes no plan, whatever the learning rate") {
  auto model = nn::resnet_cifar({.depth = 8, .width = 4});
  optim::SGD sgd(model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 5e-4});
  ft::data::DataLoader loader(ft::data::synthetic_images({.count = 32, .size = 16}), {.batch = 4});
  optim::CosineLR schedule(sgd, {.total_steps = 8});
  std::int64_t misses = 0;
  int step = 0;
  for (const auto& [images, labels] : loader) {
    const Tensor loss = ft::cross_entropy(model(images), labels);
    sgd.zero_grad();
    loss.backward();
    sgd.step();
    schedule.step();
    CHECK(std::isfinite(loss.item()));
    if (++step == 2) misses = ft::plan_cache_stats().misses;
  }
  CHECK(ft::plan_cache_stats().misses == misses);
}

TEST_CASE("a small network learns") {
  ft::manual_seed(1);
  nn::Sequential net;
  net.emplace<nn::Linear>(2, 16);
  net.emplace<nn::Tanh>();
  net.emplace<nn::Linear>(16, 1);
  optim::Adam adam(net.parameters(), {.lr = 0.05});
  const Tensor x = ft::from_vector({0, 0, 0, 1, 1, 0, 1, 1}, {4, 2}),
               y = ft::from_vector({0, 1, 1, 0}, {4, 1});
  double loss = 1;
  for (int step = 0; step < 200; ++step) {
    const Tensor error = ft::bce_with_logits(net(x), y);
    adam.zero_grad();
    error.backward();
    adam.step();
    loss = error.item();
  }
  CHECK(loss < 0.05);
}

TEST_CASE("optimizers refuse impossible options") {
  const Parameter p = start_parameter();
  CHECK_THROWS_AS(optim::SGD({}, {.lr = 0.1}), ft::Error);
  CHECK_THROWS_AS(optim::SGD({p, p}), ft::Error);
  CHECK_THROWS_AS(optim::SGD({p}, {.lr = -1}), ft::Error);
  CHECK_THROWS_AS(optim::SGD({p}, {.lr = NAN}), ft::Error);
  CHECK_THROWS_AS(optim::SGD({p}, {.momentum = -0.1}), ft::Error);
  CHECK_THROWS_AS(optim::SGD({p}, {.weight_decay = -1}), ft::Error);
  CHECK_THROWS_AS(optim::SGD({p}, {.nesterov = true}), ft::Error);
  CHECK_THROWS_AS(optim::Adam({p}, {.beta1 = 1}), ft::Error);
  CHECK_THROWS_AS(optim::AdamW({p}, {.eps = -1}), ft::Error);
  optim::SGD sgd({p});
  CHECK_THROWS_AS(sgd.set_learning_rate(-1), ft::Error);
}

// ---- schedules
// --------------------------------------------------------------------------------------------------------

TEST_CASE("schedules give PyTorch's numbers") {
  optim::SGD sgd({start_parameter()}, {.lr = 0.1});
  const auto check = [&](optim::Schedule schedule, const std::vector<double>& expected) {
    CHECK(sgd.learning_rate() == schedule.at(0));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(i);
      CHECK(sgd.learning_rate() == doctest::Approx(expected[i]).epsilon(1e-12));
      CHECK(schedule.at(static_cast<std::int64_t>(i)) == sgd.learning_rate());
      schedule.step();
    }
  };
  check(
      optim::OneCycleLR(sgd, {.max_lr = 0.4, .total_steps = 10}),
      {0.016000000000000014, 0.20800000000000002, 0.4, 0.38019385280538953, 0.3246982615799052,
       0.24450480877451572, 0.1554967912254843, 0.0753033384200948, 0.019807747194610516, 1.6e-06, 1.6e-06});
  sgd.set_learning_rate(0.1);
  check(optim::CosineLR(sgd, {.total_steps = 8, .min_lr = 0.01}),
        {0.1, 0.0965745789630079, 0.08681980515339463, 0.07222075445642905, 0.055, 0.03777924554357096,
         0.023180194846605363, 0.013425421036992097, 0.01, 0.01});
  sgd.set_learning_rate(0.1);
  check(optim::StepLR(sgd, {.step_size = 3, .gamma = 0.5}), {0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025});
  sgd.set_learning_rate(0.1);
  check(optim::LinearWarmup(sgd, optim::StepLR(sgd, {.step_size = 2}), {.steps = 4, .start_factor = 0.2}),
        {0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.01, 0.01, 0.001});
}

TEST_CASE("a schedule goes on from an index and refuses impossible options") {
  optim::SGD sgd({start_parameter()}, {.lr = 0.1});
  optim::StepLR schedule(sgd, {.step_size = 2});
  schedule.set_index(5);
  CHECK(sgd.learning_rate() == doctest::Approx(0.001));
  schedule.step();
  CHECK(schedule.index() == 6);
  CHECK(sgd.learning_rate() == doctest::Approx(0.0001));
  CHECK_THROWS_AS(schedule.set_index(-1), ft::Error);
  CHECK_THROWS_AS(optim::StepLR(sgd, {}), ft::Error);
  CHECK_THROWS_AS(optim::CosineLR(sgd, {}), ft::Error);
  CHECK_THROWS_AS(optim::OneCycleLR(sgd, {.max_lr = 0.1}), ft::Error);
  CHECK_THROWS_AS(optim::OneCycleLR(sgd, {.total_steps = 10}), ft::Error);
  CHECK_THROWS_AS(optim::LinearWarmup(sgd, schedule, {}), ft::Error);
}
