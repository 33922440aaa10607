// The table of op cases on the CUDA backend: on a host that plays the device, and on a device where there is
// one.
#include <doctest/doctest.h>

#include "backends.hpp"
#include "on_double.hpp"
#include "tests/ops/op_runs.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;

namespace {

/// The CUDA backend on a host that plays the device, or on a device.
struct Device {
  Mode unfused, fused;
};
constexpr Device host_device{{"cuda, unfused", "cuda double", false, false},
                             {"cuda, fused", "cuda double", true, false}};
constexpr Device real_device{{"cuda, unfused", "cuda", false, false}, {"cuda, fused", "cuda", true, false}};

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

void check(const OpCase& op_case, DType dtype, const Device& device) {
  expect_no_error(op_case, [&] {
    const CaseOutcome expected = run(op_case, dtype, oracle);
    const double tolerance = tolerance_of(op_case, dtype);
    const std::string name(name_of(dtype));
    const CaseOutcome apart = run(op_case, dtype, device.unfused);
    compare(op_case, name + " on cuda, unfused", apart, expected, tolerance);
    expect_on_device(op_case, apart);
    const CaseOutcome together = run(op_case, dtype, device.fused);
    compare(op_case, name + " on cuda, fused", together, expected, tolerance);
    expect_on_device(op_case, together);
    compare(op_case, name + " on cuda, fused again", run(op_case, dtype, device.fused), together, 0);
  });
}

/// What a host plays in reasonable time.
bool small_enough(const OpCase& op_case, DType dtype) {
  if (dtype == DType::f32) return input_elements(op_case) <= 3000;
  return input_elements(op_case) <= 300 && !op_case.flags.wide_only;
}

/// What is left for a device, which takes all of them.
bool large(const OpCase& op_case, DType dtype) {
  return !small_enough(op_case, dtype) && (dtype == DType::f32 || !op_case.flags.wide_only);
}

void check_on_device(bool (*chosen)(const OpCase&, DType)) {
  const std::string reason = why_no_cuda();
  int cases = 0;
  for (const OpCase& op_case : all_cases()) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      if (!chosen(op_case, dtype)) continue;
      ++cases;
      if (reason.empty()) check(op_case, dtype, real_device);
    }
  }
  CHECK(cases > 0);
  if (!reason.empty()) MESSAGE("skipped " << cases << " op cases: " << reason);
}

}  // namespace

TEST_CASE("cuda on a host double: f32 agrees with the reference, again to the bit") {
  host_double();
  for (const OpCase& op_case : all_cases()) {
    if (small_enough(op_case, DType::f32)) check(op_case, DType::f32, host_device);
  }
}

TEST_CASE("cuda on a host double: bf16 and f16 agree with the reference") {
  host_double();
  for (const OpCase& op_case : all_cases()) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      if (small_enough(op_case, dtype)) check(op_case, dtype, host_device);
    }
  }
}

// benchmarks/gpu.sh runs these under compute-sanitizer.
TEST_CASE("cuda on a device, small cases: every dtype agrees with the reference, again to the bit") {
  check_on_device(small_enough);
}

TEST_CASE("cuda on a device, large cases: every dtype agrees with the reference, again to the bit") {
  check_on_device(large);
}
