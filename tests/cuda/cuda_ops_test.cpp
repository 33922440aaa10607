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

void check(const OpCase& op_case, DType dtype) {
  expect_no_error(op_case, [&] {
    const Outcome expected = run(op_case, dtype, oracle);
    const double tolerance = tolerance_of(op_case, dtype);
    const std::string name(name_of(dtype));
    compare(op_case, name + " on cuda, unfused", run(op_case, dtype, unfused_device), expected, tolerance);
    const Outcome together = run(op_case, dtype, fused_device);
    compare(op_case, name + " on cuda, fused", together, expected, tolerance);
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
