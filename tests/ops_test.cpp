// Every public op and every fusible composition of op_cases.hpp: backends, fusion, eager mode and dtypes
// against the reference; gradients against finite differences, once and twice.
#include <doctest/doctest.h>

#include <cmath>
#include <iterator>
#include <set>

#include "compare.hpp"
#include "core/op.hpp"
#include "helpers.hpp"
#include "op_cases.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Tensor;

namespace {

std::vector<OpCase> all_cases() {
  std::vector<OpCase> cases;
  for (const auto family :
       {pointwise_cases, layer_cases, tensor_cases, fused_cases, conv_fused_cases, chain_cases, linear_cases,
        update_cases, retention_cases, split_norm_cases, extreme_cases}) {
    for (OpCase& op_case : family()) cases.push_back(std::move(op_case));
  }
  return cases;
}

// ---- data ----

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

bool wants_gradient(const Input& input) { return !input.constant; }

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

// ---- running a case ----

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

struct Mode {
  const char* name;
  const char* backend;
  bool fusion, eager;
};
constexpr Mode oracle{"reference, unfused", "reference", false, false};
constexpr Mode unfused{"cpu, unfused", "cpu", false, false};
constexpr Mode fused{"cpu, fused", "cpu", true, false};
constexpr Mode eager{"cpu, eager", "cpu", true, true};
constexpr Mode fused_oracle{"reference, fused", "reference", true, false};

enum class Reading : std::uint8_t {
  after,
  never,
  before
};  // of the results: after backward, not at all, before backward
constexpr const char* reading_names[] = {"results live on", "results dropped",
                                         "results read before backward"};

struct Outcome {
  std::vector<Numbers> numbers;
  std::vector<std::string> labels;  ///< of each
  std::set<std::string> groups;     ///< of the runs where no handle keeps a value from being fused away

  void add(const std::string& label, const Tensor& tensor) {
    labels.push_back(label);
    numbers.push_back(tensor.to_vector<double>());
  }
};

void collect_groups(Outcome& outcome) {
  for (const ft::GroupReport& group : ft::explain().groups) outcome.groups.insert(group.name);
}

void run_forward(const OpCase& op_case, DType dtype, Outcome& outcome) {
  const Results results = ft::no_grad([&] { return op_case.call(data_for(op_case, dtype)); });
  ft::materialize();
  collect_groups(outcome);
  for (std::size_t i = 0; i < results.size(); ++i) outcome.add("result " + std::to_string(i), results[i]);
}

/// Gradients of every input, all in one slice of the tape unless the results are read before.
void run_backward(const OpCase& op_case, DType dtype, Reading reading, Outcome& outcome) {
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

Outcome run(const OpCase& op_case, DType dtype, const Mode& mode) {
  const OnBackend backend(mode.backend);
  const Fusion fusion(mode.fusion);
  const Eager each(mode.eager);
  Outcome outcome;
  run_forward(op_case, dtype, outcome);
  if (!op_case.flags.differentiable) return outcome;
  for (const Reading reading : {Reading::after, Reading::never, Reading::before})
    run_backward(op_case, dtype, reading, outcome);
  return outcome;
}

void compare(const OpCase& op_case, const std::string& what, const Outcome& got, const Outcome& expected,
             double tolerance) {
  REQUIRE(got.labels == expected.labels);
  for (std::size_t i = 0; i < got.numbers.size(); ++i) {
    const double apart = difference(got.numbers[i], expected.numbers[i]);
    if (!(apart <= tolerance))
      FAIL_CHECK(op_case.name << ": " << got.labels[i] << " of " << what << ": " << apart);
  }
}

// ---- finite differences ----

/// The case as a function of its differentiable inputs alone, in f64; its results as one vector.
std::function<Tensor(const Inputs&)> as_function(const OpCase& op_case) {
  return [&op_case](const Inputs& variables) {
    Inputs inputs = data_for(op_case, DType::f64);
    std::size_t next = 0;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (wants_gradient(op_case.inputs[i])) inputs[i] = variables[next++];
    }
    std::vector<Tensor> flat;
    for (const Tensor& y : op_case.call(inputs)) {
      if (y.requires_grad()) flat.push_back(y.reshape({y.elements()}));
    }
    return ft::concat(flat, 0);
  };
}

Inputs differentiable_inputs(const OpCase& op_case) {
  Inputs inputs;
  for (std::size_t i = 0; i < op_case.inputs.size(); ++i) {
    if (wants_gradient(op_case.inputs[i])) inputs.push_back(data_for(op_case.inputs[i], i, DType::f64));
  }
  return inputs;
}

/// The gradients of a weighted sum of squares, themselves differentiable, as one vector. (Squares: so that
/// the gradient of a linear op depends on its input, too.)
Tensor gradients_of(const OpCase& op_case, const Inputs& variables) {
  const Tensor y = as_function(op_case)(variables), loss = weighted_sum({y * y});
  std::vector<Tensor> flat;
  for (const Tensor& gradient : ft::grad({loss}, variables, {}, {.create_graph = true})) {
    flat.push_back(gradient.reshape({gradient.elements()}));
  }
  return ft::concat(flat, 0);
}

void expect_no_error(const OpCase& op_case, const std::function<void()>& body) {
  try {
    body();
  } catch (const ft::Error& error) {
    FAIL_CHECK(op_case.name << ": " << std::string(error.what()));
  }
}

}  // namespace

TEST_CASE(
    "f32: every mode agrees with the reference; fused, eager and repeated runs with unfused to the bit") {
  for (const OpCase& op_case : all_cases()) {
    const Outcome expected = run(op_case, DType::f32, oracle);
    const Outcome plain = run(op_case, DType::f32, unfused), together = run(op_case, DType::f32, fused);
    compare(op_case, unfused.name, plain, expected, op_case.flags.tolerance);
    compare(op_case, fused.name, together, expected, op_case.flags.tolerance);
    compare(op_case, fused_oracle.name, run(op_case, DType::f32, fused_oracle), expected, 0);
    compare(op_case, "cpu, fused beside unfused", together, plain, op_case.flags.same_bits ? 0 : 2e-6);
    compare(op_case, "cpu, eager beside unfused", run(op_case, DType::f32, eager), plain, 0);
    compare(op_case, "cpu, fused again", run(op_case, DType::f32, fused), together, 0);
    for (const std::string& group : op_case.flags.groups) {
      const bool found = together.groups.count(group) > 0;
      if (!found) FAIL_CHECK(op_case.name << ": no group " << group << " in the fused plan");
    }
  }
}

TEST_CASE("f64, bf16, f16: the CPU agrees with the reference") {
  const std::pair<DType, double> dtypes[] = {{DType::f64, 1e-12}, {DType::bf16, 0.04}, {DType::f16, 0.005}};
  for (const OpCase& op_case : all_cases()) {
    if (input_elements(op_case) > 2000) continue;
    for (const auto& [dtype, tolerance] : dtypes) {
      if (op_case.flags.wide_only && dtype != DType::f64) continue;
      expect_no_error(op_case, [&] {
        const Outcome expected = run(op_case, dtype, oracle);
        const Outcome plain = run(op_case, dtype, unfused), together = run(op_case, dtype, fused);
        const std::string name(name_of(dtype));
        compare(op_case, name + ", unfused", plain, expected, tolerance);
        compare(op_case, name + ", fused", together, expected, tolerance);
        if (dtype == DType::bf16 && op_case.flags.same_bits_bf16) {
          compare(op_case, "bf16, fused beside unfused", together, plain, 0);
        }
      });
    }
  }
}

TEST_CASE("Winograd: whatever rides in the transforms, the CPU agrees with the reference") {
  const ConvBy winograd(ft::ConvAlgorithm::winograd);
  std::vector<OpCase> cases = carried_cases();
  for (OpCase& op_case : split_norm_cases()) cases.push_back(std::move(op_case));
  for (const OpCase& op_case : cases) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      if (op_case.flags.wide_only && dtype != DType::f32) continue;
      expect_no_error(op_case, [&] {
        const Outcome plain = run(op_case, dtype, unfused), together = run(op_case, dtype, fused);
        const std::string name(name_of(dtype));
        // In bf16 a rounding turns many a ReLU on or off, in either backend.
        if (dtype == DType::f32) compare(op_case, "f32, fused", together, run(op_case, dtype, oracle), 2e-5);
        compare(op_case, name + ", fused beside unfused", together, plain, dtype == DType::f32 ? 2e-5 : 0.05);
        compare(op_case, name + ", fused again", run(op_case, dtype, fused), together, 0);
        for (const std::string& group : op_case.flags.groups) {
          const bool found = together.groups.count(group) > 0;
          if (!found) FAIL_CHECK(op_case.name << ": no group " << group << " in the fused plan");
        }
      });
    }
  }
}

TEST_CASE("bf16, large: fused runs agree with unfused ones to the bit") {
  for (const OpCase& op_case : all_cases()) {
    if (input_elements(op_case) <= 2000 || !op_case.flags.same_bits_bf16) continue;
    expect_no_error(op_case, [&] {
      compare(op_case, "bf16, fused beside unfused", run(op_case, DType::bf16, fused),
              run(op_case, DType::bf16, unfused), 0);
    });
  }
}

TEST_CASE("gradients are those of finite differences") {
  for (const OpCase& op_case : all_cases()) {
    if (!op_case.flags.differentiable || !op_case.flags.smooth || input_elements(op_case) > 300) continue;
    expect_no_error(op_case, [&] { ft::gradcheck(as_function(op_case), differentiable_inputs(op_case)); });
  }
}

TEST_CASE("gradients of gradients are those of finite differences") {
  for (const OpCase& op_case : all_cases()) {
    if (!op_case.flags.differentiable || !op_case.flags.smooth || input_elements(op_case) > 100) continue;
    expect_no_error(op_case, [&] {
      ft::gradcheck([&](const Inputs& variables) { return gradients_of(op_case, variables); },
                    differentiable_inputs(op_case));
    });
  }
}

TEST_CASE("every op has a case") {
  const OnBackend backend("reference");
  const Fusion fusion(false);
  Outcome seen;
  for (const OpCase& op_case : all_cases()) {
    if (op_case.flags.differentiable && input_elements(op_case) > 300) continue;
    seen.groups.merge(run(op_case, DType::f32, oracle).groups);
    if (!op_case.flags.differentiable) continue;
    Inputs variables;
    for (const Tensor& input : differentiable_inputs(op_case)) variables.push_back(ft::variable(input));
    const Tensor gradients = gradients_of(op_case, variables);
    if (gradients.requires_grad()) ft::materialize({ft::grad({ft::sum(gradients)}, variables)[0]});
    collect_groups(seen);
  }
  for (const ft::core::OpDef* op : ft::core::all_ops()) {
    const std::string name(op->name);
    if (!op->view && seen.groups.count(name) == 0) FAIL_CHECK("no case runs " << name);
  }
}
