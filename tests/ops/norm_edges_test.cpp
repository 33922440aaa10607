// Batch norm where its arithmetic is hardest: means that are large beside the deviation, channels without
// one, squares beyond f32, few values and none.
#include <doctest/doctest.h>

#include <cfloat>
#include <random>
#include <utility>
#include <vector>

#include "backends.hpp"
#include "compare.hpp"
#include "core/op/op.hpp"
#include "core/op/op_attrs.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace core = fusetape::core;
using namespace fusetape::tests;
using ft::DType;
using ft::Tensor;

namespace {

// ---- what is normalised

struct Edge {
  const char* name;
  double mean, deviation;
};
constexpr Edge edges[] = {
    {"about 0", 0, 1},
    {"about 100", 100, 1},
    {"about 1e4", 1e4, 1},
    {"about 1e7", 1e7, 5},
    {"constant, 1e7", 1e7, 0},
    {"constant, FLT_MAX / 4", FLT_MAX / 4, 0},
    {"squares beyond f32", 0, 1e22},
    {"up to FLT_MAX / 4", 0, FLT_MAX / 4},
    {"between FLT_MAX / 8 and FLT_MAX / 4", FLT_MAX / 16 * 3, FLT_MAX / 16},
};

/// 7 channels that differ, or 16 that Winograd takes.
ft::Shape shape_of(bool wide) { return wide ? ft::Shape{3, 12, 16, 16} : ft::Shape{5, 13, 7, 7}; }

Tensor drawn(const ft::Shape& shape, unsigned seed, double mean, double deviation, DType dtype) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> any(-1, 1);
  std::vector<float> numbers;
  for (std::int64_t i = 0; i < shape.elements(); ++i) {
    numbers.push_back(static_cast<float>(mean + deviation * any(engine)));
  }
  return ft::cast(ft::from_vector(numbers, shape), dtype);
}

Numbers numbers_of(const Tensor& tensor) { return tensor.to_vector<double>(); }

/// A batch norm's results, as the tape has them.
struct Norm {
  Tensor x, gamma, beta, y, mean, new_mean, new_var;
};

Norm norm_of(const Tensor& x, unsigned seed) {
  const std::int64_t c = x.size(-1);
  Norm n{.x = x,
         .gamma = drawn({c}, seed + 1, 1.5, 0.5, DType::f32),
         .beta = drawn({c}, seed + 2, 0, 1, DType::f32)};
  const core::Outputs out =
      core::record(core::find_op("batch_norm"),
                   {x, n.gamma, n.beta, ft::zeros({c}), ft::ones({c}), ft::full({}, 0.1, DType::f64)},
                   core::Attrs::of(core::BatchNormAttrs{}), ft::Location::current());
  n.y = out[0], n.mean = out[1], n.new_mean = out[3], n.new_var = out[4];
  return n;
}

// ---- the forms

/// What a form is made of, and what it gives: result = [relu](Σ norms [+ z]).
struct Made {
  std::vector<Norm> norms;
  Tensor z, result;
  bool relu = true;
  std::vector<Tensor> beside;  ///< wanted, too
};

struct Form {
  const char* name;
  Made (*make)(const Edge&, DType);
  const char* group;  ///< of the fused plan on the CPU
  bool wide = false;
};

Tensor x_of(const Edge& edge, DType dtype, unsigned seed = 1, bool wide = false) {
  // bf16 has numbers every 2⁻⁷ of the mean.
  const double deviation =
      dtype == DType::bf16 && edge.deviation > 0 ? std::max(edge.deviation, edge.mean / 16) : edge.deviation;
  return drawn(shape_of(wide), seed, edge.mean, deviation, dtype);
}

Made plain(const Edge& edge, DType dtype) {
  Made made{.norms = {norm_of(x_of(edge, dtype), 2)}, .relu = false};
  made.result = made.norms[0].y;
  return made;
}
Made with_relu(const Edge& edge, DType dtype) {
  Made made{.norms = {norm_of(x_of(edge, dtype), 2)}};
  made.result = ft::relu(std::exchange(made.norms[0].y, {}));
  return made;
}
Made with_sum(const Edge& edge, DType dtype) {
  Made made{.norms = {norm_of(x_of(edge, dtype), 2)}, .z = drawn(shape_of(false), 3, 0, 1, dtype)};
  made.result = ft::relu(std::exchange(made.norms[0].y, {}) + made.z);
  return made;
}
Made two_norms(const Edge& edge, DType dtype) {
  Made made{.norms = {norm_of(x_of(edge, dtype), 2), norm_of(x_of(edge, dtype, 5), 6)}};
  made.result = ft::relu(std::exchange(made.norms[0].y, {}) + std::exchange(made.norms[1].y, {}));
  return made;
}
/// A convolution behind it normalises what it reads, and writes it for us.
Made before_convolution(const Edge& edge, DType dtype) {
  Made made{.norms = {norm_of(x_of(edge, dtype, 1, true), 2)}};
  made.result = ft::relu(std::exchange(made.norms[0].y, {}));
  made.beside = {ft::conv2d(made.result, drawn({16, 3, 3, 16}, 7, 0, 1, dtype), {.padding = {1, 1}})};
  return made;
}
Made sum_before_convolution(const Edge& edge, DType dtype) {
  Made made{.norms = {norm_of(x_of(edge, dtype, 1, true), 2)}, .z = drawn(shape_of(true), 3, 0, 1, dtype)};
  made.result = ft::relu(std::exchange(made.norms[0].y, {}) + made.z);
  made.beside = {ft::conv2d(made.result, drawn({16, 3, 3, 16}, 7, 0, 1, dtype), {.padding = {1, 1}})};
  return made;
}
/// A convolution before it measures what it writes; its mean is an image of ones, times a weight.
Made behind_convolution(const Edge& edge, DType dtype) {
  const Tensor ones = ft::ones({3, 12, 16, 1}, dtype);
  const Tensor mean = ft::pad(ft::full({16, 1, 1, 1}, edge.mean, dtype), {{0, 0}, {1, 1}, {1, 1}, {0, 0}});
  const Tensor images = ft::concat({ones, drawn({3, 12, 16, 15}, 1, 0, edge.deviation / 256, dtype)}, 3);
  const Tensor weights = ft::concat({mean, drawn({16, 3, 3, 15}, 7, 0, 1, dtype)}, 3);
  Made made{.norms = {norm_of(ft::conv2d(images, weights, {.padding = {1, 1}}), 2)}, .relu = false};
  made.result = made.norms[0].y;
  return made;
}

constexpr Form forms[] = {
    {"plain", plain, "batch_norm"},
    {"ReLU", with_relu, "batch_norm+relu"},
    {"add, ReLU", with_sum, "batch_norm+add+relu"},
    {"two norms, ReLU", two_norms, "batch_norm+batch_norm+add+relu"},
    {"ReLU, convolution", before_convolution, "batch_norm_apply+relu+conv2d", true},
    {"add, ReLU, convolution", sum_before_convolution, "batch_norm_apply+add+relu+conv2d", true},
    {"convolution", behind_convolution, "conv2d+batch_norm_statistics", true},
};

// ---- what is right

double last_place(double v, DType dtype) {
  const int exponent = v == 0 ? -126 : std::max(-126, std::ilogb(v));
  return std::ldexp(1, exponent - (dtype == DType::bf16 ? 7 : 23));
}

/// A channel's exact mean and its mean square deviation.
struct Statistics {
  Numbers mean, variance;
  explicit Statistics(const Numbers& x, std::size_t channels) : mean(channels), variance(channels) {
    const double n = static_cast<double>(x.size() / channels);
    for (std::size_t i = 0; i < x.size(); ++i) mean[i % channels] += x[i];
    for (double& sum : mean) sum /= n;
    for (std::size_t i = 0; i < x.size(); ++i) {
      variance[i % channels] += (x[i] - mean[i % channels]) * (x[i] - mean[i % channels]) / n;
    }
  }
};

/// The largest error of the result in last places: of each norm's, which are those of the larger of |a(x −
/// μ)| and |β|, and of the sum's where there is one.
double error_in_last_places(const Made& made, DType dtype, bool exact_mean) {
  const Numbers got = numbers_of(made.result);
  Numbers expected = made.z.defined() ? numbers_of(made.z) : Numbers(got.size()), unit(got.size());
  for (const Norm& norm : made.norms) {
    const Numbers x = numbers_of(norm.x), gamma = numbers_of(norm.gamma), beta = numbers_of(norm.beta);
    const Statistics exact(x, gamma.size());
    const Numbers mean = exact_mean ? exact.mean : numbers_of(norm.mean);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t c = i % gamma.size();
      const double product = gamma[c] / std::sqrt(exact.variance[c] + 1e-5) * (x[i] - mean[c]);
      expected[i] += product + beta[c];
      unit[i] += last_place(std::max(std::abs(product), std::abs(beta[c])), dtype);
    }
  }
  const bool sum = made.z.defined() || made.norms.size() > 1;
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double right = made.relu ? std::max(expected[i], 0.0) : expected[i];
    if (sum) unit[i] += last_place(expected[i], dtype);
    worst = std::max(worst, std::isfinite(got[i]) ? std::abs(got[i] - right) / unit[i] : HUGE_VAL);
  }
  return worst;
}

/// The running statistics, relative to themselves; what f32 cannot hold is ∞.
double error_of_tracked(const Norm& norm) {
  const Numbers x = numbers_of(norm.x), mean = numbers_of(norm.new_mean), var = numbers_of(norm.new_var);
  const Statistics exact(x, mean.size());
  const double n = static_cast<double>(x.size() / mean.size());
  double worst = 0;
  for (std::size_t c = 0; c < mean.size(); ++c) {
    const double variance = 0.9 + 0.1 * exact.variance[c] * n / (n - 1), centre = 0.1 * exact.mean[c];
    const double scale = std::max(std::abs(centre), 0.1 * std::sqrt(exact.variance[c])) + 1e-30;
    worst = std::max(worst, std::abs(mean[c] - centre) / scale);
    if (variance > FLT_MAX) {
      CHECK(std::isinf(var[c]));
    } else {
      worst = std::max(worst, std::abs(var[c] - variance) / variance);
    }
  }
  return worst;
}

struct Way {
  const char* name;
  const char* backend;
  bool fusion;
};
std::vector<Way> ways() {
  std::vector<Way> all = {
      {"cpu, fused", "cpu", true}, {"cpu, unfused", "cpu", false}, {"reference", "reference", true}};
  if (has_cuda_double()) all.push_back({"cuda double", "cuda double", true});
  return all;
}

}  // namespace

TEST_CASE("batch norm is (x − μ)·a + β to four last places, in every form, at every mean and deviation") {
  for (const Way& way : ways()) {
    const OnBackend on(way.backend);
    const Fusion fusion(way.fusion);
    const ConvBy winograd(ft::ConvAlgorithm::winograd);  // which carries norms
    const std::string backend = way.backend;
    for (const Form& form : forms) {
      for (const Edge& edge : edges) {
        for (const DType dtype : {DType::f32, DType::bf16}) {
          const Made made = form.make(edge, dtype);
          ft::materialize();
          INFO(std::string(way.name), ", ", std::string(form.name), ", ", std::string(edge.name), ", ",
               std::string(name_of(dtype)), ": ", group_names());
          if (backend == "cpu" && way.fusion) CHECK(contains(group_names(), form.group));
          CHECK(error_in_last_places(made, dtype, backend == "reference") <= 4);
          for (const Norm& norm : made.norms) CHECK(error_of_tracked(norm) <= 1e-6);
        }
      }
    }
  }
}

TEST_CASE("a ReLU's mask that backward makes again from x is forward's, at every mean") {
  for (const Way& way : ways()) {
    const OnBackend on(way.backend);
    const Fusion fusion(way.fusion);
    for (const Edge& edge : edges) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const Tensor x = x_of(edge, dtype), gamma = drawn({7}, 2, 1.5, 0.5, DType::f32);
        const Tensor beta = ft::variable(drawn({7}, 3, 0, 0.1, DType::f32));
        const Tensor y = ft::relu(ft::batch_norm(ft::variable(x), gamma, beta));
        const Tensor count = ft::grad({ft::sum(ft::cast(y, DType::f32))}, {beta})[0];
        ft::materialize({count, y});
        Numbers positive(7);
        const Numbers values = numbers_of(y);
        for (std::size_t i = 0; i < values.size(); ++i) positive[i % 7] += values[i] > 0 ? 1 : 0;
        INFO(std::string(way.name), ", ", std::string(edge.name), ", ", std::string(name_of(dtype)));
        CHECK(numbers_of(count) == positive);
      }
    }
  }
}

TEST_CASE("dx sums to 0 in each channel, though the gradient is the same over an image") {
  // One chain of f32 over 256 rows made it 2.6e-5.
  for (const Way& way : ways()) {
    const OnBackend on(way.backend);
    const Tensor x = ft::variable(drawn({8, 21, 12, 16}, 1, 0, 1, DType::f32));
    const Tensor gamma = drawn({16}, 2, 1.5, 0.5, DType::f32), beta = drawn({16}, 3, 0, 1, DType::f32);
    const Tensor weights = drawn({8, 16}, 4, 0, 1, DType::f32);
    const Tensor y = ft::global_avg_pool(ft::batch_norm(x, gamma, beta));
    const Numbers dx = numbers_of(ft::grad({ft::sum(y * weights)}, {x})[0]);
    Numbers sum(16), size(16);
    for (std::size_t i = 0; i < dx.size(); ++i) sum[i % 16] += dx[i], size[i % 16] += std::abs(dx[i]);
    INFO(std::string(way.name));
    for (std::size_t c = 0; c < 16; ++c) CHECK(std::abs(sum[c]) <= 5e-6 * size[c]);
  }
}

TEST_CASE("an empty batch moves no running statistic") {
  for (const Way& way : ways()) {
    const OnBackend on(way.backend);
    ft::nn::BatchNorm2d bn(3, {.momentum = 0.5});
    bn(ft::randn({2, 2, 2, 3}));
    const Numbers mean = numbers_of(bn.running_mean().value()), var = numbers_of(bn.running_var().value());
    CHECK(bn(ft::zeros({0, 2, 2, 3})).elements() == 0);
    INFO(std::string(way.name));
    CHECK(numbers_of(bn.running_mean().value()) == mean);
    CHECK(numbers_of(bn.running_var().value()) == var);
  }
}

TEST_CASE("one value a channel is refused in training and normalised in evaluation; two are enough") {
  ft::nn::BatchNorm2d bn(3);
  const std::string refusal = message_of([&] { bn(ft::ones({1, 1, 1, 3})); });
  CHECK(contains(refusal, "[batch_norm] expected more than one value a channel in training"));
  CHECK(contains(refusal, "got {1, 1, 1, 3}"));
  CHECK(contains(refusal, "drop_last"));
  CHECK(numbers_of(bn.running_var().value()) == Numbers(3, 1));
  CHECK_NOTHROW(numbers_of(bn(ft::randn({1, 1, 2, 3}))));
  bn.eval();
  CHECK_NOTHROW(numbers_of(bn(ft::ones({1, 1, 1, 3}))));
}
