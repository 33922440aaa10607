// Schedules: PyTorch's numbers (tests/data/schedules_pytorch.py), what a checkpoint says of each, and the
// plateau.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace optim = fusetape::optim;
using namespace fusetape::tests;

namespace {

std::map<std::string, std::vector<double>> pytorch_table() {
  std::ifstream in(FUSETAPE_TESTS_DIR "/data/schedules_pytorch.txt");
  std::map<std::string, std::vector<double>> table;
  for (std::string line, name, number; std::getline(in, line);) {
    std::istringstream fields(line);
    std::getline(fields, name, ',');
    while (std::getline(fields, number, ',')) table[name].push_back(std::stod(number));
  }
  return table;
}

/// One of each kind, under its name in the table.
std::vector<std::pair<std::string, optim::Schedule>> schedules(optim::Optimizer& sgd) {
  const optim::StepLR half(sgd, {.step_size = 30, .gamma = 0.5});
  const optim::ExponentialLR falling(sgd, {.gamma = 0.98});
  const auto line = [](std::int64_t step) {
    return 0.1 + 0.9 * static_cast<double>(std::min<std::int64_t>(step, 20)) / 20;
  };
  return {
      {"StepLR", half},
      {"MultiStepLR", optim::MultiStepLR(sgd, {.milestones = {20, 50, 51, 150}, .gamma = 0.3})},
      {"ExponentialLR", optim::ExponentialLR(sgd, {.gamma = 0.97})},
      {"PolynomialLR", optim::PolynomialLR(sgd, {.total_steps = 150, .power = 1.7})},
      {"CosineLR", optim::CosineLR(sgd, {.total_steps = 200, .min_lr = 0.01})},
      {"CosineRestartsLR", optim::CosineRestartsLR(sgd, {.period = 13, .growth = 2, .min_lr = 0.02})},
      {"CosineRestartsLR equal", optim::CosineRestartsLR(sgd, {.period = 40})},
      {"CyclicLR", optim::CyclicLR(sgd, {.min_lr = 0.05, .max_lr = 0.5, .rise = 15, .fall = 25})},
      {"CyclicLR halving",
       optim::CyclicLR(sgd, {.min_lr = 0.05, .max_lr = 0.5, .rise = 20, .halving = true})},
      {"OneCycleLR", optim::OneCycleLR(sgd, {.max_lr = 0.8, .total_steps = 201})},
      {"SequentialLR", optim::SequentialLR(sgd, {{optim::LambdaLR(sgd, line), 20}, {half, 90}, {falling}})},
  };
}

}  // namespace

TEST_CASE("every schedule gives PyTorch's rates over 200 steps") {
  const auto table = pytorch_table();
  optim::SGD sgd = {{ft::Parameter(ft::zeros({1}))}, {.lr = 0.4, .momentum = 0.9}};
  for (auto& [name, schedule] : schedules(sgd)) {
    CAPTURE(name);
    schedule.set_index(0);
    const std::vector<double>& expected = table.at(name);
    REQUIRE(expected.size() == 200);
    for (const double rate : expected) {
      CAPTURE(schedule.index());
      CHECK(std::abs(sgd.learning_rate() - rate) <= 1e-12);
      schedule.step();
    }
  }
}

TEST_CASE("one cycle moves the momentum the other way") {
  const std::vector<double> expected = pytorch_table().at("OneCycleLR momentum");
  const ft::Parameter weight(ft::ones({1}));
  optim::SGD sgd({weight}, {.lr = 0.4, .momentum = 0.9});
  optim::OneCycleLR schedule(
      sgd, {.max_lr = 0.8, .total_steps = 201, .base_momentum = 0.85, .max_momentum = 0.95});
  // With a gradient of 1, from rest: v ← momentum·v + 1, w ← w − rate·v.
  double velocity = 0, value = 1;
  for (int step = 0; step < 60; ++step) {
    ft::Parameter(weight).set_grad(ft::ones({1}));
    velocity = expected[static_cast<std::size_t>(step)] * velocity + 1;
    value -= sgd.learning_rate() * velocity;
    sgd.step();
    schedule.step();
    CHECK(weight.value().item() == doctest::Approx(value).epsilon(1e-5));
  }
  CHECK(sgd.settings().at("momentum") == 0.9);
  const optim::LinearWarmup warm(sgd, schedule, {.steps = 3});
  CHECK(warm.momentum()(2) == expected[0]);
  CHECK(warm.momentum()(3 + 50).value() == doctest::Approx(expected[50]).epsilon(1e-12));
  const optim::SequentialLR parts(sgd, {{optim::StepLR(sgd, {.step_size = 4}), 5}, {schedule}});
  CHECK_FALSE(parts.momentum()(4).has_value());
  CHECK(parts.momentum()(5) == expected[0]);
  optim::SGD without({weight}, {.lr = 0.1});
  CHECK(contains(message_of([&] {
                   optim::OneCycleLR(
                       without, {.max_lr = 1, .total_steps = 9, .base_momentum = 0.8, .max_momentum = 0.9});
                 }),
                 "made without a momentum"));
  CHECK(without.learning_rate() == 0.1);
}

TEST_CASE("a schedule is made again from what a checkpoint says of it") {
  optim::SGD sgd = {{ft::Parameter(ft::zeros({1}))}, {.lr = 0.4, .momentum = 0.9}};
  auto all = schedules(sgd);
  all.pop_back();  // a function of one's own is no number
  const optim::Schedule warm = optim::LinearWarmup(sgd, all[1].second, {.steps = 5});
  all.emplace_back("nested", optim::SequentialLR(
                                 sgd, {{warm, 7},
                                       {optim::SequentialLR(sgd, {{all[2].second, 3}, {all[3].second}}), 9},
                                       {all[9].second}}));
  for (const auto& [name, schedule] : all) {
    CAPTURE(schedule.kind());
    optim::Schedule other = optim::StepLR(sgd, {.step_size = 1});
    other.set_settings(schedule.kind(), schedule.settings());
    CHECK(other.kind() == schedule.kind());
    CHECK(other.settings() == schedule.settings());
    for (int step = 0; step < 220; step += 3) CHECK(other.at(step) == schedule.at(step));
  }
}

TEST_CASE("what a schedule cannot do is said") {
  optim::SGD sgd = {{ft::Parameter(ft::zeros({1}))}, {.lr = 0.4, .momentum = 0.9}};
  const auto refused = [&](auto make, const char* expected) {
    const std::string message = message_of(make);
    CAPTURE(message);
    CHECK(contains(message, expected));
  };
  refused([&] { optim::MultiStepLR(sgd, {}); }, "at least one milestone");
  refused([&] { optim::MultiStepLR(sgd, {.milestones = {3, 3}}); }, "rising milestones ≥ 1, got 3");
  refused([&] { optim::ExponentialLR(sgd, {}); }, "gamma > 0");
  refused([&] { optim::PolynomialLR(sgd, {.total_steps = 0}); }, "total_steps ≥ 1");
  refused([&] { optim::CosineRestartsLR(sgd, {}); }, "period ≥ 1");
  refused([&] { optim::CyclicLR(sgd, {.min_lr = 1, .max_lr = 1, .rise = 2}); }, "max_lr > min_lr");
  refused([&] { optim::OneCycleLR(sgd, {.max_lr = 1, .total_steps = 9, .base_momentum = 0.9}); },
          "0 < base_momentum ≤ max_momentum");
  refused([&] { optim::LambdaLR(sgd, nullptr); }, "factor is empty");
  refused([&] { optim::SequentialLR(sgd, {}); }, "at least one schedule");
  refused(
      [&] {
        optim::SequentialLR(
            sgd, {{optim::CosineLR(sgd, {.total_steps = 3})}, {optim::CosineLR(sgd, {.total_steps = 3})}});
      },
      "steps ≥ 1, got 0");
  refused([&] { optim::ReduceOnPlateau(sgd, {.factor = 1}); }, "factor in (0, 1)");
}

TEST_CASE("a plateau lowers the rate, of losses, of accuracies and of negative metrics") {
  struct Case {
    optim::ReduceOnPlateauOptions options;
    std::vector<double> metrics;
    std::vector<bool> lowers;
  };
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const Case cases[] = {
      {{.patience = 1}, {3, 2, 2, 2, 1, 1, 1}, {false, false, false, true, false, false, true}},
      {{.maximize = true, .patience = 0}, {0.1, 0.2, 0.2, 0.3}, {false, false, true, false}},
      {{.patience = 1}, {-5, -5, -5, -6}, {false, false, true, false}},
      {{.patience = 0, .threshold = 0.5}, {4, 3, 1}, {false, true, false}},
      {{.patience = 0, .cooldown = 2}, {1, 1, 1, 1, 1}, {false, true, false, false, true}},
      {{.patience = 0}, {nan, 1, nan}, {true, false, true}},
      {{.patience = 0, .min_lr = 1}, {1, 1}, {false, false}},
      {{.patience = 0}, {infinity, infinity, 5, -infinity, 5}, {false, true, false, false, true}},
  };
  for (const Case& c : cases) {
    optim::SGD sgd = {{ft::Parameter(ft::zeros({1}))}, {.lr = 1}};
    optim::ReduceOnPlateau plateau(sgd, c.options);
    for (std::size_t i = 0; i < c.metrics.size(); ++i) {
      CAPTURE(i);
      const double before = sgd.learning_rate();
      optim::ReduceOnPlateau again(sgd, c.options);  // as after a load
      again.set_state(plateau.state());
      plateau = again;
      CHECK(plateau.step(c.metrics[i]) == c.lowers[i]);
      CHECK((sgd.learning_rate() < before) == c.lowers[i]);
    }
    CHECK(sgd.initial_learning_rate() == 1);
  }
}
