// Training on the device: every kernel there, whole steps as graphs, and the numbers of the CPU.
#include <doctest/doctest.h>

#include <string>
#include <thread>
#include <vector>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "on_double.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Tensor;

namespace {

constexpr int steps = 7;

struct Training {
  Numbers losses;
  Numbers weights;
  std::vector<std::string> replays;  ///< how each step ran
  std::vector<std::string> on_host;  ///< kernels of the last plan
};

/// A ResNet-8 with a new batch, learning rate and dropout pattern at every step.
Training train(DType precision) {
  ft::manual_seed(11);
  ft::nn::ResNet model = ft::nn::resnet_cifar({.depth = 8, .width = 8});
  ft::optim::SGD sgd(model.parameters(), {.lr = 0.05, .momentum = 0.9, .weight_decay = 5e-4});
  ft::optim::OneCycleLR schedule(sgd, {.max_lr = 0.05, .total_steps = steps});
  ft::data::DataLoader loader(ft::data::synthetic_images({.count = 4 * steps, .size = 8}),
                              {.batch = 4, .seed = 3});
  Training out;
  for (const auto& [images, labels] : loader) {
    Tensor loss;
    {
      const ft::Autocast cast(precision);
      loss = ft::cross_entropy(ft::dropout(model(images), 0.2), labels);
    }
    sgd.zero_grad();
    loss.backward();
    sgd.step();
    schedule.step();
    out.replays.push_back(ft::explain().replay);
    out.losses.push_back(loss.item());
  }
  for (const ft::GroupReport& group : ft::explain().groups) {
    if (group.kernel.rfind("host:", 0) == 0) out.on_host.push_back(group.name + ": " + group.why);
  }
  for (const ft::Parameter& parameter : model.parameters()) {
    for (const double weight : parameter.value().to_vector<double>()) out.weights.push_back(weight);
  }
  return out;
}

Training train_on_device(DType precision, bool graphs, bool fusion = true) {
  const OnDouble on_double;
  const Fusion fused(fusion);
  ft::clear_plan_cache();  // with its graphs
  ft::set_graph_capture(graphs);
  Training out = train(precision);
  ft::set_graph_capture(true);
  return out;
}

}  // namespace

TEST_CASE("a step runs on the device alone, from its fourth time on as one graph, as on the CPU") {
  for (const auto& [precision, tolerance] : {std::pair{DType::f32, 1e-4}, {DType::bf16, 0.08}}) {
    for (const bool fusion : {true, false}) {
      const Training expected = train(precision), got = train_on_device(precision, true, fusion);
      const std::string mode = std::string(name_of(precision)) + (fusion ? ", fused" : ", unfused");
      INFO(mode);
      CHECK(difference(got.losses, expected.losses) < tolerance);
      CHECK(difference(got.weights, expected.weights) < tolerance);
      CHECK_MESSAGE(got.on_host.empty(), (got.on_host.empty() ? "" : got.on_host.front()));
      for (int step = 3; step < steps; ++step) {
        const std::string& how = got.replays[static_cast<std::size_t>(step)];
        CHECK_MESSAGE(contains(how, "one graph of "), "step " << step << " ran " << how);
      }
    }
  }
}

TEST_CASE("a graph's numbers are those of its kernels one by one, to the bit") {
  const Training graphs = train_on_device(DType::f32, true), kernels = train_on_device(DType::f32, false);
  CHECK(graphs.losses == kernels.losses);
  CHECK(graphs.weights == kernels.weights);
  for (const std::string& how : kernels.replays) CHECK(contains(how, "one by one"));
}

TEST_CASE("a step that waits for the device is no graph, and says why") {
  const OnDouble on_double;
  for (int i = 0; i < 4; ++i) {
    const Tensor y = ft::full({3}, 2.0, DType::f64) * 2.0;  // f64 is the host's
    CHECK(y.to_vector<double>() == Numbers(3, 4.0));
    CHECK(contains(ft::explain().replay, "one by one: host:reference waits for the device"));
  }
}

TEST_CASE("where a capture fails, the kernels run one by one, and the report says why") {
  const Training expected = train_on_device(DType::f32, false);
  host_double().refuse_captures("no graph today");
  const Training got = train_on_device(DType::f32, true);
  host_double().refuse_captures("");
  CHECK(got.losses == expected.losses);
  CHECK(got.weights == expected.weights);
  CHECK(contains(got.replays.back(), "one by one: the capture failed: no graph today"));
}

TEST_CASE("two threads train on one device, each as it would alone") {
  const Training alone = train_on_device(DType::f32, true);
  std::vector<Training> together(2);
  std::vector<std::thread> threads;
  for (Training& one : together) threads.emplace_back([&one] { one = train_on_device(DType::f32, true); });
  for (std::thread& thread : threads) thread.join();
  for (const Training& one : together) {
    CHECK(one.losses == alone.losses);
    CHECK(one.weights == alone.weights);
  }
}

TEST_CASE(
    "a label that is no class costs nothing on a device: cells and update counts stay, the next step goes "
    "on") {
  const OnDouble on_double;
  struct Subject {
    ft::nn::ResNet model = ft::nn::resnet_cifar({.depth = 8, .width = 8});
    ft::optim::AdamW adam{model.parameters(), {.lr = 0.01, .max_grad_norm = 1}};
    Subject() { ft::manual_seed(1); }

    void step(int batch, double last_label = 3) {
      ft::set_generator_state({.seed = 9, .counter = static_cast<std::uint64_t>(batch) << 20});
      const Tensor labels =
          ft::cast(ft::from_vector(std::vector<double>{0, 1, 2, last_label}, {4}), DType::i64);
      adam.zero_grad();
      ft::cross_entropy(model(ft::randn({4, 8, 8, 3})), labels).backward();
      adam.step();
    }
    Numbers cells() const {
      Numbers all;
      const auto add = [&](const ft::Cell& cell) {
        for (const double x : cell.value().to_vector<double>()) all.push_back(x);
      };
      for (const auto& [name, parameter] : model.named_parameters()) add(parameter);
      for (const auto& [name, buffer] : model.named_buffers()) add(buffer);
      for (const auto& [name, cell] : adam.named_state()) add(cell);
      return all;
    }
  };
  for (const bool fusion : {true, false}) {
    CAPTURE(fusion);
    const Fusion fused(fusion);
    ft::manual_seed(4);
    Subject subject;
    ft::manual_seed(4);
    Subject good;
    for (int step = 0; step < 5; ++step) subject.step(step), good.step(step);
    // Found when a value is read: the runs queued behind the bad one are taken back with it.
    for (int queued = 0; queued < 2; ++queued) {
      subject.step(100, 17);
      if (queued == 1) subject.step(101);
      CHECK(contains(message_of([&] { ft::synchronize(); }), "got labels[3] = 17"));
      CHECK(subject.cells() == good.cells());
      CHECK(subject.adam.updates() == good.adam.updates());
    }
    // Found before the next run but one, which is not begun.
    subject.step(100, 17);
    subject.step(101);
    CHECK(contains(message_of([&] { subject.step(102); }), "got labels[3] = 17"));
    CHECK(subject.cells() == good.cells());
    CHECK(subject.adam.updates() == good.adam.updates());
    for (int step = 5; step < 8; ++step) subject.step(step), good.step(step);
    CHECK(subject.cells() == good.cells());
  }
}
