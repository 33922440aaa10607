#pragma once
#include <doctest/doctest.h>

#include "backends/cuda/kernels/all.hpp"
#include "on_double.hpp"
#include "tests/ops/op_runs.hpp"

/// Op cases for the kernels of the device.
namespace fusetape::tests {

/// For cases without gradients, with the groups that have to be.
inline Flags forward_only(std::vector<std::string> groups) {
  return {.differentiable = false, .groups = std::move(groups)};
}

/// Compares the case on the host double with the reference, fused, in f32, bf16 and f16; fails where a group
/// of its flags is not there, or runs on the host.
void check_on_device(const OpCase& op_case);

/// Fails where the device has not run one of these kernels, at some time.
template <class... K>
void expect_run(backends::cuda::KernelList<K...>) {
  const std::set<std::string> ran = host_double().kernels_run();
  for (const std::string& name : {K::name()...}) CHECK_MESSAGE(ran.contains(name), name);
}

}  // namespace fusetape::tests
