// Mixed precision in whole training steps: how near bf16 comes, where the casts are, and what runs them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using Numbers = std::vector<double>;
using ft::Autocast;
using ft::DType;
using ft::Tensor;

namespace {

constexpr DType f32 = DType::f32, bf16 = DType::bf16;

/// One of everything that a residual network has.
struct Net : ft::nn::Module {
  ft::nn::Conv2d conv{{.in = 3, .out = 8, .kernel = 3, .padding = 1, .bias = false}};
  ft::nn::BatchNorm2d bn{8};
  ft::nn::Conv2d conv2{{.in = 8, .out = 8, .kernel = 3, .padding = 1}};
  ft::nn::Linear fc{8, 5};
  DType trunk = f32, logits = f32;  ///< as last seen

  Net() {
    register_child("conv", conv), register_child("bn", bn);
    register_child("conv2", conv2), register_child("fc", fc);
  }
  Tensor forward(const Tensor& x) override {
    const Tensor y = ft::max_pool2d(ft::relu(bn(conv(x))));
    const Tensor z = ft::relu(conv2(y) + y), out = fc(ft::global_avg_pool(z));
    trunk = z.dtype(), logits = out.dtype();
    return out;
  }
};

struct Run {
  bool item_first = false, backward_inside = false, checkpointed = false;
};

/// Loss, gradients, and parameters and running statistics after the step.
std::vector<Numbers> step(DType precision, Run how = {}) {
  ft::manual_seed(7);
  Net net;
  ft::optim::SGD sgd(net.parameters(), {.lr = 0.1, .momentum = 0.9});
  const Tensor images = ft::randn({3, 7, 5, 3});
  Tensor loss;
  {
    const Autocast cast(precision);
    const Tensor logits =
        how.checkpointed ? ft::checkpoint([&](const Tensor& x) { return net(x); }, images) : net(images);
    loss = ft::cross_entropy(logits, ft::from_vector<std::int64_t>({0, 4, 2}, {3}));
    CHECK(loss.dtype() == f32);
    CHECK(net.trunk == precision);
    CHECK(net.logits == precision);
    if (how.item_first) loss.item();
    if (how.backward_inside) loss.backward();
  }
  if (!how.backward_inside) loss.backward();
  std::vector<Tensor> gradients;
  for (const ft::Parameter& parameter : net.parameters()) gradients.push_back(parameter.grad());
  sgd.step();
  std::vector<Numbers> numbers = {loss.to_vector<double>()};
  for (const Tensor& gradient : gradients) {
    CHECK(gradient.dtype() == f32);
    numbers.push_back(gradient.to_vector<double>());
  }
  for (const ft::Parameter& parameter : net.parameters()) {
    CHECK(parameter.dtype() == f32);
    numbers.push_back(parameter.value().to_vector<double>());
  }
  for (const auto& [name, buffer] : net.named_buffers()) {
    CHECK(buffer.dtype() == f32);
    numbers.push_back(buffer.value().to_vector<double>());
  }
  return numbers;
}

/// ‖got − expected‖ / ‖expected‖ of the tensor where it is largest.
double distance(const std::vector<Numbers>& got, const std::vector<Numbers>& expected) {
  REQUIRE(got.size() == expected.size());
  double worst = 0;
  for (std::size_t t = 0; t < got.size(); ++t) {
    REQUIRE(got[t].size() == expected[t].size());
    double apart = 0, size = 0;
    for (std::size_t i = 0; i < got[t].size(); ++i) {
      apart += std::pow(got[t][i] - expected[t][i], 2);
      size += std::pow(expected[t][i], 2);
    }
    if (apart != 0) worst = std::max(worst, std::sqrt(apart / size));
    if (std::isnan(apart)) return HUGE_VAL;
  }
  return worst;
}

}  // namespace

TEST_CASE("a parameter that is used twice is cast once, and backward reads the same cast") {
  const OnBackend backend("null");
  const Fusion off(false);
  const ft::Shape image{2, 4, 4, 3};
  const Tensor x = ft::variable(ft::ones(image)), w = ft::variable(ft::ones({3, 3, 3, 3}));
  Tensor y;
  {
    const Autocast cast(bf16);
    const ft::Conv2dOptions same{.padding = {1, 1}};
    y = ft::conv2d(ft::conv2d(x, w, same), w, same);
  }
  const std::vector<Tensor> gradients = ft::grad({std::exchange(y, {})}, {x, w}, {ft::ones(image, bf16)});
  ft::materialize();
  std::vector<std::string> casts;
  for (const ft::GroupReport& group : ft::explain().groups) {
    if (group.name == "cast") casts.push_back(group.phase);
  }
  // Of x and w; of x's gradient, and of w's from each of its uses.
  CHECK(std::count(casts.begin(), casts.end(), "forward") == 2);
  CHECK(std::count(casts.begin(), casts.end(), "backward") == 3);
}

TEST_CASE("a step in bf16 is near the one in f32; fused, unfused up to skipped roundings") {
  const std::vector<Numbers> exact = step(f32), fused = step(bf16);
  CHECK(distance(fused, exact) < 0.02);
  CHECK(distance(fused, exact) > 1e-3);  // or it was no bf16
  const Fusion off(false);
  CHECK(distance(fused, step(bf16)) < 0.02);
}

TEST_CASE("op by op, bf16 is the reference's: sums are rounded once; eager is unfused to the bit") {
  const Fusion off(false);
  const std::vector<Numbers> unfused = step(bf16);
  {
    const OnBackend backend("reference");
    CHECK(distance(unfused, step(bf16)) < 0.004);
  }
  const Eager eager(true);
  CHECK(distance(step(bf16), unfused) == 0);
}

TEST_CASE(
    "reading the loss first, backward inside the scope, or a checkpoint: nothing changes but rounding") {
  const std::vector<Numbers> plain = step(bf16);
  CHECK(distance(step(bf16, {.backward_inside = true}), plain) == 0);
  CHECK(distance(step(bf16, {.item_first = true}), plain) < 0.02);
  const Fusion off(false);
  CHECK(distance(step(bf16, {.checkpointed = true}), step(bf16)) == 0);
}

TEST_CASE("a loader's images stay f32") {
  const Autocast cast(bf16);
  ft::data::DataLoader loader(ft::data::synthetic_images({.count = 4}),
                              {.batch = 2, .crop = 4, .flip = true});
  for (const auto& [images, labels] : loader) CHECK(images.dtype() == f32);
}

TEST_CASE("a step of ResNet-20 in bf16 has a kernel for everything") {
  const OnBackend backend("cpu");
  auto model = ft::nn::resnet20();
  ft::optim::SGD sgd(model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 5e-4});
  const Tensor images = ft::randn({1, 16, 16, 3});
  ft::materialize({images});
  {
    const Autocast cast(bf16);
    ft::cross_entropy(model(images), ft::zeros({1}, DType::i64)).backward();
  }
  sgd.step();
  for (const ft::GroupReport& group : ft::explain().groups) {
    CHECK_MESSAGE(group.why.empty(), group.name << " at " << group.module_path << ": " << group.why);
  }
}
