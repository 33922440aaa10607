// Clipping, and what one update kernel may and may not hold.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "ops/optimizer.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
namespace optim = fusetape::optim;
using ft::Parameter;
using ft::Tensor;
using fusetape::tests::difference;
using fusetape::tests::Numbers;

namespace {

void check_near(const Tensor& got, const Numbers& expected, double tolerance = 1e-6) {
  CHECK(difference(got.to_vector<double>(), expected) <= tolerance);
}

/// Gradients of several shapes, one of them empty; their joint norm is 6.
std::vector<Parameter> with_gradients(ft::DType dtype = ft::DType::f32) {
  std::vector<Parameter> parameters;
  for (const std::vector<double>& g : {std::vector<double>{2, 4}, {4}, {}}) {
    const ft::Shape shape{static_cast<std::int64_t>(g.size())};
    parameters.emplace_back(ft::ones(shape, dtype));
    parameters.back().set_grad(ft::from_doubles(g, shape, dtype));
  }
  return parameters;
}

/// How many updates each kernel of the last run held.
std::vector<int> ops_of_updates() {
  std::vector<int> ops;
  for (const ft::GroupReport& group : ft::explain().groups) {
    if (group.name == "sgd_update") ops.push_back(group.ops);
  }
  return ops;
}

}  // namespace

TEST_CASE("the joint norm of gradients is clipped") {
  Parameter a(ft::zeros({2})), b(ft::zeros({1}));
  a.set_grad(ft::from_vector({2, 4}, {2}));
  b.set_grad(ft::from_vector({4}, {1}));
  CHECK(optim::clip_grad_norm({a, b}, 3).item() == doctest::Approx(6));
  check_near(a.grad(), {1, 2}, 1e-5);
  check_near(b.grad(), {2}, 1e-5);
  CHECK(optim::clip_grad_norm({a, b}, 30).item() == doctest::Approx(3));
  check_near(b.grad(), {2}, 1e-5);
}

TEST_CASE("an optimizer clips inside its step, and leaves the gradients as they are") {
  for (const ft::DType dtype : {ft::DType::f32, ft::DType::bf16}) {
    for (const double max_norm : {3.0, 30.0, 0.0}) {
      const std::vector<Parameter> parameters = with_gradients(dtype);
      optim::SGD sgd(parameters, {.lr = 0.5, .max_grad_norm = max_norm});
      CHECK_FALSE(sgd.last_grad_norm().defined());
      sgd.step();
      const double scale = max_norm == 3 ? 0.5 : 1;
      const double tolerance = dtype == ft::DType::f32 ? 1e-5 : 1e-2;
      check_near(parameters[0].value(), {1 - 0.5 * scale * 2, 1 - 0.5 * scale * 4}, tolerance);
      check_near(parameters[1].value(), {1 - 0.5 * scale * 4}, tolerance);
      check_near(parameters[0].grad(), {2, 4});
      CHECK(sgd.last_grad_norm().defined() == (max_norm > 0));
      if (max_norm > 0) CHECK(sgd.last_grad_norm().item() == doctest::Approx(6));
    }
  }
}

TEST_CASE("clipping: a zero gradient stays, an infinite or undefined one shows") {
  const auto clipped = [](std::vector<float> g) {
    Parameter p(ft::zeros({2}));
    p.set_grad(ft::from_vector(std::move(g), {2}));
    const Tensor norm = optim::clip_grad_norm({p}, 1);
    return std::pair(norm.item(), p.grad().to_vector());
  };
  CHECK(clipped({0, 0}) == std::pair(0.0, std::vector<float>{0, 0}));
  const auto infinite = clipped({HUGE_VALF, 3});
  CHECK(infinite.first == HUGE_VAL);
  CHECK(std::isnan(infinite.second[0]));
  CHECK(infinite.second[1] == 0);
  CHECK(std::isnan(clipped({NAN, 3}).second[1]));
  CHECK(clipped({3e30f, 4e30f}).first == doctest::Approx(5e30));  // no square overflows
  CHECK(optim::clip_grad_norm({Parameter(ft::zeros({2}))}, 1).item() == 0);
}

TEST_CASE("clipping before a step is the clipping inside it, and a later norm makes no plan") {
  const auto run = [](bool inside) {
    ft::manual_seed(3);
    nn::Sequential net;
    net.emplace<nn::Linear>(6, 8);
    net.emplace<nn::GELU>();
    net.emplace<nn::Linear>(8, 3);
    optim::AdamW adam(net.parameters(), {.lr = 0.05, .max_grad_norm = inside ? 0.1 : 0.0});
    std::vector<float> seen;
    std::int64_t misses = 0;
    for (int step = 0; step < 4; ++step) {
      const Tensor loss =
          ft::cross_entropy(net(ft::randn({5, 6})), ft::from_vector<std::int64_t>({0, 1, 2, 1, 0}, {5}));
      adam.zero_grad();
      loss.backward();
      const Tensor norm = inside ? Tensor() : optim::clip_grad_norm(net.parameters(), 0.1);
      adam.step();
      seen.push_back(static_cast<float>((inside ? adam.last_grad_norm() : norm).item()));
      if (step == 1) misses = ft::plan_cache_stats().misses;
    }
    CHECK(ft::plan_cache_stats().misses == misses);
    CHECK(seen[0] > 0.1);
    for (const Parameter& p : net.parameters()) {
      for (float x : p.value().to_vector()) seen.push_back(x);
    }
    return seen;
  };
  CHECK(run(true) == run(false));
}

TEST_CASE("raw updates of one parameter in a row, and beside each other, do not race") {
  using ft::core::updates::sgd_update;
  const ft::Location here = ft::Location::current();
  std::vector<Tensor> scalars;
  ft::ops::append_scalars(sgd_update::Scalars{.own = {.lr = 0.5}, .keep = 1}, scalars, here);
  const auto step = [&](const Tensor& p, const Tensor& g) {
    return ft::ops::update(ft::ops::sgd_update_op, 0, p, g, {}, scalars, here)[0];
  };
  const Tensor p = ft::full({1000}, 1), g = ft::full({1000}, 2);
  const Tensor other = step(ft::full({1000}, 8) + p, g);
  const Tensor twice = step(step(p + 0.0, g), g);
  CHECK(twice.to_vector() == std::vector<float>(1000, -1));
  CHECK(ops_of_updates() == std::vector<int>{2, 1});  // the second of the two waits
  CHECK(other.to_vector() == std::vector<float>(1000, 8));
  Tensor start = p + 1.0, slope = g + 0.0;
  const Tensor a = step(start, slope), b = step(start, g + 2.0), c = step(slope, start);
  start = slope = Tensor();  // nobody names them: they may be overwritten
  ft::materialize();
  CHECK(ops_of_updates() == std::vector<int>{1, 1, 1});  // each overwrites what another reads
  CHECK(a.to_vector() == std::vector<float>(1000, 1));
  CHECK(b.to_vector() == std::vector<float>(1000, 0));
  CHECK(c.to_vector() == std::vector<float>(1000, 1));
}
