// Dynamic loss scaling: gradients that vanish in f16 without it, steps that are left out, and the state.
#include <doctest/doctest.h>

#include <vector>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"
#include "scratch_folder.hpp"

namespace ft = fusetape;
namespace nn = ft::nn;
namespace optim = ft::optim;
using namespace fusetape::tests;
using ft::DType;
using ft::Tensor;

namespace {

constexpr optim::SGDOptions sgd_options{.lr = 0.5, .momentum = 0.9};

/// A linear layer whose loss is so small that its gradients are below f16's least number.
struct Subject {
  nn::Linear net{4, 3};
  optim::SGD sgd{net.parameters(), sgd_options};

  Subject() { ft::manual_seed(5); }

  Tensor loss(DType precision, double factor = 1) {
    const ft::Autocast cast(precision);
    const Tensor x = ft::from_vector<float>({1, -2, 3, 0.5, 2, 1, -1, 4}, {2, 4});
    return ft::mean(net(x * factor)) * 3e-8;
  }
  Numbers weights() const { return net.weight().value().to_vector<double>(); }
};

}  // namespace

TEST_CASE("gradients that vanish in f16 are there with a scaled loss") {
  const auto gradient = [](DType precision, bool scaled) {
    Subject subject;
    optim::LossScaler scaler;
    const Tensor loss = subject.loss(precision);
    (scaled ? scaler.scale(loss) : loss).backward();
    if (scaled) {
      CHECK(scaler.step(subject.sgd));
    } else {
      subject.sgd.step();
    }
    return subject.net.weight().grad().to_vector<double>();
  };
  const Numbers exact = gradient(DType::f32, false);
  CHECK(difference(gradient(DType::f16, false), Numbers(12, 0.0), 1e-12) == 0);
  CHECK(difference(gradient(DType::f16, true), exact, 1e-12) < 0.01);
}

TEST_CASE("an overflow leaves the step out and halves the factor; clean steps double it") {
  Subject subject;
  optim::LossScaler scaler({.initial = 1024, .growth_interval = 2});
  const auto step = [&](double size) {
    const Tensor loss = subject.loss(DType::f32, size);
    subject.sgd.zero_grad();
    scaler.scale(loss).backward();
    return scaler.step(subject.sgd);
  };
  CHECK(step(1));
  CHECK(scaler.clean_steps() == 1);
  const Numbers before = subject.weights();
  CHECK_FALSE(step(HUGE_VAL));
  CHECK(subject.weights() == before);
  CHECK(subject.sgd.updates()[0] == 1);
  CHECK(scaler.factor() == 512);
  CHECK(scaler.clean_steps() == 0);
  CHECK(step(1));
  CHECK(subject.weights() != before);
  CHECK(step(1));
  CHECK(scaler.factor() == 1024);
  CHECK(scaler.clean_steps() == 0);
}

TEST_CASE("a loss that stays infinite is an Error at the least factor, and the next good step goes on") {
  Subject subject;
  optim::LossScaler scaler({.initial = 8, .minimum = 1.5});
  const auto step = [&](double size) {
    const Tensor loss = subject.loss(DType::f32, size);
    subject.sgd.zero_grad();
    scaler.scale(loss).backward();
    return scaler.step(subject.sgd);
  };
  const Numbers before = subject.weights();
  std::vector<double> factors;
  for (int i = 0; i < 3; ++i) {
    CHECK_FALSE(step(HUGE_VAL));
    factors.push_back(scaler.factor());
  }
  CHECK(factors == std::vector<double>{4, 2, 1.5});
  for (int i = 0; i < 2; ++i) {
    const std::string message = message_of([&] { step(HUGE_VAL); });
    CHECK(contains(message, "the loss itself is not finite"));
    CHECK(contains(message, "1.5"));
    CHECK(contains(message, "loss_scaler_test.cpp"));
  }
  CHECK(subject.weights() == before);
  CHECK(scaler.factor() == 1.5);
  CHECK(step(1));
  CHECK(subject.weights() != before);
}

TEST_CASE("with the default options the Error comes after 32 steps, not never") {
  Subject subject;
  optim::LossScaler scaler;
  int skipped = 0;
  const std::string message = message_of([&] {
    for (; skipped < 200; ++skipped) {
      const Tensor loss = subject.loss(DType::f32, HUGE_VAL);
      subject.sgd.zero_grad();
      scaler.scale(loss).backward();
      scaler.step(subject.sgd);
    }
  });
  CHECK(contains(message, "not finite"));
  CHECK(skipped == 32);
}

TEST_CASE("the factor grows where a checkpoint brings more clean steps than the interval, and not for ever") {
  Subject subject;
  optim::LossScaler scaler({.growth_interval = 3});
  const auto step = [&] {
    const Tensor loss = subject.loss(DType::f32) * 1e-30;
    subject.sgd.zero_grad();
    scaler.scale(loss).backward();
    return scaler.step(subject.sgd);
  };
  scaler.set_state(2, 17);
  CHECK(step());
  CHECK(scaler.factor() == 4);
  scaler.set_state(0x1p126, 2);
  CHECK(step());
  CHECK(scaler.factor() == 0x1p126);
  scaler.set_state(1e-40, 0);  // a dead one, as it was saved before there was a minimum
  CHECK(scaler.factor() == 0x1p-16);
}

TEST_CASE("a scaled step is the plain one, where nothing is rounded: the factor is a power of two") {
  const auto weights = [](bool scaled) {
    Subject subject;
    optim::LossScaler scaler;
    for (int i = 0; i < 3; ++i) {
      const Tensor loss = subject.loss(DType::f32);
      subject.sgd.zero_grad();
      (scaled ? scaler.scale(loss) : loss).backward();
      CHECK((scaled ? scaler.step(subject.sgd) : subject.sgd.step()));
    }
    return subject.weights();
  };
  CHECK(weights(true) == weights(false));
}

TEST_CASE("a checkpoint holds the factor") {
  const ScratchFolder folder;
  std::filesystem::create_directories(folder.path());
  const std::string path = folder.path() / "scaler.safetensors";
  optim::LossScaler written, read;
  written.set_state(128, 17);
  ft::io::save_checkpoint(path, {.loss_scaler = &written});
  ft::io::load_checkpoint(path, {.loss_scaler = &read});
  CHECK(read.factor() == 128);
  CHECK(read.clean_steps() == 17);
  ft::io::save_checkpoint(path, {});
  CHECK(contains(message_of([&] { ft::io::load_checkpoint(path, {.loss_scaler = &read}); }),
                 "loss_scaler.factor"));
}

TEST_CASE("options that make no sense") {
  const std::pair<optim::LossScalerOptions, const char*> rows[] = {
      {{.initial = 0}, "initial from the minimum"},
      {{.initial = 0x1p127}, "initial from the minimum"},
      {{.minimum = 0}, "minimum from 2^-126"},
      {{.initial = 1, .minimum = 2}, "initial from the minimum"},
      {{.growth = 1}, "growth > 1"},
      {{.backoff = 1}, "backoff between 0 and 1"},
      {{.growth_interval = 0}, "growth_interval ≥ 1"},
  };
  for (const auto& row : rows) {
    const auto& options = row.first;
    const auto& says = row.second;
    CHECK(contains(message_of([&] { optim::LossScaler{options}; }), says));
  }
  optim::LossScaler scaler;
  CHECK(contains(message_of([&] { scaler.set_state(-1, 0); }), "a finite factor > 0"));
}
