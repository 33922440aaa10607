#include "device_cases.hpp"

namespace fusetape::tests {

void check_on_device(const OpCase& op_case) {
  static_cast<void>(host_double());
  const Mode on_double{"cuda", "cuda double", true, false};
  for (const auto& row : {std::pair{DType::f32, 1e-5}, {DType::bf16, 0.04}, {DType::f16, 0.005}}) {
    const auto& dtype = row.first;
    const auto& tolerance = row.second;
    expect_no_error(op_case, [&] {
      const CaseOutcome got = run(op_case, dtype, on_double);
      compare(op_case, std::string(name_of(dtype)), got, run(op_case, dtype, oracle), tolerance);
      for (const std::string& group : op_case.flags.groups) {
        CAPTURE(op_case.name);
        REQUIRE(got.groups.contains(group));
        for (const std::string& kernel : got.kernels.at(group)) CHECK_FALSE(contains(kernel, "host:"));
      }
    });
  }
}

}  // namespace fusetape::tests
