// Every public op and every fusible composition of op_cases.hpp: backends, fusion, eager mode and dtypes
// against the reference; gradients against finite differences, once and twice.
#include <doctest/doctest.h>

#include "core/op/op.hpp"
#include "tests/ops/op_runs.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Tensor;

namespace {

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

}  // namespace

TEST_CASE(
    "f32: every mode agrees with the reference; fused, eager and repeated runs with unfused to the bit") {
  for (const OpCase& op_case : all_cases()) {
    const CaseOutcome expected = run(op_case, DType::f32, oracle);
    const CaseOutcome plain = run(op_case, DType::f32, unfused), together = run(op_case, DType::f32, fused);
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
    for (const auto& row : dtypes) {
      const auto& dtype = row.first;
      const auto& tolerance = row.second;
      if (op_case.flags.wide_only && dtype != DType::f64) continue;
      expect_no_error(op_case, [&] {
        const CaseOutcome expected = run(op_case, dtype, oracle);
        const CaseOutcome plain = run(op_case, dtype, unfused), together = run(op_case, dtype, fused);
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
        const CaseOutcome plain = run(op_case, dtype, unfused), together = run(op_case, dtype, fused);
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
  CaseOutcome seen;
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
