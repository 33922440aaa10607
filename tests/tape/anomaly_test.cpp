// Anomaly detection: the first op that makes a NaN or an infinity is named, and a failed run changes nothing
// that was trained.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/tape/anomaly.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::DType;
using ft::Tensor;
using fusetape::tests::contains;
using fusetape::tests::message_of;
using fusetape::tests::OnBackend;
using Floats = std::vector<float>;

namespace {

const char* const backends[] = {"cpu", "reference"};
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

struct ConvBnRelu : ft::nn::Module {
  ft::nn::Conv2d conv{{.in = 2, .out = 3, .kernel = 3, .padding = 1, .bias = false}};
  ft::nn::BatchNorm2d bn{3};
  ConvBnRelu() {
    register_child("conv", conv);
    register_child("bn", bn);
  }
  Tensor forward(const Tensor& x) override { return ft::relu(bn(conv(x))); }
};

struct Net : ft::nn::Module {
  ConvBnRelu stem;
  ft::nn::Linear fc{3, 2};
  Net() {
    register_child("stem", stem);
    register_child("fc", fc);
  }
  Tensor forward(const Tensor& x) override { return fc(ft::global_avg_pool(stem(x))); }
};

Tensor images(float first) {
  Floats data(2 * 4 * 4 * 2);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i % 7) - 3;
  data[0] = first;
  return ft::from_vector(data, {2, 4, 4, 2});
}

void check_says(const std::string& text, const std::string& op, const std::vector<std::string>& parts) {
  CAPTURE(text);
  CHECK(text.rfind("[" + op + "] ", 0) == 0);
  CHECK(contains(text, "anomaly_test.cpp:"));
  for (const std::string& part : parts) CHECK_MESSAGE(contains(text, part), part);
}

}  // namespace

TEST_CASE("every floating dtype is searched: how many, which first") {
  const struct {
    DType dtype;
    double largest;
  } types[] = {{DType::f32, 3e38}, {DType::f64, 1e308}, {DType::bf16, 3e38}, {DType::f16, 65504}};
  for (const auto& row : types) {
    const auto& dtype = row.dtype;
    const auto& largest = row.largest;
    CAPTURE(ft::name_of(dtype));
    std::vector<double> data(10'007, 0.0);
    data[5] = largest, data[6] = -largest, data[7] = 1e-40;
    const auto search = [&] {
      const Tensor x = ft::from_doubles(data, {10'007}, dtype);
      ft::materialize({x});
      return ft::core::find_non_finite(ft::core::host_data(*x.value()), dtype, 10'007);
    };
    CHECK(search().first == -1);
    data[9'000] = -infinity, data[10'006] = not_a_number;
    CHECK(search().first == 9'000);
    CHECK_FALSE(search().first_is_nan);
    CHECK(search().nans == 1);
    CHECK(search().infinities == 1);
    data[3] = not_a_number;
    CHECK(search().first == 3);
    CHECK(search().first_is_nan);
    CHECK(search().nans == 2);
  }
  const std::int64_t big[] = {-1, 0x7ff0000000000000};
  CHECK(ft::core::find_non_finite(big, DType::i64, 2).first == -1);
}

TEST_CASE("the first op that makes a NaN or an infinity is named") {
  const ft::DetectAnomaly on;
  for (const char* name : backends) {
    const OnBackend backend(name);
    const Tensor x = ft::from_vector({1, 0, 2, 3, 4, -1}, {2, 3});
    const Tensor y = ft::exp(ft::log(x + 0)) * 2;
    check_says(message_of([&] { y.to_vector(); }), "log",
               {"in forward", "an infinity at {0, 1}", "1 NaN and 1 infinity among 6 elements, f32 {2, 3}"});
    CHECK_THROWS_WITH_AS(y.to_vector(), doctest::Contains("lost"), ft::Error);
    CHECK((ft::relu(x) + 1).to_vector() == Floats{2, 1, 3, 4, 5, 1});

    ft::Parameter p(ft::from_vector({4, 0, 1}, {3}), "p");
    const Tensor root = ft::sum(ft::sqrt(p * p));  // this line
    const auto line = std::to_string(__LINE__ - 1);
    root.backward();
    const std::string text = message_of([&] { p.grad().to_vector(); });
    check_says(text, "div", {"in backward", "at {1}", "among 3 elements", "anomaly_test.cpp:" + line});
  }
}

TEST_CASE("an update that explodes is named, and changes no parameter, state or count") {
  const ft::DetectAnomaly on;
  for (const char* name : backends) {
    const OnBackend backend(name);
    ft::Parameter p(ft::from_vector({1, 2}, {2}), "p"), q(ft::from_vector({3e38f, 1}, {2}), "q");
    ft::optim::Adam adam({p, q}, {.lr = 0.5});
    ft::optim::SGD sgd({p, q}, {.lr = 10, .momentum = 0.5});
    ft::sum(p * 2 - q).backward();
    adam.step();
    const Floats before_p = p.value().to_vector(), before_q = q.value().to_vector();
    sgd.zero_grad();
    ft::sum(p * 2 - q * 3e37f).backward();
    check_says(message_of([&] { sgd.step(); }), "sgd_update",
               {"in the update", "an infinity at {0}", "among 2 elements", "parameter 'q'"});
    CHECK(p.value().to_vector() == before_p);
    CHECK(q.value().to_vector() == before_q);
    CHECK(sgd.named_state()[0].second.value().to_vector() == Floats{0, 0});
    CHECK(sgd.updates() == std::vector<std::int64_t>{0, 0});
    CHECK(adam.updates() == std::vector<std::int64_t>{1, 1});
    sgd.zero_grad();
    ft::sum(p).backward();  // and training goes on
    sgd.step();
    CHECK(p.value().to_vector() == Floats{before_p[0] - 10, before_p[1] - 10});
  }
}

TEST_CASE("data and parameters that were not finite before the run are named as such") {
  const ft::DetectAnomaly on;
  for (const char* name : backends) {
    const OnBackend backend(name);
    const Tensor x = ft::from_vector({1, not_a_number}, {2});
    check_says(message_of([&] { (x * 2).to_vector(); }), "mul",
               {"in forward", "got a NaN at {1}: 1 NaN among 2 elements", "input 0 was so before this run"});
    const ft::Parameter w(ft::from_vector({infinity, 1}, {2}), "fc.weight");
    check_says(message_of([&] { (ft::ones({2}) + w).to_vector(); }), "add",
               {"an infinity at {0}", "input 1, the value of parameter 'fc.weight', was so before this run"});
    CHECK(ft::relu(ft::from_vector({-infinity, 1}, {2})).to_vector() == Floats{0, 1});  // it stops here
  }
}

TEST_CASE("the place in the model is named, and its statistics stay") {
  const ft::DetectAnomaly on;
  for (const char* name : backends) {
    const OnBackend backend(name);
    Net net;
    ft::optim::SGD sgd(net.parameters(), {.lr = 0.1});
    const Tensor labels = ft::from_vector(std::vector<std::int64_t>{0, 1}, {2});
    const auto step = [&](const Tensor& x) {
      const Tensor loss = ft::cross_entropy(net(x), labels);
      sgd.zero_grad();
      loss.backward();
      sgd.step();
    };
    step(images(1));
    const Floats mean = net.stem.bn.running_mean().value().to_vector(),
                 weight = net.fc.weight().value().to_vector();
    check_says(message_of([&] { step(images(not_a_number)); }), "conv2d",
               {"stem.conv", "input 0 was so before this run"});
    check_says(message_of([&] { step(images(3e38f)); }), "batch_norm", {"in forward", "stem.bn"});
    CHECK(net.stem.bn.running_mean().value().to_vector() == mean);
    CHECK(net.fc.weight().value().to_vector() == weight);
    // γ of infinity: its batch norm reads it first.
    ft::Parameter gamma = net.stem.bn.weight();
    gamma.set_data(ft::from_vector({1, infinity, 1}, {3}));
    check_says(message_of([&] { step(images(1)); }), "batch_norm", {"stem.bn", "'stem.bn.weight'"});
  }
}

TEST_CASE("it is part of a plan's key: plans are unfused while it is on, and come back after it") {
  const OnBackend backend("cpu");
  const Tensor x = ft::from_vector({1, 2, 3}, {3});
  const auto run = [&] { CHECK((ft::exp(x) * 2 + 1 - ft::relu(x)).to_vector().size() == 3); };
  run();
  const int fused = ft::explain().kernels;
  const auto before = ft::plan_cache_stats();
  {
    const ft::DetectAnomaly on;
    CHECK(ft::anomaly_detection_enabled());
    run();
    CHECK(ft::explain().kernels == 5);
  }
  CHECK_FALSE(ft::anomaly_detection_enabled());
  CHECK(fused == 1);
  CHECK(ft::plan_cache_stats().misses == before.misses + 1);
  run();
  CHECK(ft::plan_cache_stats().hits == before.hits + 1);
  CHECK(ft::explain().kernels == 1);
  const Tensor bad = ft::log(x - 2);  // off: no error
  CHECK(std::isnan(bad.to_vector()[0]));
}

TEST_CASE("custom ops are searched, too") {
  const ft::CustomOp op({.name = "to_nan", .forward = [](ft::CustomForward& call) {
                           for (double& y : call.output<double>(0)) y = std::nan("");
                         }});
  const ft::DetectAnomaly on;
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    check_says(message_of([&] { op.one({ft::ones({3}, dtype)}).to_vector(); }), "to_nan",
               {"3 NaN among 3 elements", std::string(ft::name_of(dtype))});
  }
  CHECK(op.one({ft::ones({3}, DType::i64)}).to_vector().size() == 3);
}
