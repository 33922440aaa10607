// Convolutions in bf16 against the reference (double), over the shapes at which oneDNN's kernels differ.
#include <doctest/doctest.h>

#include <cmath>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Shape;
using ft::Tensor;

namespace {

struct Geometry {
  Shape x, w;
  ft::Conv2dOptions options;
};

std::vector<Geometry> geometries() {
  std::vector<Geometry> all;
  const Shape images[] = {{1, 1, 1, 1},  {2, 7, 5, 3},  {3, 8, 8, 16},
                          {1, 9, 1, 24}, {2, 5, 7, 17}, {2, 3, 40, 2}};
  for (const Shape& x : images) {
    for (const std::int64_t out : {1, 3, 17, 24, 32}) {
      for (const std::int64_t stride : {1, 2}) {
        all.push_back({x, {out, 3, 3, x[3]}, {.stride = {stride, stride}, .padding = {1, 1}}});
        all.push_back({x, {out, 1, 1, x[3]}, {.stride = {stride, stride}}});
      }
    }
    all.push_back({x, {8, 3, 3, x[3]}, {.padding = {2, 2}, .dilation = {2, 2}}});
    all.push_back({x, {x[3], 3, 3, 1}, {.padding = {1, 1}, .groups = x[3]}});
  }
  all.push_back({{2, 6, 33, 20}, {40, 1, 1, 5}, {.dilation = {2, 2}, .groups = 4}});
  all.push_back({{2, 9, 9, 6}, {4, 3, 3, 3}, {.stride = {3, 3}, .padding = {1, 1}, .groups = 2}});
  all.push_back({{1, 32, 32, 3}, {16, 7, 7, 3}, {.stride = {2, 2}, .padding = {3, 3}}});
  return all;
}

/// Multiples of 1/64 in [−1, 1), which bf16 holds.
Tensor numbers(const Shape& shape, std::uint64_t seed, DType dtype) {
  Numbers data(static_cast<std::size_t>(shape.elements()));
  for (double& x : data) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    x = static_cast<double>(seed >> 57) / 64 - 1;
  }
  return ft::from_doubles(data, shape, dtype);
}

/// y, dx, dw as bf16, and dw as an update of f32 weights reads it.
std::vector<Numbers> run(const Geometry& g, const char* backend, DType dtype) {
  const OnBackend on(backend);
  const Tensor x = ft::variable(numbers(g.x, 1, dtype)), w = ft::variable(numbers(g.w, 2, dtype));
  const Tensor wide = ft::variable(numbers(g.w, 2, DType::f32));
  const Tensor y = ft::conv2d(x, w, g.options);
  const Tensor through_cast = ft::conv2d(x, ft::cast(wide, dtype), g.options);
  const std::vector<Tensor> gradients = ft::grad({y}, {x, w}, {numbers(y.shape(), 3, dtype)});
  const std::vector<Tensor> master = ft::grad({through_cast}, {wide}, {numbers(y.shape(), 4, dtype)});
  return {y.to_vector<double>(), gradients[0].to_vector<double>(), gradients[1].to_vector<double>(),
          master[0].to_vector<double>()};
}

/// NaN in freed memory, from which the next results and scratch are made.
void soil_memory() {
  const OnBackend cpu("cpu");
  for (int i = 0; i < 4; ++i) ft::full({1 << 16}, std::nan("")).to_vector();
}

}  // namespace

TEST_CASE("bf16 convolutions and their gradients agree with f64 to bf16's rounding, at every shape") {
  const double rounding = 1.0 / 256;
  for (const Geometry& g : geometries()) {
    CAPTURE(to_string(g.x));
    CAPTURE(to_string(g.w));
    CAPTURE(g.options.stride[0]);
    const std::vector<Numbers> expected = run(g, "reference", DType::f64);
    soil_memory();
    const std::vector<Numbers> got = run(g, "cpu", DType::bf16);
    for (std::size_t i = 0; i < 3; ++i) {
      CAPTURE(i);
      CHECK(difference(got[i], expected[i]) <= rounding);
    }
    // The one that stays f32 is not rounded to bf16 at all.
    CHECK(difference(got[3], expected[3]) <= 1e-6);
  }
}

TEST_CASE("a weight gradient that is cast to f32 is one kernel, and nothing else is") {
  const OnBackend backend("cpu");
  const auto group_names = [] {
    std::string names;
    for (const ft::GroupReport& group : ft::explain().groups) names += group.name + "; ";
    return names;
  };
  const Tensor x = numbers({2, 8, 8, 16}, 1, DType::bf16);
  const auto gradient = [&](DType dtype) {
    const Tensor w = ft::variable(numbers({16, 3, 3, 16}, 2, dtype));
    const Tensor y = ft::conv2d(x, ft::cast(w, DType::bf16), {.padding = {1, 1}});
    ft::materialize({ft::grad({y}, {w}, {numbers(y.shape(), 3, DType::bf16)})[0]});
  };
  gradient(DType::f32);
  CHECK(contains(group_names(), "conv2d_grad_weight+cast"));
  gradient(DType::f16);
  CHECK_FALSE(contains(group_names(), "conv2d_grad_weight+cast"));
}

TEST_CASE("bf16: conv+bias+relu keeps a NaN") {
  const OnBackend backend("cpu");
  Numbers data(2 * 4 * 4 * 8, 0.5);
  data[5] = std::nan("");
  const Tensor x = ft::from_doubles(data, {2, 4, 4, 8}, DType::bf16);
  const Tensor y = ft::relu(ft::conv2d(x, numbers({16, 3, 3, 8}, 1, DType::bf16),
                                       numbers({16}, 2, DType::bf16), {.padding = {1, 1}}));
  const std::vector<double> values = y.to_vector<double>();
  CHECK(std::isnan(values[0]));
  CHECK_FALSE(std::isnan(values.back()));
  for (const double value : values) CHECK_FALSE(value < 0);
}
