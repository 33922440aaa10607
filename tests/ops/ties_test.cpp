// Gradients where a function has a kink: at equal elements and at bounds they are those of PyTorch 2.15.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Shape;
using ft::Tensor;

namespace {

using Numbers = std::vector<double>;

/// The gradients of Σ weight·y, in every dtype, on both backends, fused and unfused. Weights are 6, 12, …:
/// shares of them are exact.
struct Kink {
  std::string name;
  std::vector<std::pair<Numbers, Shape>> inputs;
  std::function<Tensor(const std::vector<Tensor>&)> call;
  std::vector<Numbers> gradients;
};

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

void check(const Kink& kink, DType dtype) {
  CAPTURE(kink.name);
  CAPTURE(name_of(dtype));
  std::vector<Tensor> variables;
  for (const auto& [data, shape] : kink.inputs)
    variables.push_back(ft::variable(ft::from_doubles(data, shape, dtype)));
  const Tensor y = kink.call(variables);
  Numbers weights;
  for (std::int64_t i = 0; i < y.elements(); ++i) weights.push_back(6 * static_cast<double>(i + 1));
  const auto gradients = ft::grad({y}, variables, {ft::from_doubles(weights, y.shape(), dtype)});
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const Numbers got = gradients[i].to_vector<double>();
    REQUIRE(got.size() == kink.gradients[i].size());
    for (std::size_t k = 0; k < got.size(); ++k) {
      CAPTURE(i);
      CAPTURE(k);
      CHECK(same(got[k], kink.gradients[i][k]));
    }
  }
}

void check_all(const std::vector<Kink>& kinks) {
  for (const char* backend : {"reference", "cpu"}) {
    const OnBackend on(backend);
    for (const bool fused : {true, false}) {
      const Fusion fusion(fused);
      for (const Kink& kink : kinks) {
        for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) check(kink, dtype);
      }
    }
  }
}

const double inf = HUGE_VAL, not_a_number = NAN;

}  // namespace

TEST_CASE("maximum and minimum: equal elements get halves, beside a NaN both get all") {
  const Numbers a = {1, 2, 3, inf, -inf, not_a_number, 1}, b = {2, 2, 1, inf, -inf, 1, not_a_number};
  check_all({
      {"maximum",
       {{a, {7}}, {b, {7}}},
       [](auto& x) { return ft::maximum(x[0], x[1]); },
       {{0, 6, 18, 12, 15, 36, 42}, {6, 6, 0, 12, 15, 36, 42}}},
      {"minimum",
       {{a, {7}}, {b, {7}}},
       [](auto& x) { return ft::minimum(x[0], x[1]); },
       {{6, 6, 0, 12, 15, 36, 42}, {0, 6, 18, 12, 15, 36, 42}}},
      {"maximum with a number",
       {{{-1, 0, 1}, {3}}},
       [](auto& x) { return ft::maximum(x[0], 0); },
       {{0, 6, 18}}},
      {"minimum with a number",
       {{{-1, 0, 1}, {3}}},
       [](auto& x) { return ft::minimum(0, x[0]); },
       {{6, 6, 0}}},
      {"maximum, broadcast",
       {{{1, 2, 2, 1}, {2, 2}}, {{2, 1}, {2}}},
       [](auto& x) { return ft::maximum(x[0], x[1]); },
       {{0, 12, 9, 12}, {6 + 9, 12}}},
  });
}

TEST_CASE("max: k equal elements get 1/k each, over all axes and over some") {
  check_all({
      {"all axes", {{{1, 5, 5, 2}, {4}}}, [](auto& x) { return ft::max(x[0]); }, {{0, 3, 3, 0}}},
      {"all axes of a matrix",
       {{{5, 1, 5, 5, 2, 0}, {2, 3}}},
       [](auto& x) { return ft::max(x[0]); },
       {{2, 0, 2, 2, 0, 0}}},
      {"the last axis",
       {{{1, 5, 5, 3, 3, 3}, {2, 3}}},
       [](auto& x) { return ft::max(x[0], {1}); },
       {{0, 3, 3, 4, 4, 4}}},
      {"the first axis",
       {{{1, 5, 1, 3, 1, 5}, {3, 2}}},
       [](auto& x) { return ft::max(x[0], {0}); },
       {{2, 6, 2, 0, 2, 6}}},
      {"axes that are no neighbours",
       {{{1, 2, 7, 7, 1, 0, 7, 3}, {2, 2, 2}}},
       [](auto& x) {
         return ft::max(x[0], {0, 2});
       },
       {{0, 6, 4, 4, 0, 0, 4, 0}}},
      {"infinities", {{{inf, 1, inf}, {3}}}, [](auto& x) { return ft::max(x[0]); }, {{3, 0, 3}}},
      {"−∞ alone", {{{-inf, -inf}, {2}}}, [](auto& x) { return ft::max(x[0]); }, {{3, 3}}},
      {"NaNs share",
       {{{not_a_number, 1, not_a_number, inf}, {4}}},
       [](auto& x) { return ft::max(x[0]); },
       {{3, 0, 3, 0}}},
      {"one element", {{{4}, {1, 1}}}, [](auto& x) { return ft::max(x[0], {1}); }, {{6}}},
  });
}

TEST_CASE("max pooling: the first of equal elements") {
  check_all({{"2×2",
              {{{1, 5, 5, 2}, {1, 2, 2, 1}}},
              [](auto& x) { return ft::max_pool2d(x[0], 2); },
              {{0, 6, 0, 0}}}});
}

TEST_CASE("clamp, ReLU and their like: 0 at the bounds") {
  check_all({
      {"relu6",
       {{{-1, 0, 3, 6, 7, not_a_number}, {6}}},
       [](auto& x) { return ft::relu6(x[0]); },
       {{0, 0, 18, 0, 0, 36}}},
      {"hardsigmoid", {{{-3, 3, 0}, {3}}}, [](auto& x) { return ft::hardsigmoid(x[0]); }, {{0, 0, 3}}},
      {"hardswish", {{{-3, 3, 0}, {3}}}, [](auto& x) { return ft::hardswish(x[0]); }, {{0, 12, 9}}},
      {"elu", {{{0, 1}, {2}}}, [](auto& x) { return ft::elu(x[0], 0.5); }, {{3, 12}}},
      {"clamp to 0 and 6",
       {{{-1, 0, 3, 6, 7, not_a_number}, {6}}},
       [](auto& x) { return ft::clamp(x[0], 0, 6); },
       {{0, 0, 18, 0, 0, 0}}},
      {"bounds that are no binary fractions",
       {{{-0.1, 0.1, 0.3, 0}, {4}}},
       [](auto& x) { return ft::clamp(x[0], -0.1, 0.1); },
       {{0, 0, 0, 24}}},
      {"the other way around",
       {{{0.1, 0.7, 0.5}, {3}}},
       [](auto& x) { return ft::clamp(x[0], 0.1, 0.7); },
       {{0, 0, 18}}},
      {"no bounds", {{{-1, 1}, {2}}}, [](auto& x) { return ft::clamp(x[0], -inf, 1e300); }, {{6, 12}}},
      {"relu", {{{-1, 0, 1, not_a_number}, {4}}}, [](auto& x) { return ft::relu(x[0]); }, {{0, 0, 18, 24}}},
      {"leaky_relu", {{{-1, 0, 1}, {3}}}, [](auto& x) { return ft::leaky_relu(x[0], 0.5); }, {{3, 6, 18}}},
      {"abs", {{{-1, 0, 1}, {3}}}, [](auto& x) { return ft::abs(x[0]); }, {{-6, 0, 18}}},
  });
}

TEST_CASE("a second gradient goes back through the shares") {
  for (const char* backend : {"reference", "cpu"}) {
    const OnBackend on(backend);
    const Tensor x = ft::variable(ft::from_vector({1, 5, 5, 2}, {4})), weight = ft::variable(ft::scalar(6));
    const Tensor g = ft::grad({ft::max(x) * weight}, {x}, {}, {.create_graph = true})[0];
    const Tensor by_weight = ft::grad({ft::sum(g * ft::from_vector({1, 2, 4, 8}, {4}))}, {weight})[0];
    CHECK(by_weight.item() == 3);
  }
}
