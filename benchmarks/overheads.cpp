// What the framework itself costs beside the kernels, on the null backend, which runs none: recording an op,
// the way from step() to the first kernel when the plan is known, planning, and allocations in a steady step.
// JSON.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fusetape/fusetape.hpp>
#include <iostream>
#include <new>
#include <nlohmann/json.hpp>
#include <vector>

namespace ft = fusetape;
using nlohmann::json;

namespace {

long allocations = 0;

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* data = std::malloc(bytes != 0 ? bytes : 1)) return data;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, std::size_t) noexcept { std::free(data); }

namespace {

using Clock = std::chrono::steady_clock;

double microseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::micro>(to - from).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

/// Planner passes without the creation of kernels, which belongs to the libraries.
double planning_ms() {
  double ms = 0;
  for (const auto& [pass, spent] : ft::explain().pass_ms) {
    if (pass != "choose kernels") ms += spent;
  }
  return ms;
}

int recorded_ops() {
  int ops = 0;
  for (const ft::GroupReport& group : ft::explain().groups) ops += group.ops;
  return ops;
}

/// When the first kernel of a run began: an op that copies, and looks at the clock.
Clock::time_point first_kernel;
const ft::CustomOp& clock_op() {
  static const ft::CustomOp op({.name = "look_at_the_clock", .forward = [](ft::CustomForward& call) {
                                  first_kernel = Clock::now();
                                  std::ranges::copy(call.input<float>(0), call.output<float>(0).begin());
                                }});
  return op;
}

/// From step() to the first kernel, on the CPU backend with images as small as they can be: the ops are as
/// many.
double step_to_first_kernel_us(std::int64_t depth) {
  ft::set_backend("cpu");
  ft::nn::ResNet model = ft::nn::resnet_cifar({.depth = depth, .classes = 10});
  ft::optim::SGD sgd(model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 5e-4});
  const ft::Tensor images = ft::zeros({2, 4, 4, 3}), labels = ft::zeros({2}, ft::DType::i64);
  std::vector<double> spent;
  for (int i = 0; i < 100; ++i) {
    {
      const ft::Tensor loss = ft::cross_entropy(model(clock_op().one({images})), labels);
      sgd.zero_grad();
      loss.backward();
    }
    const Clock::time_point start = Clock::now();
    sgd.step();
    spent.push_back(microseconds(start, first_kernel));
  }
  ft::set_backend("null");
  return median(spent);
}

json training_step(std::int64_t depth) {
  ft::nn::ResNet model = ft::nn::resnet_cifar({.depth = depth, .classes = 10});
  ft::optim::SGD sgd(model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 5e-4});
  const ft::Tensor images = ft::zeros({128, 32, 32, 3}), labels = ft::zeros({128}, ft::DType::i64);
  std::vector<double> record, step;
  double planning = 0;
  long recording_allocations = 0, step_allocations = 0;
  constexpr int repeats = 200;
  for (int i = 0; i < repeats; ++i) {
    const long before = allocations;
    const Clock::time_point start = Clock::now();
    {
      const ft::Tensor loss = ft::cross_entropy(model(images), labels);
      sgd.zero_grad();
      loss.backward();
    }
    const long between = allocations;
    const Clock::time_point recorded = Clock::now();
    sgd.step();
    const Clock::time_point done = Clock::now();
    if (i == 0) planning = planning_ms();
    recording_allocations = between - before;
    step_allocations = allocations - between;
    record.push_back(microseconds(start, recorded));
    step.push_back(microseconds(recorded, done));
  }
  const int ops = recorded_ops(), updates = static_cast<int>(model.parameters().size());
  return {{"model", "resnet" + std::to_string(depth)},
          {"ops", ops},
          {"recording_us_per_op", median(record) / (ops - updates)},
          {"step_to_first_kernel_us", step_to_first_kernel_us(depth)},
          {"step_us", median(step)},
          {"planning_ms", planning},
          {"allocations_recording", recording_allocations},
          {"allocations_in_step", step_allocations}};
}

json pointwise_graph(int ops) {
  ft::Tensor x = ft::ones({64});
  for (int i = 0; i < ops; ++i) x = i % 2 == 0 ? ft::relu(x) : x + 0.5;
  ft::materialize({x});
  return {{"ops", ops}, {"planning_ms", planning_ms()}, {"kernels", ft::explain().kernels}};
}

}  // namespace

int main() {
  try {
    ft::set_backend("null");
    json report;
    for (const std::int64_t depth : {20, 56, 110}) report["training_steps"].push_back(training_step(depth));
    for (const int ops : {250, 500, 1000, 2000, 4000})
      report["pointwise_graphs"].push_back(pointwise_graph(ops));
    std::cout << report.dump(2) << '\n';
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
