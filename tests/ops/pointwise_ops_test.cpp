// Every pointwise op has a kernel of each device's own that runs it by itself, where it is not whole numbers.
// (That the numbers are those of the reference is checked on the same cases in ops_test.cpp and
// cuda/cuda_ops_test.cpp.)
#include <doctest/doctest.h>

#include <algorithm>

#include "backends.hpp"
#include "core/op/op.hpp"
#include "tests/ops/op_runs.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;

namespace {

/// What ran each op of the table's cases on a backend, one by one, in forward and backward.
std::map<std::string, std::set<std::string>> kernels_on(const char* backend, DType dtype) {
  const OnBackend on(backend);
  const Fusion unfused(false);
  CaseOutcome outcome;
  for (const auto family : {pointwise_cases, layer_cases, tensor_cases}) {
    for (const OpCase& op_case : family()) {
      if (input_elements(op_case) > 300 || (op_case.flags.wide_only && dtype != DType::f32)) continue;
      run_together(op_case, dtype);
      collect_groups(outcome);
    }
  }
  return outcome.kernels;
}

}  // namespace

TEST_CASE("every pointwise op runs by itself in a kernel of every device's own") {
  struct Device {
    const char* backend;
    const char* kernel;
  };
  std::vector<Device> devices{{"cpu", "highway:pointwise"}};
  if (has_cuda_double()) devices.push_back({"cuda double", "nvrtc:pointwise"});
  for (const Device& device : devices) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const std::map<std::string, std::set<std::string>> kernels = kernels_on(device.backend, dtype);
      for (const ft::core::OpDef* op : ft::core::all_ops()) {
        if (op->pointwise == nullptr) continue;
        const auto found = kernels.find(std::string(op->name));
        const bool runs = found != kernels.end() && std::any_of(found->second.begin(), found->second.end(),
                                                                [&](const std::string& kernel) {
                                                                  return kernel.starts_with(device.kernel);
                                                                });
        CHECK_MESSAGE(runs, std::string(op->name) << " on " << std::string(device.backend) << " in "
                                                  << std::string(name_of(dtype)));
      }
    }
  }
}
