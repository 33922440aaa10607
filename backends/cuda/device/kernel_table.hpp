#pragma once
#include <string_view>
#include <vector>

#include "backends/cuda/phases.hpp"

namespace fusetape::backends::cuda {

/// A kernel and its code on the device, as cudaLaunchKernel takes it.
struct DeviceFunction {
  const KernelEntry* entry = nullptr;
  const void* function = nullptr;
};

// Of the lists in kernels/all.hpp, each compiled in a file of its own.
std::vector<DeviceFunction> f32_kernels();
std::vector<DeviceFunction> bf16_kernels();
std::vector<DeviceFunction> f16_kernels();
std::vector<DeviceFunction> other_kernels();

/// All of them: AllKernels.
const std::vector<DeviceFunction>& device_functions();

/// Null where no kernel has that name.
const void* device_function(std::string_view name);

}  // namespace fusetape::backends::cuda
