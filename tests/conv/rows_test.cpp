// Convolutions by rows beyond what ops_test.cpp drives from row_cases.cpp: numbers of threads, bf16, tensors
// of several slices, and what must not become one kernel.
#include <doctest/doctest.h>
#include <omp.h>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Tensor;

namespace {

class Threads {
 public:
  explicit Threads(int threads) : before_(ft::threads()) { ft::set_threads(threads); }
  ~Threads() { ft::set_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

Numbers numbers(const Tensor& x) {
  const std::vector<float> values = ft::cast(x, DType::f32).to_vector<float>();
  return {values.begin(), values.end()};
}

struct Geometry {
  std::int64_t batch, height, width, in, inner;
  ft::Conv2dOptions depthwise;
  std::int64_t kernel;
};

Tensor norm(const Tensor& x, const Tensor& gamma) { return ft::batch_norm(x, gamma, gamma * 0.5, {}); }

/// The gradients of x, the three filters and γ through 1×1, depthwise, 1×1 with norms and hardswish between
/// them, and the loss.
std::vector<Numbers> gradients(const Geometry& g, DType dtype) {
  ft::manual_seed(7);
  const auto drawn = [&](const ft::Shape& shape) { return ft::variable(ft::cast(ft::randn(shape), dtype)); };
  const Tensor x = drawn({g.batch, g.height, g.width, g.in});
  const Tensor wide = drawn({g.inner, 1, 1, g.in}), taps = drawn({g.inner, g.kernel, g.kernel, 1});
  const Tensor back = drawn({g.in, 1, 1, g.inner});
  const Tensor gamma = ft::variable(ft::rand({g.inner}) + 0.5), last = ft::variable(ft::rand({g.in}) + 0.5);
  ft::Conv2dOptions options = g.depthwise;
  options.groups = g.inner;
  const Tensor a = ft::hardswish(norm(ft::conv2d(x, wide), gamma));
  const Tensor b = ft::hardswish(norm(ft::conv2d(a, taps, options), gamma));
  const Tensor y = norm(ft::conv2d(b, back), last);
  ft::manual_seed(8);
  const Tensor loss = ft::sum(ft::cast(y, DType::f32) * ft::randn(y.shape()));
  std::vector<Numbers> results{numbers(loss)};
  for (const Tensor& gradient : ft::grad({loss}, {x, wide, taps, back, gamma, last}))
    results.push_back(numbers(gradient));
  return results;
}

}  // namespace

TEST_CASE("convolutions by rows: any number of threads, several slices, bf16") {
  const Geometry rows[] = {
      {1, 20, 20, 16, 96, {.padding = 1}, 3},
      {3, 14, 15, 12, 31, {.stride = 2, .padding = 2}, 5},
      {5, 9, 7, 40, 120, {.padding = 2, .dilation = 2}, 3},
      {2, 3, 3, 130, 520, {.padding = 1}, 3},
      {9, 1, 17, 8, 48, {.padding = 3}, 7},
      // Of the input gradient's rows a later one may meet an earlier row than the one before.
      {1, 40, 16, 8, 24, {.stride = 3, .padding = 1, .dilation = 2}, 3},
  };
  for (const Geometry& row : rows) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(row.inner);
      CAPTURE(ft::name_of(dtype));
      std::vector<Numbers> expected;
      {
        const OnBackend reference("reference");
        expected = gradients(row, dtype);
      }
      const double tolerance = dtype == DType::f32 ? 2e-5 : 0.06;
      for (const int threads : {1, 2, 3, 7}) {
        if (threads > 1 && most_threads == 1) continue;
        CAPTURE(threads);
        const Threads scope(threads);
        const std::vector<Numbers> fused = gradients(row, dtype);
        CHECK(fused == gradients(row, dtype));
        const Fusion off(false);
        const std::vector<Numbers> unfused = gradients(row, dtype);
        for (std::size_t i = 0; i < fused.size(); ++i) {
          CAPTURE(i);
          CHECK(difference(fused[i], expected[i]) <= tolerance);
          CHECK(difference(unfused[i], expected[i]) <= tolerance);
        }
      }
    }
  }
}

TEST_CASE(
    "convolutions by rows: a weight gradient that reads what the input gradient makes is apart from it") {
  const auto run = [] {
    ft::manual_seed(3);
    const Tensor w = ft::variable(ft::randn({8, 1, 1, 8}));
    const Tensor inner = ft::conv2d(ft::randn({2, 4, 4, 8}), ft::randn({8, 1, 1, 8}));
    const Tensor t = ft::relu(norm(inner, ft::full({8}, 1.0)));
    const Tensor y = ft::conv_transpose2d(t, w);
    return numbers(ft::grad({y}, {w}, {y})[0]);
  };
  Numbers expected;
  {
    const OnBackend reference("reference");
    expected = run();
  }
  CHECK(difference(run(), expected) <= 2e-5);
}

TEST_CASE("OpenMP may have been told of more threads than the tape") {
  if (most_threads == 1) return;
  const Geometry row{4, 20, 20, 16, 96, {.padding = 1}, 3};
  const std::vector<Numbers> expected = gradients(row, DType::f32);
  const int before = omp_get_max_threads();
  ft::clear_plan_cache();
  omp_set_num_threads(before + 3);
  const std::vector<Numbers> got = gradients(row, DType::f32);
  omp_set_num_threads(before);
  ft::clear_plan_cache();
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(difference(got[i], expected[i]) <= 2e-5);
}
