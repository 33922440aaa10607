// Values, cells, liveness, effects, failure: the contracts of docs/design.md on the smallest programs that
// show them.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <thread>

#include "core/tape/tape.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using ft::Parameter;
using ft::Tensor;
using fusetape::tests::OnBackend;
using Floats = std::vector<float>;

namespace {

const char* const backends[] = {"reference", "cpu"};

/// A convolution, a batch norm and a classifier: its activations are much larger than its parameters.
struct SmallNet : ft::nn::Module {
  ft::nn::Conv2d conv{{.in = 3, .out = 8, .kernel = 3, .padding = 1, .bias = false}};
  ft::nn::BatchNorm2d bn{8};
  ft::nn::Linear fc{8, 4};
  SmallNet() {
    register_child("conv", conv);
    register_child("bn", bn);
    register_child("fc", fc);
  }
  Tensor forward(const Tensor& x) override { return fc(ft::global_avg_pool(ft::relu(bn(conv(x))))); }
};

Tensor some_images(int batch, float shift = 0) {
  Floats data(static_cast<std::size_t>(batch) * 12 * 12 * 3);
  for (std::size_t i = 0; i < data.size(); ++i)
    data[i] = static_cast<float>((i * 7919) % 97) / 48.5f - 1 + shift;
  return ft::from_vector(data, {batch, 12, 12, 3});
}

Tensor some_labels(int batch) {
  std::vector<std::int64_t> labels(static_cast<std::size_t>(batch));
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<std::int64_t>(i % 4);
  return ft::from_vector(labels, {batch});
}

std::size_t pending() { return ft::core::Tape::current().pending_nodes(); }

}  // namespace

TEST_CASE("nothing runs before a value is asked for, and then everything does") {
  for (const char* name : backends) {
    const OnBackend backend(name);
    const Tensor x = ft::from_vector({1, 2, 3}, {3});
    const Tensor y = x * 2.0, z = y + 1.0;
    CHECK(y.pending());
    CHECK(z.to_vector() == Floats{3, 5, 7});
    CHECK_FALSE(y.pending());
    CHECK(y.to_vector() == Floats{2, 4, 6});
  }
}

TEST_CASE("a cell's update binds a new version; what was recorded keeps the one that it read") {
  for (const char* name : backends) {
    const OnBackend backend(name);
    Parameter p(ft::from_vector({1, 2}, {2}));
    const Tensor before = p.value(), y = p * 10.0;
    p.set_data(ft::from_vector({5, 6}, {2}));
    const Tensor after = p * 10.0;
    CHECK(y.to_vector() == Floats{10, 20});
    CHECK(after.to_vector() == Floats{50, 60});
    CHECK(before.to_vector() == Floats{1, 2});
  }
}

TEST_CASE("an update in place spares a version that somebody still holds") {
  for (const char* name : backends) {
    const OnBackend backend(name);
    for (const bool hold : {false, true}) {
      Parameter p(ft::from_vector({1, 2}, {2}));
      ft::optim::SGD sgd({p}, {.lr = 0.5});
      Tensor held;
      if (hold) held = p.value();
      ft::sum(p * p).backward();
      const Tensor late_reader = p + 100.0;  // of the old version, run after or before the update
      sgd.step();
      CHECK(p.value().to_vector() == Floats{0, 0});
      CHECK(late_reader.to_vector() == Floats{101, 102});
      if (hold) CHECK(held.to_vector() == Floats{1, 2});
    }
  }
}

TEST_CASE("a value can be read before backward(): the saves stay") {
  for (const char* name : backends) {
    const OnBackend backend(name);
    Parameter p(ft::from_vector({3, -4}, {2}));
    const Tensor loss = ft::sum(ft::relu(p * p * p));
    CHECK(loss.item() == 27);
    loss.backward();
    CHECK(p.grad().to_vector() == Floats{27, 0});
  }
}

TEST_CASE("gradients add up until they are zeroed; the graph is released unless retained") {
  const OnBackend backend("cpu");
  Parameter p(ft::from_vector({2}, {1}));
  const Tensor loss = ft::sum(p * p);
  loss.backward({.retain_graph = true});
  CHECK(p.grad().to_vector() == Floats{4});
  loss.backward();
  CHECK(p.grad().to_vector() == Floats{8});
  CHECK_THROWS_WITH_AS(loss.backward(), doctest::Contains("released"), ft::Error);
  p.zero_grad();
  CHECK_FALSE(p.grad().defined());
  ft::sum(p * 3.0).backward();
  CHECK(p.grad().to_vector() == Floats{3});
}

TEST_CASE("losses that share a trunk, weights used twice") {
  const OnBackend backend("cpu");
  Parameter p(ft::from_vector({2}, {1})), q(ft::from_vector({3}, {1}));
  const Tensor trunk = p * q;
  const Tensor first = ft::sum(trunk * p), second = ft::sum(trunk);  // p²q, pq
  first.backward({.retain_graph = true});
  second.backward();
  CHECK(p.grad().to_vector() == Floats{2 * 2 * 3 + 3});
  CHECK(q.grad().to_vector() == Floats{4 + 2});
}

TEST_CASE("grad() of intermediate values, detach, no_grad, variable") {
  const OnBackend backend("cpu");
  Parameter p(ft::from_vector({2}, {1}));
  const Tensor middle = p * p, y = ft::sum(middle * middle);
  const std::vector<Tensor> both = ft::grad({y}, {middle, p.value(), middle});  // p's goes through middle
  CHECK(both[0].to_vector() == Floats{8});
  CHECK(both[1].to_vector() == Floats{32});
  CHECK(both[2].to_vector() == Floats{8});

  const Tensor early = p * p, late = ft::sum(early * 3.0);
  ft::sum(early).backward();  // releases what made `early`; nothing flows there
  CHECK(ft::grad({late}, {early})[0].to_vector() == Floats{3});
  p.zero_grad();
  CHECK_FALSE(p.grad().defined());

  const Tensor cut = ft::sum((p * p).detach() * p);
  cut.backward();
  CHECK(p.grad().to_vector() == Floats{4});
  const Tensor untracked = ft::no_grad([&] { return ft::sum(p * p); });
  CHECK_FALSE(untracked.requires_grad());
  CHECK_THROWS_WITH_AS(untracked.backward(), doctest::Contains("no_grad"), ft::Error);
  CHECK(ft::grad_enabled());

  const Tensor v = ft::variable(ft::from_vector({5}, {1}));
  CHECK(ft::grad({ft::sum(v * v * v)}, {v})[0].to_vector() == Floats{75});
}

TEST_CASE("gradients of gradients") {
  const OnBackend backend("reference");
  const Tensor x = ft::variable(ft::from_vector({2}, {1}));
  const Tensor first = ft::grad({ft::sum(x * x * x)}, {x}, {}, {.create_graph = true})[0];
  const Tensor second = ft::grad({ft::sum(first)}, {x}, {}, {.create_graph = true})[0];
  const Tensor third = ft::grad({ft::sum(second)}, {x})[0];
  CHECK(first.to_vector() == Floats{12});
  CHECK(second.to_vector() == Floats{12});
  CHECK(third.to_vector() == Floats{6});
}

TEST_CASE("running statistics change in program order, and are never dead") {
  for (const char* name : backends) {
    const OnBackend backend(name);
    ft::nn::BatchNorm2d bn{1};
    const Tensor low = ft::from_vector({0, 2}, {2, 1, 1, 1}), high = ft::from_vector({10, 30}, {2, 1, 1, 1});
    bn(low), bn(high);  // results unused; the effects are not
    std::vector<float> mean, variance;
    for (const auto& [key, buffer] : bn.named_buffers()) {
      (key == "running_mean" ? mean : variance) = buffer.value().to_vector();
    }
    CHECK(mean[0] == doctest::Approx(0.9 * (0.1 * 1) + 0.1 * 20));
    CHECK(variance[0] == doctest::Approx(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 200));
  }
}

TEST_CASE("1,000 steps that never read a value: constant memory, one plan") {
  const OnBackend backend("cpu");
  SmallNet net;
  ft::optim::SGD sgd(net.parameters(), {.lr = 0.01, .momentum = 0.9});
  const Tensor images = some_images(2), labels = some_labels(2);
  const auto plans_before = ft::plan_cache_stats();
  ft::MemoryStats settled{};
  for (int step = 0; step < 1000; ++step) {
    sgd.set_learning_rate(0.01 / (1 + step));  // a run-time input: no new plan
    sgd.zero_grad();
    ft::cross_entropy(net(images), labels).backward();
    sgd.step();
    if (step == 2) settled = ft::memory_stats();
  }
  const ft::MemoryStats end = ft::memory_stats();
  CHECK(end.pool_bytes == settled.pool_bytes);
  CHECK(end.cached_bytes == settled.cached_bytes);
  CHECK(end.system_allocations == settled.system_allocations);
  CHECK(ft::plan_cache_stats().misses == plans_before.misses + 1);
  CHECK(ft::plan_cache_stats().hits == plans_before.hits + 999);
}

TEST_CASE("four micro-batches before a step peak like one") {
  const OnBackend backend("cpu");
  const auto peak = [](int micro_batches) {
    SmallNet net;
    ft::optim::SGD sgd(net.parameters(), {.lr = 0.01});
    for (int i = 0; i < micro_batches; ++i) {
      ft::cross_entropy(net(some_images(16, static_cast<float>(i))), some_labels(16)).backward();
    }
    sgd.step();
    return static_cast<double>(ft::explain().peak_bytes);
  };
  CHECK(peak(4) <= 1.1 * peak(1));
}

TEST_CASE("scalars, options and counters are no part of a plan's key; shapes are") {
  const OnBackend backend("cpu");
  const Tensor x = some_images(2), small = some_images(1);
  ft::sum(ft::dropout(x * 0.5, 0.25)).item();
  const auto before = ft::plan_cache_stats();
  ft::sum(ft::dropout(x * 0.75, 0.5)).item();
  CHECK(ft::plan_cache_stats().hits == before.hits + 1);
  CHECK(ft::plan_cache_stats().misses == before.misses);
  ft::sum(ft::dropout(small * 0.75, 0.25)).item();
  CHECK(ft::plan_cache_stats().misses == before.misses + 1);
}

TEST_CASE("NaN goes through fused groups as through single ops") {
  const OnBackend backend("cpu");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto run = [&](bool fusion) {
    const fusetape::tests::Fusion mode(fusion);
    Floats data = some_images(1).to_vector();
    data[5] = nan;
    const Tensor x = ft::variable(ft::from_vector(data, {1, 12, 12, 3}));
    const Tensor w = ft::variable(ft::full({4, 3, 3, 3}, 0.1)), b = ft::variable(ft::zeros({4}));
    const Tensor y = ft::relu(ft::conv2d(x, w, b, {.padding = {1, 1}}));
    const Tensor gamma = ft::variable(ft::ones({3})), beta = ft::variable(ft::zeros({3}));
    const Tensor z = ft::relu(ft::batch_norm(x, gamma, beta) + x);
    std::vector<Tensor> all = ft::grad({ft::sum(y) + ft::sum(z)}, {x, w, b, gamma, beta});
    all.push_back(y), all.push_back(z);
    std::vector<std::vector<bool>> where_nan;
    for (const Tensor& value : all) {
      std::vector<bool> nans;
      for (float element : value.to_vector()) nans.push_back(std::isnan(element));
      where_nan.push_back(nans);
    }
    return where_nan;
  };
  const auto unfused = run(false);
  CHECK(run(true) == unfused);
  const auto& y_nans = unfused[5];
  CHECK(std::count(y_nans.begin(), y_nans.end(), true) ==
        2 * 3 * 4);  // the 3×3 neighbourhood of a pixel in row 0
}

TEST_CASE("eager mode runs each op at its call and gives the same") {
  const OnBackend backend("cpu");
  const auto run = [](bool eager) {
    const fusetape::tests::Eager mode(eager);
    ft::manual_seed(3);
    SmallNet net;
    ft::optim::SGD sgd(net.parameters(), {.lr = 0.1, .momentum = 0.9});
    Floats losses;
    for (int step = 0; step < 3; ++step) {
      const Tensor loss = ft::cross_entropy(net(some_images(4)), some_labels(4));
      if (eager) CHECK(pending() == 0);
      sgd.zero_grad();
      loss.backward();
      sgd.step();
      losses.push_back(static_cast<float>(loss.item()));
    }
    return losses;
  };
  const Floats lazy = run(false), eager = run(true);
  for (std::size_t i = 0; i < lazy.size(); ++i) CHECK(eager[i] == doctest::Approx(lazy[i]).epsilon(1e-5));
}

TEST_CASE("a failed recording leaves the tape as it was") {
  const OnBackend backend("cpu");
  const Tensor x = ft::ones({2, 3}), y = x + 1.0;
  const std::size_t before = pending();
  CHECK_THROWS_AS(ft::matmul(y, y), ft::Error);
  CHECK(pending() == before);
  CHECK(y.to_vector() == Floats(6, 2));
}

TEST_CASE("a run that fails poisons what it would have written, and says so") {
  for (const char* name : backends) {
    const OnBackend backend(name);
    const Tensor labels =
        ft::cast(ft::from_vector({1, 9}, {2}), ft::DType::i64);  // pending: only the run can see the 9
    const Tensor loss = ft::cross_entropy(ft::zeros({2, 4}), labels), other = ft::ones({1}) * 2.0;
    CHECK_THROWS_WITH_AS(loss.item(), doctest::Contains("cross_entropy"), ft::Error);
    CHECK_THROWS_WITH_AS(loss.item(), doctest::Contains("lost"), ft::Error);
    CHECK_THROWS_WITH_AS(other + 1.0, doctest::Contains("lost"), ft::Error);
    CHECK((ft::ones({1}) * 3.0).item() == 3);  // the tape goes on
  }
}

TEST_CASE("a run for which there is no memory is dropped, and the tape goes on") {
  const OnBackend backend("cpu");
  const Tensor x = ft::ones({2}) * 2.0;
  // 4 TiB: the slice is cut at once, and cannot be allocated.
  CHECK_THROWS_WITH_AS(ft::broadcast_to(ft::ones({1}), {1 << 20, 1 << 20}),
                       doctest::Contains("tape_test.cpp"), ft::Error);
  CHECK_THROWS_WITH_AS(x.to_vector(), doctest::Contains("lost"), ft::Error);
  CHECK((ft::ones({2}) * 2.0).to_vector() == Floats{2, 2});
}

TEST_CASE("a long chain is freed without recursion") {
  const OnBackend backend("reference");
  Parameter p(ft::ones({1}));
  Tensor x = p.value();
  for (int i = 0; i < 40'000; ++i) x = x + 1.0;
  CHECK(x.item() == 40'001);
  x = Tensor();
}

TEST_CASE("threads: materialised tensors may be handed over and shared, pending ones not") {
  const OnBackend backend("cpu");
  const Tensor ready = ft::ones({4}), pending_here = ready * 2.0;
  std::string message;
  double sum = 0;
  std::thread other([&] {
    sum = ft::sum(ready * 3.0).item();
    try {
      pending_here + 1.0;
    } catch (const ft::Error& error) {
      message = error.what();
    }
  });
  other.join();
  CHECK(sum == 12);
  CHECK(message.find("another thread") != std::string::npos);
  CHECK(message.find("tape_test.cpp") != std::string::npos);
  CHECK(pending_here.to_vector() == Floats(4, 2));

  Tensor made_there;
  std::thread maker([&] {
    made_there = ft::ones({3}) * 5.0;
    ft::materialize({made_there});
  });
  maker.join();
  CHECK((made_there + 1.0).to_vector() == Floats(3, 6));
}

TEST_CASE("threads: what a thread left pending is lost with it, also for a later thread") {
  const OnBackend backend("cpu");
  const auto record_and_end = [](Tensor& orphan) {
    std::thread([&] { orphan = ft::sum(ft::variable(ft::ones({3})) * 5.0); }).join();
  };
  Tensor orphan;
  record_and_end(orphan);
  CHECK_THROWS_WITH_AS(orphan.item(), doctest::Contains("ended"), ft::Error);
  CHECK_THROWS_WITH_AS(orphan.backward(), doctest::Contains("ended"), ft::Error);
  std::string message;
  std::thread later([&] {  // its tape may well lie where the first one's was
    try {
      orphan + 1.0;
    } catch (const ft::Error& error) {
      message = error.what();
    }
  });
  later.join();
  CHECK(message.find("lost") != std::string::npos);
}

TEST_CASE("threads: backward() over another's pending graph is refused and leaves it alone") {
  const OnBackend backend("cpu");
  Parameter p(ft::ones({2}));
  const Tensor loss = ft::sum(p + 1.0);  // its gradient reads nothing pending
  std::string message;
  std::thread other([&] {
    try {
      loss.backward();
    } catch (const ft::Error& error) {
      message = error.what();
    }
  });
  other.join();
  CHECK(message.find("another thread") != std::string::npos);
  CHECK_FALSE(p.grad().defined());
  loss.backward();
  CHECK(p.grad().to_vector() == Floats{1, 1});
}

TEST_CASE("threads: two may run readers of the same values at the same time") {
  std::vector<Tensor> shared;
  for (int i = 0; i < 32; ++i) shared.push_back(ft::full({8}, i));
  const auto count_wrong = [&](int stride, int terms, int& wrong) {
    const OnBackend backend("cpu");
    ft::set_threads(1);
    for (int round = 0; round < 2000; ++round) {
      Tensor sum = ft::zeros({8});
      float expected = 0;
      for (int i = 0; i < terms; ++i) {
        sum = sum + shared[static_cast<std::size_t>(i * stride % 32)];
        expected += static_cast<float>(i * stride % 32);
      }
      if (sum.to_vector() != Floats(8, expected)) ++wrong;
    }
  };
  int wrong_there = 0, wrong_here = 0;
  std::thread other([&] { count_wrong(3, 30, wrong_there); });
  std::thread another([&] { count_wrong(5, 17, wrong_here); });
  other.join(), another.join();
  CHECK(wrong_there + wrong_here == 0);
}

TEST_CASE("a value between loss and leaves may be freed while its graph is released") {
  const OnBackend backend("cpu");
  Parameter p(ft::ones({2})), q(ft::ones({2}));
  const Tensor loss = ft::sum(((p + q) + 2.0).reshape({2, 1}) + 3.0);  // no gradient reads any of these
  CHECK(loss.item() == 14);
  p.set_data(ft::zeros({2})), q.set_data(ft::zeros({2}));  // only the graph names the old versions now
  loss.backward();
  CHECK(p.grad().to_vector() == Floats{1, 1});
  CHECK(q.grad().to_vector() == Floats{1, 1});
}

TEST_CASE("shapes whose elements cannot be counted are refused") {
  const OnBackend backend("cpu");
  const std::int64_t huge = std::int64_t{1} << 32;
  CHECK_THROWS_AS(ft::full({huge, huge}, 1), ft::Error);
  CHECK_THROWS_AS(ft::from_vector(Floats{}, {huge, huge}), ft::Error);
  CHECK_THROWS_AS(ft::broadcast_to(ft::ones({1}), {huge, huge}), ft::Error);
  CHECK_THROWS_AS(ft::rand({huge, huge}), ft::Error);
  CHECK_THROWS_AS(ft::randn({-3}), ft::Error);
  CHECK_THROWS_AS(ft::arange(std::int64_t{1} << 61), ft::Error);
  CHECK(pending() == 0);
}

TEST_CASE("an arena that grows leaves no smaller ones behind") {
  const OnBackend backend("cpu");
  const ft::MemoryStats before = ft::memory_stats();
  for (std::int64_t rows = 1; rows <= 24; ++rows) {
    const Tensor x = ft::ones({rows, 1 << 18});
    ft::sum(ft::exp(ft::transpose(x, {1, 0}))).item();
  }
  const ft::MemoryStats after = ft::memory_stats();
  // The x of each size wait for reuse, the arenas do not.
  CHECK(after.cached_bytes - before.cached_bytes < 16 * after.arena_bytes);
}
