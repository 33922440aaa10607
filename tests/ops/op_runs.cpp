#include "tests/ops/op_runs.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <iterator>
#include <utility>

namespace ft = fusetape;
using ft::DType;
using ft::Tensor;

namespace fusetape::tests {
namespace {

std::uint64_t splitmix(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

/// 0 … 190 in an order of its own for each input.
std::vector<int> shuffled(std::size_t input) {
  std::vector<int> order(191);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::uint64_t state = input + 1;
  for (std::size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[splitmix(state) % (i + 1)]);
  return order;
}

constexpr double special_numbers[] = {0,     -0.0,  1,      -1, HUGE_VAL, -HUGE_VAL, NAN, 3e30,
                                      -3e30, 2e-30, -2e-30, 88, -88,      0.5,       17,  -104};

enum class Reading : std::uint8_t {
  after,
  never,
  before
};  // of the results: after backward, not at all, before backward
constexpr const char* reading_names[] = {"results live on", "results dropped",
                                         "results read before backward"};

void run_forward(const OpCase& op_case, DType dtype, CaseOutcome& outcome) {
  const Results results = ft::no_grad([&] { return op_case.call(data_for(op_case, dtype)); });
  ft::materialize();
  collect_groups(outcome);
  for (std::size_t i = 0; i < results.size(); ++i) outcome.add("result " + std::to_string(i), results[i]);
}

/// Gradients of every input, all in one slice of the tape unless the results are read before.
void run_backward(const OpCase& op_case, DType dtype, Reading reading, CaseOutcome& outcome) {
  Inputs inputs = data_for(op_case, dtype), variables;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!wants_gradient(op_case.inputs[i])) continue;
    inputs[i] = ft::variable(inputs[i]);
    variables.push_back(inputs[i]);
  }
  Results results = op_case.call(inputs);
  inputs.clear();
  if (reading == Reading::before) ft::materialize();
  Tensor loss = weighted_sum(results);
  if (reading == Reading::never) results.clear();
  const std::vector<Tensor> gradients = ft::grad({std::exchange(loss, {})}, variables);
  const std::string when = reading_names[static_cast<int>(reading)];
  ft::materialize();
  if (reading == Reading::never) collect_groups(outcome);
  for (std::size_t i = 0; i < gradients.size(); ++i)
    outcome.add("gradient " + std::to_string(i) + ", " + when, gradients[i]);
  for (std::size_t i = 0; i < results.size(); ++i)
    outcome.add("result " + std::to_string(i) + ", " + when, results[i]);
}

}  // namespace

std::vector<OpCase> all_cases() {
  std::vector<OpCase> cases;
  for (const auto family : {pointwise_cases, layer_cases, tensor_cases, array_cases, fused_cases, norm_cases,
                            conv_fused_cases, chain_cases, linear_cases, update_cases, retention_cases,
                            split_norm_cases, row_cases, extreme_cases}) {
    for (OpCase& op_case : family()) cases.push_back(std::move(op_case));
  }
  return cases;
}

Tensor data_for(const Input& input, std::size_t index, DType dtype) {
  const std::vector<int> order = shuffled(index);
  const double offset = static_cast<double>(index) / 512;  // so that two inputs share no number
  Numbers data(static_cast<std::size_t>(input.shape.elements()));
  for (std::size_t i = 0; i < data.size(); ++i) {
    const int n = order[i % order.size()];
    switch (input.kind) {
      case Kind::real:
        data[i] = (n - 95 + 0.5) / 64 + offset;
        break;
      case Kind::positive:
        data[i] = 0.25 + (n + 0.5) / 128 + offset;
        break;
      case Kind::eighths:
        data[i] = (n % 13 - 6) / 8.0;
        break;
      case Kind::integers:
        data[i] = n % 13 - 6;
        break;
      case Kind::special:
        data[i] = special_numbers[static_cast<std::size_t>(n) % std::size(special_numbers)];
        break;
      case Kind::labels:
      case Kind::bytes:
        data[i] = static_cast<double>(n % input.limit);
        break;
    }
  }
  const bool narrow = dtype == DType::bf16 || dtype == DType::f16;
  if (input.wide && narrow) dtype = DType::f32;
  if (input.kind == Kind::labels) dtype = DType::i64;
  if (input.kind == Kind::bytes) dtype = DType::u8;
  return ft::from_doubles(data, input.shape, dtype);
}

Inputs data_for(const OpCase& op_case, DType dtype) {
  Inputs data;
  for (const Input& input : op_case.inputs) data.push_back(data_for(input, data.size(), dtype));
  return data;
}

std::int64_t input_elements(const OpCase& op_case) {
  std::int64_t count = 0;
  for (const Input& input : op_case.inputs) count += input.shape.elements();
  return count;
}

/// Σ w·y over the results that are differentiable, with weights of both signs.
Tensor weighted_sum(const Results& results) {
  Tensor total;
  std::uint64_t state = 99;
  for (const Tensor& y : results) {
    if (!ft::is_floating(y.dtype()) || !y.requires_grad()) continue;
    Numbers weights(static_cast<std::size_t>(y.elements()));
    for (double& weight : weights) weight = static_cast<double>(splitmix(state) % 255) / 128 - 1;
    const Tensor part = ft::sum(y * ft::from_doubles(weights, y.shape(), y.dtype()));
    total = total.defined() ? total + part : part;
  }
  return total;
}

void collect_groups(CaseOutcome& outcome) {
  for (const ft::GroupReport& group : ft::explain().groups) {
    outcome.groups.insert(group.name);
    outcome.kernels[group.name].insert(group.kernel);
  }
}

CaseOutcome run(const OpCase& op_case, DType dtype, const Mode& mode) {
  const OnBackend backend(mode.backend);
  const Fusion fusion(mode.fusion);
  const Eager each(mode.eager);
  CaseOutcome outcome;
  run_forward(op_case, dtype, outcome);
  if (!op_case.flags.differentiable) return outcome;
  for (const Reading reading : {Reading::after, Reading::never, Reading::before})
    run_backward(op_case, dtype, reading, outcome);
  return outcome;
}

void run_together(const OpCase& op_case, DType dtype) {
  Inputs inputs = data_for(op_case, dtype), variables;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!wants_gradient(op_case.inputs[i]) || !op_case.flags.differentiable) continue;
    inputs[i] = ft::variable(inputs[i]);
    variables.push_back(inputs[i]);
  }
  const Results results = op_case.call(inputs);
  std::vector<Tensor> gradients;
  if (!variables.empty()) gradients = ft::grad({weighted_sum(results)}, variables);
  ft::materialize();
}

void compare(const OpCase& op_case, const std::string& what, const CaseOutcome& got,
             const CaseOutcome& expected, double tolerance) {
  REQUIRE(got.labels == expected.labels);
  for (std::size_t i = 0; i < got.numbers.size(); ++i) {
    const double apart = difference(got.numbers[i], expected.numbers[i]);
    if (!(apart <= tolerance))
      FAIL_CHECK(op_case.name << ": " << got.labels[i] << " of " << what << ": " << apart);
  }
}

void expect_no_error(const OpCase& op_case, const std::function<void()>& body) {
  try {
    body();
  } catch (const ft::Error& error) {
    FAIL_CHECK(op_case.name << ": " << std::string(error.what()));
  }
}

}  // namespace fusetape::tests
