// Pointwise chains: how the planner makes, ends, cuts and times them.
#include <doctest/doctest.h>

#include <algorithm>
#include <ctime>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Tensor;
using fusetape::tests::OnBackend;

namespace {

std::vector<std::string> groups() {
  std::vector<std::string> names;
  for (const ft::GroupReport& group : ft::explain().groups) names.push_back(group.name);
  return names;
}

std::int64_t count(const std::string& name) {
  const std::vector<std::string> all = groups();
  return std::count(all.begin(), all.end(), name);
}

}  // namespace

TEST_CASE("chains of any length are one kernel, and cost planning time in proportion") {
  /// Processor time, which other programs on the machine do not change.
  const auto plan = [](int length) {
    ft::clear_plan_cache();
    Tensor x = ft::ones({7, 33});
    for (int i = 0; i < length; ++i) x = i % 2 == 0 ? ft::tanh(x) : x * 1.25;
    const std::clock_t start = std::clock();
    ft::materialize({x});
    const std::clock_t spent = std::clock() - start;
    CHECK(ft::explain().kernels == 1);
    CHECK(ft::explain().refusals.empty());
    return spent;
  };
  const OnBackend backend("null");
  std::clock_t few = plan(500), many = plan(4000);
  for (int i = 0; i < 20; ++i) few = std::min(few, plan(500)), many = std::min(many, plan(4000));
  CHECK(many < 24 * few);  // 8 times, and what caches add; a quadratic planner: 64 times
}

TEST_CASE("a chain is cut where its temporaries outgrow the L1 cache, and the report says so") {
  const OnBackend backend("cpu");
  const Tensor a = ft::ones({40});
  std::vector<Tensor> parts;
  for (int i = 0; i < 120; ++i) parts.push_back(ft::tanh(a * (0.01 * i)));
  Tensor x = a;
  while (!parts.empty()) {
    x = x + parts.back();
    parts.pop_back();
  }
  ft::materialize({x});
  const ft::Report& report = ft::explain();
  CHECK(report.kernels > 1);
  CHECK(report.kernels < 12);
  REQUIRE(static_cast<int>(report.refusals.size()) == report.kernels - 1);
  CHECK(report.refusals[0].rule == "pointwise");
  CHECK(report.refusals[0].reason.rfind("chain of 360 ops cut before its ", 0) == 0);
  CHECK(report.refusals[0].reason.find("49 temporaries at once, 48 fit the L1 cache") != std::string::npos);
}

TEST_CASE("a reduction joins the chain that it ends") {
  const OnBackend backend("cpu");
  const Tensor a = ft::ones({2, 3, 4, 5}), b = ft::full({5}, 2.0);
  const auto names = [](std::initializer_list<Tensor> results) {
    ft::materialize(results);
    return groups();
  };
  CHECK(names({ft::mean(a * b + 1.0)}) == std::vector<std::string>{"mul+add+mean"});
  CHECK(names({ft::sum(a * a, {0, 1, 2})}) == std::vector<std::string>{"mul+sum"});
  CHECK(names({ft::mean(ft::exp(a), {1, 2})}) == std::vector<std::string>{"exp+mean"});
  {
    // Read elsewhere, too: one more output, and still one pass.
    const Tensor y = ft::exp(a);
    CHECK(names({ft::mean(y), y}) == std::vector<std::string>{"exp+mean"});
    CHECK(ft::explain().tensor_passes == 2);
  }
  {
    // One reduction a chain: the one that saves a pass.
    const Tensor y = ft::exp(a), s = ft::sum(y, {0}), t = ft::mean(y * 2.0);
    CHECK(names({s, t}) == std::vector<std::string>{"exp+mul+mean", "sum"});
  }
  CHECK(names({ft::sum(ft::exp(a), {0, 2})}) == std::vector<std::string>{"exp", "sum"});
  REQUIRE(ft::explain().refusals.size() == 1);
  CHECK(ft::explain().refusals[0].reason == "highway:pointwise+sum: sum over axes that are no neighbours");
}

TEST_CASE("a chain waits for what it is added to, unless that keeps more in memory") {
  const OnBackend backend("null");
  const Tensor a = ft::ones({4, 6}), b = ft::ones({4, 6});
  ft::materialize({ft::tanh(a * 2.0) + ft::softmax(a)});
  CHECK(groups() == std::vector<std::string>{"softmax", "mul+tanh+add"});
  {
    // Two temporaries would have to live until then, instead of one.
    ft::materialize({ft::softmax(a) * ft::softmax(b) + ft::softmax(ft::softmax(b + 1.0))});
    CHECK(count("mul") == 1);
    CHECK(count("mul+add") == 0);
  }
}

TEST_CASE("two results of one chain do not take the same operand's place") {
  const Tensor x = ft::variable(ft::randn({2, 3, 3, 4})), a = ft::randn({2, 3, 3, 4});
  const Tensor gamma = ft::variable(ft::ones({4})), beta = ft::variable(ft::zeros({4}));
  ft::materialize({x, a});
  const auto results = [&](const std::vector<std::string>& rules) {
    ft::set_fusion_rules(rules);
    Tensor z;
    {
      const Tensor y = ft::relu(ft::batch_norm(x, gamma, beta));
      z = ft::relu(y + a) + y;
    }
    const std::vector<Tensor> gradients = ft::grad({ft::sum(z * z)}, {gamma, beta});
    std::vector<std::vector<double>> numbers{gradients[0].to_vector<double>()};
    numbers.push_back(z.to_vector<double>());
    ft::set_fusion_rules({"all"});
    return numbers;
  };
  // The first ReLU is a result for its gradient, which in the end takes its mask from x.
  CHECK(results({"pointwise", "relu_grad+batch_norm_grad, mask from x", "share in place"}) == results({}));
}
