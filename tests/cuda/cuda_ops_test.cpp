// The table of op cases on the CUDA backend: on a host that plays the device, and on a device where there is
// one.
#include <doctest/doctest.h>

#include "on_double.hpp"
#include "op_runs.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;

namespace {

constexpr Mode unfused_device{"cuda, unfused", "cuda double", false, false};
constexpr Mode fused_device{"cuda, fused", "cuda double", true, false};

/// Sums of f32 in another order than the CPU's, and exp and its kin as a device computes them.
constexpr double tolerance_of(const OpCase& op_case, DType dtype) {
  if (dtype == DType::f32) return std::max(op_case.flags.tolerance, 1e-5);
  return dtype == DType::bf16 ? 0.04 : 0.005;
}

/// What has to run on the device: every group that begins with one of these ops, or has this very name.
const std::set<std::string> on_device{
    "conv2d",     "conv2d_grad_input", "conv2d_grad_weight",
    "matmul",     "relu_mask",         "relu_grad_mask",
    "max_pool2d", "max_pool2d_grad",   "max_pool2d_gather",
    "avg_pool2d", "avg_pool2d_grad",   "relu_grad+bias_grad",
};

void expect_on_device(const OpCase& op_case, const CaseOutcome& outcome) {
  for (const auto& [group, kernels] : outcome.kernels) {
    if (!on_device.contains(group) && !on_device.contains(group.substr(0, group.find('+')))) continue;
    for (const std::string& kernel : kernels) {
      if (kernel.starts_with("host:")) FAIL_CHECK(op_case.name << ": " << group << " runs on the host");
    }
  }
}

void check(const OpCase& op_case, DType dtype) {
  expect_no_error(op_case, [&] {
    const CaseOutcome expected = run(op_case, dtype, oracle);
    const double tolerance = tolerance_of(op_case, dtype);
    const std::string name(name_of(dtype));
    const CaseOutcome apart = run(op_case, dtype, unfused_device);
    compare(op_case, name + " on cuda, unfused", apart, expected, tolerance);
    expect_on_device(op_case, apart);
    const CaseOutcome together = run(op_case, dtype, fused_device);
    compare(op_case, name + " on cuda, fused", together, expected, tolerance);
    expect_on_device(op_case, together);
    compare(op_case, name + " on cuda, fused again", run(op_case, dtype, fused_device), together, 0);
  });
}

}  // namespace

TEST_CASE("cuda on a host double: f32 agrees with the reference, again to the bit") {
  host_double();
  for (const OpCase& op_case : all_cases()) {
    if (input_elements(op_case) <= 3000) check(op_case, DType::f32);
  }
}

TEST_CASE("cuda on a host double: bf16 and f16 agree with the reference") {
  host_double();
  for (const OpCase& op_case : all_cases()) {
    if (input_elements(op_case) > 300 || op_case.flags.wide_only) continue;
    check(op_case, DType::bf16);
    check(op_case, DType::f16);
  }
}
