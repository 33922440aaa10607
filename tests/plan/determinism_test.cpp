// set_deterministic(true): the same training gives the same bits, at every number of threads.
#include <doctest/doctest.h>

#include <vector>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
using ft::Tensor;
using fusetape::tests::most_threads;
using fusetape::tests::OnBackend;
using Floats = std::vector<float>;

namespace {

struct Net : nn::Module {
  nn::Conv2d conv1{{.in = 3, .out = 17, .kernel = 3, .padding = 1, .bias = false}};
  nn::BatchNorm2d bn1{17};
  nn::Conv2d conv2{{.in = 17, .out = 24, .kernel = 3, .stride = 2, .padding = 1}};
  nn::MaxPool2d pool;
  nn::Dropout dropout{0.3};
  nn::Linear fc{24, 10};
  Net() {
    register_child("conv1", conv1);
    register_child("bn1", bn1);
    register_child("conv2", conv2);
    register_child("pool", pool);
    register_child("dropout", dropout);
    register_child("fc", fc);
  }
  Tensor forward(const Tensor& x) override {
    const Tensor y = pool(ft::relu(conv2(ft::relu(bn1(conv1(x))))));
    return fc(dropout(ft::global_avg_pool(y)));
  }
};

/// Losses, parameters and statistics after a few steps from the same seed, with plans made anew.
Floats train(bool deterministic) {
  ft::clear_plan_cache();
  ft::set_deterministic(deterministic);
  ft::manual_seed(9);
  Net net;
  ft::optim::SGD sgd(net.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 5e-4});
  ft::data::DataLoader loader(ft::data::synthetic_images({.count = 32, .size = 15}),
                              {.batch = 8, .crop = 2, .flip = true});
  Floats bits;
  for (const auto& [images, labels] : loader) {
    const Tensor loss = ft::cross_entropy(net(images), labels);
    sgd.zero_grad();
    loss.backward();
    const Tensor norm = ft::optim::clip_grad_norm(net.parameters(), 5);
    sgd.step();
    bits.push_back(static_cast<float>(loss.item()));
    bits.push_back(static_cast<float>(norm.item()));
  }
  const auto append = [&](const Tensor& value) {
    const Floats elements = value.to_vector();
    bits.insert(bits.end(), elements.begin(), elements.end());
  };
  for (const ft::Parameter& parameter : net.parameters()) append(parameter.value());
  for (const auto& [name, buffer] : net.named_buffers()) append(buffer.value());
  ft::set_deterministic(false);
  return bits;
}

}  // namespace

TEST_CASE("two trainings give equal bits, fused and not, at one thread and at two") {
  const OnBackend backend("cpu");
  const int threads = ft::threads();
  for (const int count : {1, most_threads}) {
    for (const bool fusion : {true, false}) {
      CAPTURE(count);
      CAPTURE(fusion);
      const fusetape::tests::Fusion mode(fusion);
      ft::set_threads(count);
      const Floats first = train(true);
      CHECK(first.size() > 4'000);
      CHECK(train(true) == first);
    }
  }
  ft::set_threads(threads);
}

TEST_CASE("the setting is part of a plan's key") {
  const OnBackend backend("cpu");
  const auto run = [](bool on) {
    ft::set_deterministic(on);
    CHECK(ft::deterministic() == on);
    return (ft::ones({3}) * 2).to_vector() == Floats{2, 2, 2};
  };
  CHECK(run(false));
  const auto before = ft::plan_cache_stats();
  CHECK(run(true));
  CHECK(ft::plan_cache_stats().misses == before.misses + 1);
  CHECK(run(false));
  CHECK(ft::plan_cache_stats().hits == before.hits + 1);
}
