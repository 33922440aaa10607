// Reductions, softmax, cross entropy, random numbers, movement and optimizers on the CUDA backend: that they
// run on the device, whatever the order of its blocks and threads, and what they say of wrong labels.
#include <doctest/doctest.h>

#include "backends/cuda/cuda_backend.hpp"
#include "core/backends.hpp"
#include "core/tape/tape.hpp"
#include "on_double.hpp"
#include "ops/optimizer.hpp"
#include "tests/ops/op_runs.hpp"

namespace ft = fusetape;
namespace nn = fusetape::nn;
namespace optim = fusetape::optim;
using namespace fusetape::tests;
using ft::DType;
using ft::Tensor;

namespace {

constexpr Mode device{"cuda, fused", "cuda double", true, false};
constexpr Mode other_order{"cuda, fused, in another order", "cuda double, another order", true, false};

void add_other_order() {
  host_double();
  static const bool added = [] {
    ft::core::add_backend(
        ft::backends::make_device_backend(std::make_shared<HostDouble>(2), other_order.backend));
    return true;
  }();
  CHECK(added);
}

std::vector<OpCase> cases_of_these() {
  std::vector<OpCase> cases = tensor_cases();
  for (OpCase& op_case : update_cases()) cases.push_back(std::move(op_case));
  return cases;
}

constexpr const char* device_ops[] = {"sum",
                                      "mean",
                                      "max",
                                      "argmax",
                                      "max_grad",
                                      "softmax",
                                      "softmax_grad",
                                      "log_softmax",
                                      "log_softmax_grad",
                                      "cross_entropy",
                                      "cross_entropy_grad",
                                      "rand",
                                      "randn",
                                      "dropout",
                                      "transpose",
                                      "concat",
                                      "slice",
                                      "slice_grad",
                                      "pad",
                                      "sgd_update",
                                      "adam_update",
                                      "rmsprop_update",
                                      "clip+sgd_update",
                                      "clip+adam_update",
                                      "clip+rmsprop_update",
                                      "grad_norm"};

/// Notes which of these ops the last plan has, and fails where the host runs one that is not of f64.
void note_device_ops(const std::string& name, std::set<std::string>& seen) {
  for (const ft::GroupReport& group : ft::explain().groups) {
    if (std::find(std::begin(device_ops), std::end(device_ops), group.name) == std::end(device_ops)) continue;
    if (contains(group.why, "f64")) continue;
    seen.insert(group.name);
    if (group.kernel.rfind("host:", 0) == 0)
      FAIL_CHECK(name << ": " << group.name << " by " << group.kernel << ", " << group.why);
  }
}

/// One step's scalars, gradients and parameters of a small net.
Numbers trained(const char* backend,
                const std::function<std::unique_ptr<optim::Optimizer>(const nn::Module&)>& make) {
  const OnBackend on(backend);
  ft::manual_seed(3);
  nn::Sequential net;
  net.emplace<nn::Linear>(6, 8);
  net.emplace<nn::GELU>();
  net.emplace<nn::Linear>(8, 3);
  const std::unique_ptr<optim::Optimizer> optimizer = make(net);
  Numbers numbers;
  for (int step = 0; step < 5; ++step) {
    const Tensor x = ft::dropout(ft::randn({5, 6}), 0.2);
    const Tensor loss = ft::cross_entropy(net(x), ft::from_vector<std::int64_t>({0, 1, 2, 1, 0}, {5}),
                                          {.label_smoothing = 0.1});
    optimizer->zero_grad();
    loss.backward();
    optimizer->step();
    numbers.push_back(loss.item());
    if (optimizer->last_grad_norm().defined()) numbers.push_back(optimizer->last_grad_norm().item());
  }
  for (const ft::Parameter& p : net.parameters()) {
    for (const double x : p.value().to_vector<double>()) numbers.push_back(x);
  }
  return numbers;
}

std::vector<Tensor> gradients_of(const std::vector<ft::Parameter>& parameters) {
  std::vector<Tensor> gradients;
  for (const ft::Parameter& p : parameters) gradients.push_back(p.grad());
  return gradients;
}

}  // namespace

TEST_CASE("cuda on a host double: these ops run on the device in f32, bf16 and f16") {
  const OnDouble on;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    std::set<std::string> seen;
    for (const OpCase& op_case : cases_of_these()) {
      const bool update = contains(op_case.name, "sgd") || contains(op_case.name, "adam") ||
                          contains(op_case.name, "rmsprop");
      if (input_elements(op_case) > 3000 && !update) continue;
      if (op_case.flags.wide_only && dtype != DType::f32) continue;
      expect_no_error(op_case, [&] {
        Inputs inputs = data_for(op_case, dtype), variables;
        for (std::size_t i = 0; i < inputs.size(); ++i) {
          if (!op_case.flags.differentiable || !wants_gradient(op_case.inputs[i])) continue;
          inputs[i] = ft::variable(inputs[i]);
          variables.push_back(inputs[i]);
        }
        const Results results = op_case.call(inputs);
        const Tensor loss = op_case.flags.differentiable ? weighted_sum(results) : Tensor();
        const Inputs gradients = loss.defined() ? ft::grad(Inputs{loss}, variables) : Inputs{};
        ft::materialize();
        note_device_ops(op_case.name, seen);
      });
    }
    for (const char* op : device_ops) {
      if (seen.count(op) == 0)
        FAIL_CHECK(std::string(op) << " in " << std::string(name_of(dtype)) << " was not seen");
    }
  }
}

TEST_CASE(
    "cuda on a host double: large tensors agree with the reference, and the order of threads changes no "
    "bit") {
  add_other_order();
  for (const OpCase& op_case : cases_of_these()) {
    const bool large = input_elements(op_case) > 3000;
    const bool of_these = !contains(op_case.name, "conv") && !contains(op_case.name, "pool") &&
                          !contains(op_case.name, "matmul") && !contains(op_case.name, "norm");
    if (!of_these) continue;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      if (dtype == DType::bf16 && (large || op_case.flags.wide_only)) continue;
      expect_no_error(op_case, [&] {
        const CaseOutcome first = run(op_case, dtype, device);
        compare(op_case, other_order.name, run(op_case, dtype, other_order), first, 0);
        if (large) compare(op_case, device.name, first, run(op_case, dtype, oracle), 1e-5);
      });
    }
  }
}

TEST_CASE("cuda on a host double: rand and dropout are the CPU's to the bit") {
  const auto draw = [](const char* backend, DType dtype) {
    const OnBackend on(backend);
    ft::manual_seed(11);
    Numbers numbers;
    for (const std::int64_t count : {1, 7, 8, 1003}) {  // the counter is at every place of a Philox block
      const Tensor x = ft::rand({count}, dtype), y = ft::dropout(x + 1.0, 0.3);
      for (const Tensor& part : {x, y}) {
        for (const double value : part.to_vector<double>()) numbers.push_back(value);
      }
    }
    return numbers;
  };
  host_double();
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    CHECK(draw("cuda double", dtype) == draw("cpu", dtype));
}

TEST_CASE("cuda on a host double: training with clipped SGD and with AdamW agrees with the CPU") {
  host_double();
  const auto sgd = [](const nn::Module& net) {
    return std::make_unique<optim::SGD>(
        net.parameters(),
        optim::SGDOptions{.lr = 0.1, .momentum = 0.9, .weight_decay = 1e-3, .max_grad_norm = 0.5});
  };
  const auto adam = [](const nn::Module& net) {
    return std::make_unique<optim::AdamW>(net.parameters(),
                                          optim::AdamWOptions{.lr = 0.05, .max_grad_norm = 0.5});
  };
  CHECK(difference(trained("cuda double", sgd), trained("cpu", sgd)) <= 1e-5);
  CHECK(difference(trained("cuda double", adam), trained("cpu", adam)) <= 1e-5);
}

TEST_CASE("cuda on a host double: more parameters than one launch has room for") {
  const auto updated = [](const char* backend, bool adam, bool mixed) {
    const OnBackend on(backend);
    std::vector<ft::Parameter> parameters;
    for (std::int64_t i = 0; i < 301; ++i) {
      const DType dtype = !mixed || i % 3 == 0 ? DType::f32 : i % 3 == 1 ? DType::bf16 : DType::f16;
      parameters.emplace_back(ft::full({i % 9}, 1 + 0.01 * static_cast<double>(i), dtype));
      parameters.back().set_grad(ft::full({i % 9}, 0.5 - 0.003 * static_cast<double>(i), dtype));
    }
    const double most = mixed ? 0 : 1;  // unclipped, different dtypes share a kernel
    std::unique_ptr<optim::Optimizer> optimizer;
    if (adam)
      optimizer = std::make_unique<optim::Adam>(parameters, optim::AdamOptions{.max_grad_norm = most});
    if (!adam) optimizer = std::make_unique<optim::SGD>(parameters, optim::SGDOptions{.max_grad_norm = most});
    const Tensor norm = ft::ops::grad_norm(gradients_of(parameters), ft::Location::current());
    optimizer->step();
    Numbers numbers{norm.item()};
    for (const ft::Parameter& p : parameters) {
      for (const double x : p.value().to_vector<double>()) numbers.push_back(x);
    }
    return numbers;
  };
  host_double();
  for (const bool adam : {false, true}) {
    for (const bool mixed : {false, true}) {
      const Numbers expected = updated("cpu", adam, mixed);
      CHECK(expected.size() > 1000);
      CHECK(difference(updated("cuda double", adam, mixed), expected) <= (mixed ? 1e-2 : 1e-6));
    }
  }
}

TEST_CASE("cuda on a host double: a label that is no class is an Error, forward, backward and in a graph") {
  const OnDouble on;
  // Not known before they are used: checked by the kernel.
  const auto labels = [](const Numbers& numbers, DType dtype) {
    return ft::concat({ft::from_doubles(numbers, {3}, dtype), ft::zeros({1}, dtype)}, 0);
  };
  const std::string what = "[cross_entropy] expected labels in [0, 4), got labels[1] = ";
  for (const DType dtype : {DType::i64, DType::u8}) {
    const auto loss_of = [&](const Numbers& numbers) {
      return ft::cross_entropy(ft::ones({4, 4}), labels(numbers, dtype)).item();
    };
    const std::string wrong = message_of([&] { loss_of({0, 4, 1}); });
    CHECK(contains(wrong, what + "4"));
    CHECK(contains(wrong, "cuda_reduce_test.cpp"));
    for (int run = 0; run < 4; ++run) CHECK(loss_of({0, 3, 1}) == doctest::Approx(std::log(4.0)));
    CHECK(contains(ft::explain().replay, "one graph"));
    CHECK(contains(message_of([&] { loss_of({0, 6, 1}); }), what + "6"));
    CHECK(loss_of({0, 3, 1}) == doctest::Approx(std::log(4.0)));
    const std::string backward = message_of([&] {
      Tensor x = ft::variable(ft::ones({4, 4}));
      ft::grad(Inputs{ft::cross_entropy(x, labels({0, 4, 1}, dtype))}, Inputs{x})[0].to_vector();
    });
    CHECK(contains(backward, "expected labels in [0, 4), got labels[1] = 4"));
  }
}

TEST_CASE("cuda: bytes and i64 are moved, padded and searched as on the CPU") {
  const auto results = [](DType dtype) {
    Numbers data(33 * 35);
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<double>(i * 7 % 101);
    const Tensor x = ft::from_doubles(data, {33, 35}, dtype);
    std::vector<Numbers> out;
    for (const Tensor& y : {ft::transpose(x), ft::pad(x, {{1, 2}, {0, 3}}, 5), ft::argmax(x, 0)}) {
      out.push_back(y.to_vector<double>());
    }
    return out;
  };
  for (const DType dtype : {DType::u8, DType::i64}) {
    const std::vector<Numbers> expected = results(dtype);
    const OnDouble on_double;
    CHECK(results(dtype) == expected);
  }
  const auto ran = host_double().kernels_run();
  for (const char* name :
       {"transpose_tiles<1>", "transpose_tiles<8>", "embed<1>", "embed<8>", "largest<u8>"}) {
    CHECK_MESSAGE(ran.count(name) == 1, name);
  }
}
