// Parameter groups, and averages of parameters: what they compute, in how many kernels, and across a
// checkpoint.
#include <doctest/doctest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"
#include "scratch_folder.hpp"

namespace ft = fusetape;
namespace optim = fusetape::optim;
using namespace fusetape::tests;
using ft::Parameter;
using ft::Tensor;

namespace {

/// A matrix and two vectors with gradients that change from step to step.
struct Net {
  std::vector<Parameter> parameters;

  explicit Net(ft::DType dtype = ft::DType::f32) {
    ft::manual_seed(5);
    for (const ft::Shape& shape : {ft::Shape{6, 5}, {5}, {7}})
      parameters.emplace_back(ft::cast(ft::randn(shape), dtype), "p" + std::to_string(parameters.size()));
  }
  /// 0 on: of step `number`.
  void take_gradients(int number) {
    ft::manual_seed(static_cast<std::uint64_t>(100 + number));
    for (Parameter& p : parameters) p.set_grad(ft::cast(ft::randn(p.shape()), p.dtype()));
  }
  Numbers numbers() const {
    Numbers all;
    for (const Parameter& p : parameters) {
      for (const double x : p.value().to_vector<double>()) all.push_back(x);
    }
    return all;
  }
};

optim::ParameterGroup vectors(double lr_factor) {
  optim::ParameterGroup group = optim::without_decay();
  group.lr_factor = lr_factor;
  return group;
}

int update_kernels() {
  int kernels = 0;
  for (const ft::GroupReport& group : ft::explain().groups)
    kernels += contains(group.name, "_update") ? 1 : 0;
  return kernels;
}

/// With the options of all, or with those of the group for all.
using Make = std::unique_ptr<optim::Optimizer> (*)(std::vector<Parameter>, bool as_group,
                                                   std::vector<optim::ParameterGroup>, optim::WeightAverage);

template <class Optimizer, class Options>
std::unique_ptr<optim::Optimizer> made(std::vector<Parameter> parameters, double Options::*momentum,
                                       bool as_group, std::vector<optim::ParameterGroup> groups,
                                       optim::WeightAverage average) {
  Options options{
      .lr = as_group ? 0.05 : 0.1, .weight_decay = as_group ? 0 : 0.3, .groups = groups, .average = average};
  options.*momentum = as_group ? 0.5 : 0.9;
  return std::make_unique<Optimizer>(parameters, options);
}

const std::pair<const char*, Make> optimizers[] = {
    {"SGD",
     [](auto parameters, bool as_group, auto groups, auto average) {
       return made<optim::SGD>(parameters, &optim::SGDOptions::momentum, as_group, groups, average);
     }},
    {"Adam",
     [](auto parameters, bool as_group, auto groups, auto average) {
       return made<optim::Adam>(parameters, &optim::AdamOptions::beta1, as_group, groups, average);
     }},
    {"AdamW",
     [](auto parameters, bool as_group, auto groups, auto average) {
       return made<optim::AdamW>(parameters, &optim::AdamWOptions::beta1, as_group, groups, average);
     }},
    {"RMSprop",
     [](auto parameters, bool as_group, auto groups, auto average) {
       return made<optim::RMSprop>(parameters, &optim::RMSpropOptions::momentum, as_group, groups, average);
     }},
};

}  // namespace

TEST_CASE("a group of parameters is updated as by an optimizer of its own, in one kernel with the others") {
  for (const auto& [name, make] : optimizers) {
    for (const ft::DType dtype : {ft::DType::f32, ft::DType::bf16}) {
      CAPTURE(name);
      CAPTURE(ft::name_of(dtype));
      Net one(dtype), apart(dtype);
      optim::ParameterGroup group = vectors(0.5);
      group.momentum = 0.5;
      const auto all = make(one.parameters, false, {group}, {});
      const auto matrix = make({apart.parameters[0]}, false, {}, {});
      const auto rest = make({apart.parameters[1], apart.parameters[2]}, true, {}, {});
      for (int step = 0; step < 3; ++step) {
        one.take_gradients(step);
        if (step == 1) all->set_learning_rate(0.02);  // the group's is half of it
        all->step();
        CHECK(update_kernels() == 1);
        apart.take_gradients(step);
        if (step == 1) {
          matrix->set_learning_rate(0.02);
          rest->set_learning_rate(0.01);
        }
        matrix->step();
        rest->step();
      }
      CHECK(one.numbers() == apart.numbers());
    }
  }
}

TEST_CASE("groups: one kernel clips and updates all, and a rate that changes makes no plan") {
  Net net;
  optim::SGD sgd(
      net.parameters,
      {.lr = 0.1, .momentum = 0.9, .weight_decay = 1e-2, .max_grad_norm = 1, .groups = {vectors(2)}});
  optim::CosineLR schedule(sgd, {.total_steps = 9});
  std::int64_t misses = 0;
  for (int step = 0; step < 4; ++step) {
    net.take_gradients(step);
    ft::materialize();
    sgd.step();
    schedule.step();
    CHECK(update_kernels() == 1);
    if (step == 1) misses = ft::plan_cache_stats().misses;
  }
  CHECK(ft::explain().groups.back().name == "clip+sgd_update");
  CHECK(ft::plan_cache_stats().misses == misses);
}

TEST_CASE("groups: the first that takes a parameter has it; what is wrong is said") {
  Net net;
  const auto is = [](const char* name) { return [name](const Parameter& p) { return p.name() == name; }; };
  net.take_gradients(0);
  const Numbers before = net.numbers();
  optim::SGD sgd(net.parameters, {.lr = 1, .groups = {{.where = is("p1"), .lr_factor = 0}, vectors(0)}});
  sgd.step();
  const Numbers after = net.numbers();
  CHECK(Numbers(after.begin() + 30, after.end()) == Numbers(before.begin() + 30, before.end()));
  CHECK(after[0] != before[0]);
  const auto message = [&](optim::SGDOptions options) {
    return message_of([&] { optim::SGD(net.parameters, std::move(options)); });
  };
  CHECK(contains(message({.groups = {{}}}), "group 1 has no `where`"));
  CHECK(contains(message({.groups = {vectors(1), vectors(1)}}), "group 2 takes none of the parameters"));
  CHECK(contains(message({.groups = {vectors(-1)}}), "group 1: expected a finite lr_factor ≥ 0, got -1"));
  CHECK(
      contains(message({.groups = {{.where = is("p0"), .weight_decay = -2}}}), "a finite weight_decay ≥ 0"));
  CHECK(contains(message({.groups = {{.where = is("p0"), .momentum = 1}}}), "momentum in [0, 1), got 1"));
  CHECK(contains(message({.groups = {{.where = is("p0"), .momentum = 0.5}}}), "a momentum > 0 for all"));
}

TEST_CASE("an average of the parameters is kept by the kernel that updates them") {
  struct Case {
    optim::WeightAverage average;
    std::vector<double> weights;  ///< of the values after each of five updates
  };
  const Case cases[] = {
      {{.decay = 0.5}, {0.0625, 0.0625, 0.125, 0.25, 0.5}},
      {{.equal = true}, {0.2, 0.2, 0.2, 0.2, 0.2}},
      {{.equal = true, .start = 2}, {0, 0, 1.0 / 3, 1.0 / 3, 1.0 / 3}},
      {{.equal = true, .start = 1, .every = 2}, {0, 0.5, 0, 0.5, 0}},
      {{.decay = 0.75, .start = 3}, {0, 0, 0, 0.75, 0.25}},
  };
  for (const Case& c : cases) {
    for (const auto& [name, make] : optimizers) {
      CAPTURE(name);
      CAPTURE(c.average.start);
      Net net;
      const auto optimizer = make(net.parameters, false, {vectors(2)}, c.average);
      Numbers expected(net.numbers().size(), 0.0);
      for (const double weight : c.weights) {
        net.take_gradients(static_cast<int>(&weight - c.weights.data()));
        optimizer->step();
        CHECK(update_kernels() == 1);
        const Numbers now = net.numbers();
        for (std::size_t i = 0; i < now.size(); ++i) expected[i] += weight * now[i];
      }
      const Numbers own = net.numbers();
      {
        const optim::AveragedWeights averaged(*optimizer);
        CHECK(difference(net.numbers(), expected) <= 1e-6);
        CHECK(contains(message_of([&] { optimizer->step(); }), "step() while the parameters are exchanged"));
      }
      CHECK(net.numbers() == own);
    }
  }
}

TEST_CASE("averages: none before a value counts, and what is wrong is said") {
  Net net;
  optim::SGD sgd(net.parameters, {.average = {.decay = 0.9, .start = 1}});
  const Numbers own = net.numbers();
  {
    const optim::AveragedWeights averaged(sgd);
    CHECK(net.numbers() == own);
  }
  const auto message = [&](optim::WeightAverage average) {
    return message_of([&] { optim::SGD(net.parameters, {.average = average}); });
  };
  CHECK(contains(message({.decay = 1}), "average.decay in [0, 1), got 1"));
  CHECK(contains(message({.decay = 0.5, .equal = true}), "not both"));
  CHECK(contains(message({.equal = true, .start = -1}), "average.start ≥ 0"));
  CHECK(contains(message({.equal = true, .every = 0}), "average.every ≥ 1"));
  Net narrow(ft::DType::bf16);
  CHECK(contains(message_of([&] { optim::SGD(narrow.parameters, {.average = {.decay = 0.9}}); }),
                 "expected parameters in f32 or f64 where an average is kept, got bf16 in \"p0\""));
  optim::SGD without(net.parameters);
  CHECK_FALSE(without.keeps_average());
  CHECK(contains(message_of([&] { const optim::AveragedWeights averaged(without); }), "keeps no average"));
}

TEST_CASE("groups and averages go on from a checkpoint, to the bit") {
  const ScratchFolder scratch;
  std::filesystem::create_directories(scratch.path());
  const std::string file = (scratch.path() / "checkpoint.safetensors").string();
  const auto make = [](Net& net, double decay, double factor) {
    return std::make_unique<optim::AdamW>(
        net.parameters,
        optim::AdamWOptions{.groups = {vectors(factor)}, .average = {.decay = decay, .start = 1}});
  };
  const auto steps = [](Net& net, optim::Optimizer& optimizer, int first, int end) {
    for (int step = first; step < end; ++step) {
      net.take_gradients(step);
      optimizer.step();
    }
  };
  Net net;
  const auto optimizer = make(net, 0.9, 0.5);
  steps(net, *optimizer, 0, 3);
  ft::io::save_checkpoint(file, {.optimizer = optimizer.get()});
  const Numbers saved = net.numbers();
  steps(net, *optimizer, 3, 6);
  Net again;
  const auto restored = make(again, 0.9, 0.5);
  ft::io::load_checkpoint(file, {.optimizer = restored.get()});
  std::size_t at = 0;
  for (Parameter& p : again.parameters) {
    const auto count = static_cast<std::size_t>(p.value().elements());
    std::vector<float> values(saved.begin() + static_cast<std::ptrdiff_t>(at),
                              saved.begin() + static_cast<std::ptrdiff_t>(at + count));
    p.set_data(ft::from_vector(values, p.shape()));
    at += count;
  }
  steps(again, *restored, 3, 6);
  CHECK(again.numbers() == net.numbers());
  const optim::AveragedWeights first(*optimizer), second(*restored);
  CHECK(again.numbers() == net.numbers());

  Net other;
  const auto different = make(other, 0.8, 0.25);
  const std::string message =
      message_of([&] { ft::io::load_checkpoint(file, {.optimizer = different.get()}); });
  CHECK(contains(message, "group1.lr_factor (the file has 0.5, expected 0.25)"));
  CHECK(contains(message, "average.decay (the file has 0.9, expected 0.8)"));
  ft::io::load_checkpoint(file, {.optimizer = different.get()},
                          {.settings = ft::io::OnMismatch::take_theirs});
  CHECK(different->settings() == restored->settings());
  optim::AdamW plain(other.parameters, {.average = {.decay = 0.9, .start = 1}});
  CHECK(contains(message_of([&] {
                   ft::io::load_checkpoint(file, {.optimizer = &plain},
                                           {.settings = ft::io::OnMismatch::take_theirs});
                 }),
                 "has no place for a setting group1.lr_factor"));
  const optim::AveragedWeights exchanged(plain);
  for (const bool saves : {true, false}) {
    CHECK(contains(message_of([&] {
                     if (saves) {
                       ft::io::save_checkpoint(file, {.optimizer = &plain});
                     } else {
                       ft::io::load_checkpoint(file, {.optimizer = &plain});
                     }
                   }),
                   "parameters are exchanged with their averages"));
  }
}
