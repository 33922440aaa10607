// Convolutions by rows beyond what ops_test.cpp drives from row_cases.cpp: numbers of threads, bf16, tensors
// of several slices, and what must not become one kernel.
#include <doctest/doctest.h>
#include <omp.h>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"
#include "tests/tune/tuning.hpp"

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

namespace {

struct PatchCase {
  std::int64_t batch, height, width, in, out, kernel_h, kernel_w;
  ft::Conv2dOptions options;
  bool is_read_twice = false;  ///< a sum beside the convolution reads the same ReLU
};

struct PatchRun {
  std::vector<Numbers> results;
  int patches = 0, carrying = 0;  ///< kernels, and those of them that norms ride in
};

/// A convolution between batch norms with ReLUs, and its gradients.
PatchRun between_norms(const PatchCase& c, DType dtype) {
  ft::manual_seed(11);
  const auto drawn = [&](const ft::Shape& shape) { return ft::variable(ft::cast(ft::randn(shape), dtype)); };
  const Tensor x = drawn({c.batch, c.height, c.width, c.in}), before = drawn({c.in, 1, 1, c.in});
  const Tensor w = drawn({c.out, c.kernel_h, c.kernel_w, c.in});
  const Tensor gamma = ft::variable(ft::rand({c.in}) + 0.5), last = ft::variable(ft::rand({c.out}) + 0.5);
  const Tensor a = ft::relu(norm(ft::conv2d(x, before), gamma));
  const Tensor y = ft::relu(norm(ft::conv2d(a, w, c.options), last));
  ft::manual_seed(12);
  Tensor loss = ft::sum(ft::cast(y, DType::f32) * ft::randn(y.shape()));
  if (c.is_read_twice) loss = loss + ft::sum(ft::cast(a, DType::f32) * ft::randn(a.shape()));
  std::vector<Tensor> tensors = ft::grad({loss}, {x, before, w, gamma, last});
  tensors.push_back(loss);
  ft::materialize({tensors[0], tensors[1], tensors[2], tensors[3], tensors[4], loss});
  PatchRun run;
  for (const ft::GroupReport& group : ft::explain().groups) {
    if (group.kernel != "highway:patches") continue;
    ++run.patches;
    run.carrying += contains(group.name, "batch_norm") ? 1 : 0;
  }
  for (const Tensor& tensor : tensors) run.results.push_back(numbers(tensor));
  return run;
}

}  // namespace

TEST_CASE("convolutions by patches: any filter, stride, padding and dilation, with norms and without") {
  const PatchCase cases[] = {
      {3, 12, 10, 24, 40, 3, 3, {.stride = 2, .padding = 1}},
      {3, 12, 10, 24, 40, 3, 3, {.stride = 2, .padding = 1}, true},
      {9, 9, 11, 32, 70, 1, 1, {.stride = 2}},
      {9, 9, 11, 32, 70, 1, 1, {.stride = 2}, true},
      {2, 21, 17, 3, 64, 7, 7, {.stride = 2, .padding = 3}},
      {4, 8, 8, 20, 33, 5, 5, {.padding = 2}},
      {7, 13, 14, 16, 48, 3, 3, {.stride = 3, .padding = 2, .dilation = 2}},
      {2, 15, 14, 16, 36, 3, 3, {.padding = 2, .dilation = 2}},
      {2, 11, 40, 17, 30, 1, 3, {.stride = {1, 2}, .padding = {0, 1}}},
      {2, 40, 7, 16, 48, 4, 2, {.stride = {4, 1}, .padding = {3, 0}}},
      {2, 10, 10, 64, 130, 1, 1, {.padding = 1}},
      {2, 130, 3, 24, 80, 2, 2, {.stride = 2}},
  };
  const Tuning tuning({.direct = 1, .patches = 0.1, .carried = 1, .apart = 2});
  for (const PatchCase& c : cases) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(c.kernel_h);
      CAPTURE(c.kernel_w);
      CAPTURE(c.in);
      CAPTURE(ft::name_of(dtype));
      std::vector<Numbers> expected;
      {
        const OnBackend reference("reference");
        expected = between_norms(c, dtype).results;
      }
      const double tolerance = dtype == DType::f32 ? 2e-5 : 0.06;
      for (const int threads : {1, 2, 3, 7}) {
        if (threads > 1 && most_threads == 1) continue;
        CAPTURE(threads);
        const Threads scope(threads);
        const PatchRun fused = between_norms(c, dtype);
        CHECK(fused.patches == 3);
        CHECK(fused.carrying == 3);
        CHECK(fused.results == between_norms(c, dtype).results);
        const Fusion off(false);
        const PatchRun unfused = between_norms(c, dtype);
        CHECK(unfused.patches == 3);
        CHECK(unfused.carrying == 0);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          CAPTURE(i);
          CHECK(difference(fused.results[i], expected[i]) <= tolerance);
          CHECK(difference(unfused.results[i], expected[i]) <= tolerance);
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
